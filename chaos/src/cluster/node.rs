//! One node's process. It dies with this program: `serve --parent` asks the kernel for that.

use super::layout::{Layout, NodeId};
use super::namespaces;
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How nodes are started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub binary: PathBuf,
    /// Built with deliberate bugs: it serves only if asked for them.
    pub has_bugs: bool,
    /// The one to turn on.
    pub bug: Option<String>,
    /// Library to preload.
    pub preload: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    child: Option<Child>,
    paused: bool,
    /// Asked to stop: its end is expected.
    stopping: bool,
    /// Its log, and how long that was when it was started.
    log: (PathBuf, u64),
}

impl Node {
    pub fn new(id: NodeId) -> Node {
        Node { id, child: None, paused: false, stopping: false, log: (PathBuf::new(), 0) }
    }

    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Must be called on the thread that lives longest: the kernel kills the node when the starting *thread* ends.
    pub fn start(&mut self, layout: &Layout, launch: &Launch) -> anyhow::Result<()> {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let path = layout.log(self.id);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        self.log = (path, log.metadata()?.len());
        let mut command = match layout.network_of {
            None => Command::new("env"),
            Some(pid) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespaces::of_node(pid, self.id), "env"]);
                command
            }
        };
        if let Some(library) = &launch.preload {
            let journal = journal(layout, self.id);
            std::fs::create_dir_all(&journal)?;
            for (name, value) in powercut::environment(library, &journal, &layout.data(self.id)) {
                let mut word = std::ffi::OsString::from(format!("{name}="));
                word.push(value);
                command.arg(word);
            }
        }
        if let Some(bug) = &launch.bug {
            command.arg(format!("HIGHWATER_CHAOS_BUG={bug}"));
        }
        command.arg(&launch.binary).arg("serve").arg("--config").arg(layout.config(self.id));
        command.arg("--parent").arg(std::process::id().to_string());
        if launch.has_bugs {
            command.arg("--i-want-chaos-bugs");
        }
        for (name, _) in std::env::vars_os() {
            let is_nodes = name.to_str().is_some_and(|name| name.starts_with("HIGHWATER_") && name != "HIGHWATER_LOG");
            if is_nodes {
                command.env_remove(&name);
            }
        }
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).current_dir(layout.node_folder(self.id));
        // Ctrl-C is for this program, which then ends the nodes.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(command.spawn().context("a node does not start")?);
        (self.paused, self.stopping) = (false, false);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        // The child is not reaped before `child` is taken, so the number is still its own.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal node {}", self.id)),
        }
    }

    /// kill -9, and gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.paused = false;
        if let Some(mut child) = self.child.take() {
            child.wait().with_context(|| format!("node {} does not end", self.id))?;
        }
        Ok(())
    }

    pub fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        self.stopping = true;
        self.signal(Signal::TERM)
    }

    /// It has said something: before that SIGTERM finds a process that is about to become the node.
    fn has_begun(&self) -> bool {
        let (path, before) = &self.log;
        std::fs::metadata(path).is_ok_and(|log| log.len() > *before)
    }

    /// Waits for the end after [`Node::ask_to_stop`]; killed at the deadline. Answers whether it stopped cleanly, or before
    /// it had begun.
    pub fn stopped(&mut self, deadline: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + deadline;
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status.success() || (was_terminated(status) && !self.has_begun()));
            }
            if Instant::now() >= until {
                self.kill()?;
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(true)
    }

    /// Waits until it ends by itself, or has; `None` at the deadline: it goes on.
    pub fn ended_within(&mut self, deadline: Duration) -> anyhow::Result<Option<bool>> {
        let until = Instant::now() + deadline;
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(Some(status.success()));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Some(false))
    }

    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.paused = true;
        self.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.paused = false;
        self.signal(Signal::CONT)
    }

    /// The status, if it has ended though nobody asked it to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.stopping {
            return None;
        }
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("node {} is left behind: {error:#}", self.id);
        }
    }
}

fn was_terminated(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::TERM.as_raw())
}

/// Where the power-cut layer keeps what the node has not synced.
pub fn journal(layout: &Layout, node: NodeId) -> PathBuf {
    namespaces::journals(&layout.folder).join(format!("node-{node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the node's place.
    fn stopped_cleanly(script: &str) -> bool {
        let folder = std::env::temp_dir().join(format!("chaos-node-{}-{}", script.len(), std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("log");
        std::fs::write(&path, "of an earlier start\n").expect("written");
        let log = std::fs::File::options().append(true).open(&path).expect("a log");
        let mut node = Node::new(1);
        node.log = (path, log.metadata().expect("its length").len());
        node.child = Some(Command::new("sh").args(["-c", script]).stdout(log).spawn().expect("a shell"));
        let mut answer = None;
        while answer.is_none() {
            if script.contains("echo") && !node.has_begun() {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            node.ask_to_stop().expect("signalled");
            answer = Some(node.stopped(Duration::from_secs(20)).expect("ended"));
        }
        std::fs::remove_dir_all(folder).expect("removed");
        answer == Some(true)
    }

    #[test]
    fn who_is_told_to_stop_before_it_has_begun_stops_cleanly() {
        assert!(stopped_cleanly("exec sleep 100"));
        assert!(!stopped_cleanly("echo up; exec sleep 101"), "what runs has to hand over");
    }
}
