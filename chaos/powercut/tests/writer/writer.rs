//! A program for the shim's tests: carries out the operations on its command line in the folder given first, tells how
//! each went on standard output, then waits to be killed.
//!
//! `append FILE TEXT`, `put FILE TEXT`, `cut FILE LENGTH`, `reserve FILE LENGTH`, `sync FILE`, `syncdir FOLDER`,
//! `rename FROM TO`, `remove FILE`, `mkdir FOLDER`, `copy FROM TO`, `bootid`, `threads FILE`

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(&arguments[0]);
    let mut rest = arguments[1..].iter().map(String::as_str);
    while let Some(word) = rest.next() {
        let mut next = || rest.next().expect("an argument");
        let outcome = match word {
            "append" => append(&folder.join(next()), next().as_bytes()),
            "put" => fs::write(folder.join(next()), next()).map(|()| String::new()),
            "cut" => OpenOptions::new().write(true).open(folder.join(next())).and_then(|file| {
                file.set_len(next().parse().expect("a length"))?;
                Ok(String::new())
            }),
            "reserve" => reserve(&folder.join(next()), next().parse().expect("a length")),
            "sync" => File::open(folder.join(next())).and_then(|file| file.sync_data()).map(|()| String::new()),
            "syncdir" => File::open(folder.join(next())).and_then(|file| file.sync_all()).map(|()| String::new()),
            "rename" => fs::rename(folder.join(next()), folder.join(next())).map(|()| String::new()),
            "remove" => fs::remove_file(folder.join(next())).map(|()| String::new()),
            "mkdir" => fs::create_dir_all(folder.join(next())).map(|()| String::new()),
            "copy" => fs::copy(folder.join(next()), folder.join(next())).map(|bytes| bytes.to_string()),
            "bootid" => fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_string()),
            "threads" => threads(&folder.join(next())),
            other => panic!("what is {other}?"),
        };
        match outcome {
            Ok(text) => println!("{word} ok {text}"),
            Err(error) => println!("{word} failed {}", error.raw_os_error().unwrap_or(0)),
        }
        io::stdout().flush().expect("the test reads");
    }
    loop {
        std::thread::park();
    }
}

fn append(path: &Path, text: &[u8]) -> io::Result<String> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text)?;
    Ok(String::new())
}

fn reserve(path: &Path, length: i64) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    // SAFETY: an open file.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
    if code == 0 { Ok(String::new()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Eight threads write records and sync them; each synced number is told. Ends at the first error.
fn threads(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    std::thread::scope(|scope| {
        for lane in 0..8u64 {
            let file = &file;
            scope.spawn(move || {
                for turn in 0.. {
                    let number = turn * 8 + lane;
                    let written = file.write_all_at(&(number + 1).to_le_bytes(), number * 8);
                    let asked = turn % 4 == lane % 4;
                    if written.and_then(|()| if asked { file.sync_data() } else { Ok(()) }).is_err() {
                        std::process::exit(1);
                    }
                    if asked {
                        println!("synced {lane} {turn}");
                    }
                }
            });
        }
    });
    Ok(String::new())
}
