//! The programs in tests/clients, ready to be run.

use super::support::{have, run};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

fn clients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// What was built for the tests, kept from run to run.
fn built() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clients")
}

fn build(what: &str) {
    let (script, folder) = (clients().join("build"), built());
    run("sh", &[script.to_str().expect("utf-8 path"), what, folder.to_str().expect("utf-8 path")]).assert_ok(what);
}

/// A python program, if the module it needs is there.
pub fn python(script: &str, module: &str) -> Option<Command> {
    if !have("python3", &["-c", &format!("import {module}")]) {
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(clients().join(script));
    Some(command)
}

/// The Go member, if there is a Go to build it.
pub fn go_member() -> Option<Command> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let is_built = *BUILT.get_or_init(|| {
        let have_go = have("go", &["version"]);
        if have_go {
            build("go");
        }
        have_go
    });
    is_built.then(|| Command::new(built().join("go-member")))
}

/// A Java class of ours or of Kafka's jars, if there are a JDK and Maven.
pub fn java(class: &str) -> Option<Command> {
    static CLASSPATH: OnceLock<Option<String>> = OnceLock::new();
    let classpath = CLASSPATH.get_or_init(|| {
        if !have("javac", &["-version"]) || !have("mvn", &["-version"]) {
            return None;
        }
        build("java");
        let jars = std::fs::read_to_string(built().join("classpath")).expect("the build wrote it");
        Some(format!("{}:{}", built().join("classes").display(), jars.trim()))
    });
    let mut command = Command::new("java");
    // Small, and quick to start rather than quick.
    command.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath.as_ref()?]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", class]);
    Some(command)
}
