//! The compose file is run for real: see `tests/compose.sh`.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the platform seam")]

mod support;

use support::{have, run};

#[test]
fn the_compose_cluster_survives_docker_kill() {
    let is_root = run("id", &["-u"]).stdout().trim() == "0";
    assert!(is_root || !support::in_ci(), "the compose test needs root in CI");
    if !is_root {
        eprintln!("\n*** SKIPPED: the compose test starts a docker engine and needs root ***\n");
        return;
    }
    for (tool, arguments) in
        [("dockerd", "--version"), ("docker-compose", "--version"), ("debootstrap", "--version"), ("kcat", "-V")]
    {
        if !have(tool, &[arguments]) {
            return;
        }
    }
    let release = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/highwater");
    let binary = if std::path::Path::new(release).exists() { release } else { support::HIGHWATER };
    let finished = run(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compose.sh"), &[binary]);
    finished.assert_ok("compose.sh");
    eprintln!("{}", finished.stdout());
}
