//! Deliberate bugs, for proving that the chaos program catches them. In a binary built without the feature `chaos-bugs`
//! [`is`] is the constant false, and nothing below the call sites' `if` is compiled in.

/// What may be broken on purpose, one at a time, by the variable `HIGHWATER_CHAOS_BUG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// acks=all is answered as soon as the leader has the records.
    AckBeforeIsr,
    /// A replica that diverged keeps its records.
    NoTruncation,
    /// Replicas count as synced what they never synced.
    NoFsync,
    /// A leader shrinks the ISR by itself, to any size, and nobody's leader epoch is checked: once deposed, or cut off
    /// from the controller, it goes on acknowledging.
    FenceWithoutEpoch,
    /// Consumers are given records above the high watermark.
    HighWatermarkJumps,
    /// Followers and recovery don't learn what idempotent producers have sent, and whoever is unknown may begin anywhere.
    ForgetProducerState,
    /// Offsets are taken from anyone, whoever is a member of the group and in whatever generation.
    ZombieCommits,
}

/// Whether this process has that bug.
#[cfg(not(feature = "chaos-bugs"))]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(not(feature = "chaos-bugs"))]
const _: () = assert!(!is(Bug::AckBeforeIsr), "known when compiling: a branch on it is no code");

#[cfg(feature = "chaos-bugs")]
pub use chosen::{is, start};

#[cfg(feature = "chaos-bugs")]
mod chosen {
    use super::Bug;
    use std::sync::OnceLock;

    const VARIABLE: &str = "HIGHWATER_CHAOS_BUG";
    const NAMES: [(&str, Bug); 7] = [
        ("ack-before-isr", Bug::AckBeforeIsr),
        ("no-truncation", Bug::NoTruncation),
        ("no-fsync", Bug::NoFsync),
        ("fence-without-epoch", Bug::FenceWithoutEpoch),
        ("hw-jumps", Bug::HighWatermarkJumps),
        ("forget-producer-state", Bug::ForgetProducerState),
        ("zombie-commits", Bug::ZombieCommits),
    ];

    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();

    /// Whether this process has that bug.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(&Some(bug))
    }

    /// Chooses by the environment, once `wanted` by the flag. The error tells what to do.
    pub fn start(wanted: bool) -> Result<(), String> {
        if !wanted {
            return Err(
                "this binary was built with deliberate bugs (feature chaos-bugs) and does not serve; build it \
                        without the feature, or give --i-want-chaos-bugs and never any data that matters"
                    .to_string(),
            );
        }
        let name = std::env::var_os(VARIABLE).map(|name| name.to_string_lossy().into_owned());
        let bug = named(name.as_deref())?;
        tracing::warn!(?bug, "this binary has deliberate bugs: it loses data on purpose");
        let _ = CHOSEN.set(bug);
        Ok(())
    }

    /// No name, or an empty one: no bug.
    fn named(name: Option<&str>) -> Result<Option<Bug>, String> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug);
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        known.map(Some).ok_or_else(|| format!("{VARIABLE}: '{name}' is none of {}", names.join(", ")))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_bug_is_chosen_by_name() {
            assert_eq!(named(None), Ok(None));
            assert_eq!(named(Some("")), Ok(None));
            assert_eq!(named(Some("no-fsync")), Ok(Some(Bug::NoFsync)));
            assert!(named(Some("no-sleep")).unwrap_err().contains("ack-before-isr, no-truncation"));
        }

        #[test]
        fn without_the_flag_it_does_not_serve() {
            assert!(start(false).unwrap_err().contains("--i-want-chaos-bugs"));
        }
    }
}
