//! What this process costs, as the kernel counts it.

use super::disk;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Linux counts CPU time for user space in hundredths of a second (USER_HZ), whatever its own clock's rate.
const TICK: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is in RAM now, pages shared with others included.
    pub resident_bytes: u64,
    /// Of all threads, user and system, since the process started.
    pub cpu: Duration,
}

/// Reads `/proc/self`; an error where there is none.
pub fn usage() -> io::Result<Usage> {
    let read = |path: &str| {
        let bytes = disk::read_file(Path::new(path))?.ok_or(io::ErrorKind::NotFound)?;
        Ok::<String, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (status, stat) = (read("/proc/self/status")?, read("/proc/self/stat")?);
    let odd = |what| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/{what} is not as proc(5) says"));
    Ok(Usage {
        resident_bytes: resident_bytes(&status).ok_or_else(|| odd("status"))?,
        cpu: cpu(&stat).ok_or_else(|| odd("stat"))?,
    })
}

/// `VmRSS:     1234 kB`
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// Fields 14 and 15, utime and stime. The second is the program's name, which may hold anything: spaces and parentheses too.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let all = ticks()?.checked_add(ticks()?)?;
    Some(TICK * u32::try_from(all).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_whatever_the_program_is_called() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 900 0 3 0 1234 66 0 0 20 0 9 0 5000 1000000 250";
        assert_eq!(cpu(stat), Some(Duration::from_secs(13)));
        assert_eq!(cpu("12 (a) S 1"), None);
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident_bytes("Name:\tVmRSS\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let end = super::super::clock::now() + Duration::from_secs(30);
        while usage().unwrap().cpu < TICK {
            assert!(super::super::clock::now() < end, "a busy loop costs no CPU time");
        }
        assert!(usage().unwrap().resident_bytes > 100_000);
    }
}
