//! Node processes: started, found again by pid file, proven by their command line, signalled.
//!
//! A pid names a process only until it ends. So a signal goes through a pidfd that was opened before the command line
//! was checked: it reaches that process or none.

use super::folder::Folder;
use crate::platform::disk;
use anyhow::Context;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Variables with this prefix configure a node; those of the caller's shell are not meant for these nodes.
const VARIABLES: &str = "HIGHWATER_";
const LOG_VARIABLE: &str = "HIGHWATER_LOG";
/// One a millisecond.
const COMMAND_LINE_LOOKS: u32 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Running,
    Paused,
}

/// A node's process, known to have been this node's when it was found.
#[derive(Debug)]
pub struct Running {
    pub pid: Pid,
    handle: OwnedFd,
}

/// The process of `node`, if it runs. A pid file whose process is gone, or is another by now, counts for nothing.
pub fn find(folder: &Folder, node: u16) -> anyhow::Result<Option<Running>> {
    let path = folder.pid(node);
    let text = disk::read_file(&path).with_context(|| path.display().to_string())?.unwrap_or_default();
    let Some(pid) = parse_pid(&text) else { return Ok(None) };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    let command = command_line(pid);
    Ok(is_node(&command, &folder.config(node)).then_some(Running { pid, handle }))
}

fn parse_pid(text: &[u8]) -> Option<Pid> {
    let number: i32 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    if number > 1 { Pid::from_raw(number) } else { None }
}

/// The command line. For a moment after a program has begun the kernel shows none: only a process without one that has
/// ended, or that keeps having none, is nobody's node.
fn command_line(pid: Pid) -> Vec<u8> {
    for _ in 0..COMMAND_LINE_LOOKS {
        let command = proc_file(pid, "cmdline");
        if !command.is_empty() || has_ended(&proc_file(pid, "stat")) {
            return command;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// Gone, or ended and waiting for its parent to notice.
fn has_ended(stat: &[u8]) -> bool {
    matches!(state_letter(stat), None | Some(b'Z' | b'X'))
}

/// Empty once the process is gone.
fn proc_file(pid: Pid, name: &str) -> Vec<u8> {
    let path = PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()));
    disk::read_file(&path).ok().flatten().unwrap_or_default()
}

/// Whether `command` (arguments, each ended by a zero byte) is this program serving that configuration.
fn is_node(command: &[u8], config: &Path) -> bool {
    let arguments: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let program = arguments.first().and_then(|program| Path::new(OsStr::from_bytes(program)).file_name());
    program == Some(OsStr::new(env!("CARGO_PKG_NAME")))
        && arguments.get(1) == Some(&&b"serve"[..])
        && arguments.windows(2).any(|pair| pair[0] == b"--config" && pair[1] == config.as_os_str().as_bytes())
}

impl Running {
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            // It ended meanwhile.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid.as_raw_nonzero())),
        }
    }

    pub fn state(&self) -> RunState {
        state_of(&proc_file(self.pid, "stat"))
    }

    fn is_gone(&self) -> bool {
        has_ended(&proc_file(self.pid, "stat"))
    }

    /// Waits until the process has ended; false at the deadline.
    pub async fn gone(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        while !self.is_gone() {
            if Instant::now() >= until {
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// The letter after the name, which stands in parentheses and may itself hold any.
fn state_letter(stat: &[u8]) -> Option<u8> {
    let after = stat.iter().rposition(|byte| *byte == b')').map(|at| &stat[at + 1..])?;
    after.iter().find(|byte| **byte != b' ').copied()
}

fn state_of(stat: &[u8]) -> RunState {
    match state_letter(stat) {
        Some(b'T') => RunState::Paused,
        _ => RunState::Running,
    }
}

/// Starts a node in a process group of its own (Ctrl-C is for the caller, who stops the node in its own way), its
/// output to its log. With `parent` it dies with that process.
pub fn spawn(folder: &Folder, node: u16, parent: Option<u32>) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this executable")?;
    let path = folder.log(node);
    let log = disk::append_to(&path).with_context(|| path.display().to_string())?;
    let also = log.try_clone().with_context(|| path.display().to_string())?;
    let mut command = Command::new(&program);
    command.arg("serve").arg("--config").arg(folder.config(node));
    if let Some(parent) = parent {
        command.arg("--parent").arg(parent.to_string());
    }
    for (name, _) in std::env::vars_os() {
        let ours = name.as_bytes().starts_with(VARIABLES.as_bytes()) && name != LOG_VARIABLE;
        if ours {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null()).stdout(log).stderr(also).current_dir(folder.node(node)).process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let path = folder.pid(node);
    disk::write_atomic(&path, format!("{}\n", child.id()).as_bytes()).with_context(|| path.display().to_string())?;
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "/d/node-1/highwater.toml";

    fn command(arguments: &[&str]) -> Vec<u8> {
        arguments.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect()
    }

    #[test]
    fn a_process_without_a_command_line_yet_has_not_ended() {
        assert!(!has_ended(b"12 (highwater) R 1 12 12 0"));
        assert!(!has_ended(b"12 (odd) Z) S 1 12 12 0"), "the name may hold anything");
        assert!(has_ended(b"12 (highwater) Z 1 12 12 0"));
        assert!(has_ended(b""), "gone");
    }

    #[test]
    fn only_this_program_serving_this_configuration_is_the_node() {
        let is = |arguments: &[&str]| is_node(&command(arguments), Path::new(CONFIG));
        assert!(is(&["/x/target/debug/highwater", "serve", "--config", CONFIG]));
        assert!(is(&["highwater", "serve", "--config", CONFIG, "--parent", "7"]));
        assert!(!is(&["/x/highwater", "serve", "--config", "/d/node-2/highwater.toml"]), "another node");
        assert!(!is(&["/x/highwater", "dev", "--config", CONFIG]), "another command");
        assert!(!is(&["/usr/bin/vim", "serve", "--config", CONFIG]), "another program");
        assert!(!is(&["/usr/bin/less", CONFIG]));
        assert!(!is(&[]), "a process that has ended");
    }

    #[test]
    fn a_reused_pid_is_not_taken_for_the_node() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder { root: place.path().to_path_buf() };
        disk::create_dir_all(&folder.node(1)).unwrap();
        assert!(find(&folder, 1).unwrap().is_none(), "no pid file");
        // This test's own process: alive, and not a node.
        disk::write_atomic(&folder.pid(1), std::process::id().to_string().as_bytes()).unwrap();
        assert!(find(&folder, 1).unwrap().is_none());
        for nonsense in ["", "-1", "0", "1", "no", "99999999999"] {
            disk::write_atomic(&folder.pid(1), nonsense.as_bytes()).unwrap();
            assert!(find(&folder, 1).unwrap().is_none(), "{nonsense}");
        }
    }

    #[test]
    fn a_stopped_process_is_told_from_a_running_one_by_any_name() {
        assert_eq!(state_of(b"12 (high) T (x) S 1 1"), RunState::Running);
        assert_eq!(state_of(b"12 (highwater) T 1 1"), RunState::Paused);
        assert_eq!(state_of(b""), RunState::Running);
    }
}
