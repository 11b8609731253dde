//! Removing files and folders on a thread of its own: unlinking a large file can take long, and is done under no lock.
//!
//! What goes is first renamed to `….deleted`, which the caller sees done; what a stop leaves behind is removed when the
//! folder is opened again.

use crate::platform::{disk, random};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

pub(super) const DELETED_SUFFIX: &str = ".deleted";

enum Order {
    Remove(PathBuf),
    #[cfg(test)]
    Tell(Sender<()>),
}

/// The thread ends when this is dropped, after what it was given.
pub(super) struct Remover {
    orders: Sender<Order>,
}

impl Remover {
    pub fn start() -> io::Result<Remover> {
        let (orders, received) = channel();
        thread::Builder::new().name("remover".into()).spawn(move || {
            for order in received {
                match order {
                    Order::Remove(path) => remove(&path),
                    #[cfg(test)]
                    Order::Tell(done) => drop(done.send(())),
                }
            }
        })?;
        Ok(Remover { orders })
    }

    /// Renames `path` out of the way and removes it later. One that is not there is no error.
    pub fn set_aside(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_os_string();
        // A name can be set aside again before the first one is gone.
        name.push(format!(".{:08x}{DELETED_SUFFIX}", random::between(0..1 << 32)));
        let aside = PathBuf::from(name);
        match disk::rename(path, &aside) {
            Ok(()) => self.remove(aside),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Removes what an earlier run set aside.
    pub fn remove(&self, path: PathBuf) {
        // The thread lives as long as the sender; and what is not removed now is found at the next start.
        let _ = self.orders.send(Order::Remove(path));
    }

    #[cfg(test)]
    pub fn wait(&self) {
        let (done, told) = channel();
        self.orders.send(Order::Tell(done)).unwrap();
        told.recv().unwrap();
    }
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => disk::remove_dir_all(path),
        false => disk::remove_file(path),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "cannot be removed; it will be tried again at the next start");
    }
}
