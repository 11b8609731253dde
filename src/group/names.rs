//! One copy of each name: a million offsets are about a few thousand topics and groups.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// Below this nothing is looked through for names that nobody uses.
const KEPT_MIN: usize = 1_024;

/// Bound: about twice the names in use. Names in use are bounded by whoever holds them.
#[derive(Default)]
pub struct Names {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    names: HashSet<Arc<str>>,
    /// Names that are only here go once there are more than this.
    sweep_at: usize,
}

impl Names {
    /// The shared copy of `name`.
    pub fn share(&self, name: &str) -> Arc<str> {
        let mut kept = self.kept.lock();
        if let Some(shared) = kept.names.get(name) {
            return shared.clone();
        }
        if kept.names.len() >= kept.sweep_at.max(KEPT_MIN) {
            kept.names.retain(|name| Arc::strong_count(name) > 1);
            kept.sweep_at = 2 * kept.names.len();
        }
        let shared: Arc<str> = name.into();
        kept.names.insert(shared.clone());
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_goes_when_nobody_uses_it() {
        let names = Names::default();
        let (one, other) = (names.share("orders"), names.share("orders"));
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..10 * KEPT_MIN {
            names.share(&format!("passing-{number}"));
        }
        assert!(names.kept.lock().names.len() <= KEPT_MIN);
        assert!(Arc::ptr_eq(&one, &names.share("orders")), "in use, so it stayed");
    }
}
