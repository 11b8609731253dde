//! What the names of each folder stand for.

use super::tree::Tree;
use super::{Chance, Policy, chance};
use crate::entry::{self, Names, Node};
use crate::layout::Layout;
use crate::sys::{self, Key};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

/// A name in a folder, and what it must stand for.
struct Wish {
    folder: Key,
    name: CString,
    node: Option<Node>,
}

/// Puts names back; gives how many stand for something else now.
pub(super) fn rewind(layout: &Layout, tree: &Tree, policy: Policy) -> io::Result<usize> {
    let mut unmet = Vec::new();
    for wish in wishes(layout, tree, policy)? {
        let Some(dir) = tree.dir(wish.folder) else { continue };
        let now = sys::stat_at(dir, &wish.name).ok();
        if now.map(|stat| stat.key) == wish.node.map(|node| node.key) {
            continue;
        }
        if let Some(now) = now {
            take_away(tree, dir, &wish.name, now)?;
        }
        unmet.push(wish);
    }
    for wish in &unmet {
        if let (Some(dir), Some(node)) = (tree.dir(wish.folder), wish.node) {
            bring_back(tree, dir, &wish.name, node)?;
        }
    }
    Ok(unmet.len())
}

fn wishes(layout: &Layout, tree: &Tree, policy: Policy) -> io::Result<Vec<Wish>> {
    let mut wishes = Vec::new();
    for key in layout.files("names")? {
        let Some(dir) = tree.dirs.get(&key) else { continue };
        let entries = entry::all(&sys::read_file(&layout.file("names", key))?, Names::decode).0;
        let kept = match chance(policy, &dir.path) {
            Chance::Keep => entries.len(),
            Chance::Drop => 0,
            Chance::Random(mut random) => random.between(0, entries.len()),
        };
        let mut before: BTreeMap<&[u8], Option<Node>> = BTreeMap::new();
        for (name, old) in entries[kept..].iter().rev().flat_map(|entry| &entry.changes) {
            before.insert(name, *old);
        }
        for (name, node) in before {
            wishes.push(Wish { folder: key, name: CString::new(name)?, node });
        }
    }
    Ok(wishes)
}

fn grave(key: Key) -> io::Result<CString> {
    Ok(CString::new(entry::file_name("node", key))?)
}

/// What stands in the way goes to the graveyard: another name may want it.
fn take_away(tree: &Tree, dir: RawFd, name: &CStr, stat: sys::Stat) -> io::Result<()> {
    let grave = grave(stat.key)?;
    // A rename between two names of one file does nothing at all.
    if !stat.is_dir() && sys::stat_at(tree.graveyard.0, &grave).is_ok() {
        return sys::unlink_at(dir, name);
    }
    sys::rename_at(dir, name, tree.graveyard.0, &grave)
}

fn bring_back(tree: &Tree, dir: RawFd, name: &CStr, node: Node) -> io::Result<()> {
    let grave = grave(node.key)?;
    let is_kept = sys::stat_at(tree.graveyard.0, &grave).is_ok();
    match node.is_dir {
        true if is_kept => sys::rename_at(tree.graveyard.0, &grave, dir, name),
        // One that another folder has by now stays there: a folder has one name.
        true if tree.dir(node.key).is_some() => Ok(()),
        // It was empty when another one replaced it.
        true => sys::mkdir_at(dir, name),
        false if is_kept => sys::link_at(tree.graveyard.0, &grave, dir, name),
        // It still has the name that it was moved to.
        false => match tree.files.get(&node.key).and_then(|(folder, other)| Some((tree.dir(*folder)?, other))) {
            Some((folder, other)) => sys::link_at(folder, other, dir, name),
            None => Ok(()),
        },
    }
}

/// Empties the graveyard and forgets the entries.
pub(super) fn clear(layout: &Layout) -> io::Result<()> {
    for name in sys::names_in(sys::open(&layout.graveyard, sys::O_RDONLY | sys::O_DIRECTORY)?.0)? {
        let path = layout.graveyard.join(OsStr::from_bytes(name.as_bytes()));
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }?;
    }
    for key in layout.files("names")? {
        sys::remove_file(&layout.file("names", key))?;
    }
    Ok(())
}
