//! What this node says of itself: `/readyz`, gRPC health and the log all read it here.

use std::fmt;
use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Not serving clients yet, and what it waits for.
    Starting(String),
    Ready,
    /// Not serving clients any more, and what it still does.
    Stopping(String),
}

impl HealthState {
    pub fn is_ready(&self) -> bool {
        matches!(self, HealthState::Ready)
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthState::Starting(reason) => write!(f, "starting: {reason}"),
            HealthState::Ready => f.write_str("ready"),
            HealthState::Stopping(reason) => write!(f, "stopping: {reason}"),
        }
    }
}

/// Cheap to clone; all clones speak of the same node. Invariant: a node that is stopping never says ready again.
#[derive(Clone)]
pub struct Health {
    state: watch::Sender<HealthState>,
}

impl Default for Health {
    fn default() -> Self {
        Health { state: watch::Sender::new(HealthState::Starting("the process has just begun".to_string())) }
    }
}

impl Health {
    pub fn watch(&self) -> watch::Receiver<HealthState> {
        self.state.subscribe()
    }

    pub fn starting(&self, reason: impl Into<String>) {
        self.set(HealthState::Starting(reason.into()));
    }

    pub fn ready(&self) {
        self.set(HealthState::Ready);
    }

    pub fn stopping(&self, reason: impl Into<String>) {
        self.set(HealthState::Stopping(reason.into()));
    }

    fn set(&self, new: HealthState) {
        self.state.send_if_modified(|state| {
            let stopping = matches!(state, HealthState::Stopping(_)) && !matches!(new, HealthState::Stopping(_));
            let changed = !stopping && *state != new;
            if changed {
                tracing::info!("{new}");
                *state = new;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopping_node_is_never_ready_again() {
        let health = Health::default();
        assert!(!health.watch().borrow().is_ready());
        health.ready();
        assert!(health.watch().borrow().is_ready());
        health.stopping("handing over leaders");
        health.ready();
        assert_eq!(*health.watch().borrow(), HealthState::Stopping("handing over leaders".into()));
    }
}
