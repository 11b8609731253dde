//! Network namespaces: one for each node, and a hub with a bridge, in which this program runs.
//!
//! All are named by the process that made them, so that the next run knows what dead runs have left behind.

use crate::shell::run;
use std::path::{Path, PathBuf};

const PREFIX: &str = "hwchaos-";
/// Part of the file name of a run's folder, too.
const FOLDER: &str = "highwater-chaos-";
const MEMORY: &str = "/dev/shm";

pub fn hub(pid: u32) -> String {
    format!("{PREFIX}{pid}-hub")
}

pub fn of_node(pid: u32, node: u16) -> String {
    format!("{PREFIX}{pid}-n{node}")
}

/// The folder of the run of process `pid`.
pub fn folder(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{FOLDER}{pid}"))
}

/// Where the power-cut layer writes of the run with this folder: in memory, where there is such a place. A node writes
/// nothing before its journal has it, so a disk that stalls would stop even those whose data is elsewhere.
pub fn journals(folder: &Path) -> PathBuf {
    match folder.file_name() {
        Some(name) if Path::new(MEMORY).is_dir() => Path::new(MEMORY).join(name),
        _ => folder.join("journals"),
    }
}

pub fn make(pid: u32, nodes: u16) -> anyhow::Result<()> {
    let hub = hub(pid);
    run(&format!("ip netns add {hub}"))?;
    run(&format!("ip -n {hub} link set lo up"))?;
    run(&format!("ip -n {hub} link add br0 type bridge"))?;
    run(&format!("ip -n {hub} addr add {}/24 dev br0", super::network::HUB))?;
    run(&format!("ip -n {hub} link set br0 up"))?;
    for node in 1..=nodes {
        let name = of_node(pid, node);
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip -n {hub} link add v{node} type veth peer name eth0 netns {name}"))?;
        run(&format!("ip -n {hub} link set v{node} master br0 up"))?;
        run(&format!("ip -n {name} addr add 10.77.0.{node}/24 dev eth0"))?;
        run(&format!("ip -n {name} link set eth0 up"))?;
        run(&format!("ip -n {name} link set lo up"))?;
    }
    Ok(())
}

/// Removes what process `pid` has made, as far as it is there.
pub fn remove(pid: u32) {
    for name in list().into_iter().filter(|name| owner(name, PREFIX) == Some(pid)) {
        if let Err(error) = run(&format!("ip netns delete {name}")) {
            eprintln!("namespace {name} is left behind: {error:#}");
        }
    }
    remove_folder(&journals(&folder(pid)));
    remove_folder(&folder(pid));
}

/// Removes what runs have left behind whose process is gone.
pub fn remove_leftovers() {
    for pid in list().iter().filter_map(|name| owner(name, PREFIX)).filter(|pid| !is_alive(*pid)) {
        remove(pid);
    }
    let places = [std::env::temp_dir(), PathBuf::from(MEMORY)];
    for entry in places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| owner(name, FOLDER))
            && !is_alive(pid)
        {
            remove_folder(&entry.path());
        }
    }
}

fn list() -> Vec<String> {
    let Ok(names) = run("ip netns list") else { return Vec::new() };
    names.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect()
}

fn owner(name: &str, prefix: &str) -> Option<u32> {
    let rest = name.strip_prefix(prefix)?;
    rest.split('-').next()?.parse().ok()
}

/// A process of this number runs, and is this program.
fn is_alive(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(program).rsplit('/').next() == Some(env!("CARGO_PKG_NAME"))
}

/// Mounts in it belong to the namespaces of its processes, and are gone with them.
fn remove_folder(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("{} is left behind: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner_and_this_test_is_not_a_run() {
        assert_eq!(owner(&hub(12), PREFIX), Some(12));
        assert_eq!(owner(&of_node(12, 3), PREFIX), Some(12));
        assert_eq!(owner("somebody-elses", PREFIX), None);
        assert!(!is_alive(1) && !is_alive(u32::MAX));
    }
}
