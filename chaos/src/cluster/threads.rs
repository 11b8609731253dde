//! What the threads of a process wait for, as the kernel tells: a stall leaves no trace afterwards.

use std::fmt::Write;
use std::path::Path;

/// Of the kernel's stack, which only root is shown.
const FRAMES_MAX: usize = 12;

/// A line a thread: its name, state (R, S, D …), ticks of processor time, and the kernel's functions that it is in.
pub fn of_process(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut told = String::new();
    for task in tasks {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (stat, stack) = (read("stat"), read("stack"));
        let frames: Vec<&str> = stack.lines().filter_map(frame).take(FRAMES_MAX).collect();
        let _ = writeln!(told, "{} {} {} {}", read("comm").trim(), state(&stat), read("wchan"), frames.join(" "));
    }
    told
}

/// State and ticks, of a line such as `12 (name) S 1 …`.
fn state(stat: &str) -> String {
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at).copied().unwrap_or("?");
    format!("{} {}+{}", field(0), field(11), field(12))
}

/// `[<0>] futex_wait+0x6f/0x120` is `futex_wait`.
fn frame(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)?.split('+').next()
}

/// How busy the machine is, and how long its disks keep whom waiting.
pub fn of_machine() -> String {
    let pressure = ["cpu", "io", "memory"].map(|what| {
        let told = std::fs::read_to_string(Path::new("/proc/pressure").join(what)).unwrap_or_default();
        format!("{what}: {}", told.trim().replace('\n', "; "))
    });
    pressure.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_its_threads() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::Builder::new().name("waits".into()).spawn(move || stopped.recv()).expect("a thread");
        let found = loop {
            let told = of_process(std::process::id());
            if let Some(line) = told.lines().find(|line| line.starts_with("waits S ")) {
                break line.to_string();
            }
            std::thread::yield_now();
        };
        assert!(found.contains('+'), "its time: {found}");
        drop(stop);
        assert!(waiting.join().expect("ended").is_err());
    }

    #[test]
    fn lines_of_proc_are_read() {
        assert_eq!(frame("[<0>] futex_wait+0x6f/0x120"), Some("futex_wait"));
        assert_eq!(state("7 (a) b) D 1 2 3 4 5 6 7 8 9 10 110 12 13"), "D 110+12");
        assert_eq!(state(""), "? ?+?");
    }
}
