//! Random operations against a model that remembers every version of every file and folder since its last sync.

use powercut::recorder::{Recorder, Span};
use powercut::{Policy, call, rewind};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
enum Op {
    Write {
        path: usize,
        offset: usize,
        length: usize,
        byte: u8,
    },
    SetLength {
        path: usize,
        length: usize,
    },
    Empty {
        path: usize,
    },
    SyncFile {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Link {
        from: usize,
        to: usize,
    },
    Unlink {
        path: usize,
    },
    MakeDir {
        dir: usize,
    },
    RemoveDir {
        dir: usize,
    },
    SyncDir {
        dir: usize,
    },
    /// The process dies and starts again; the machine goes on.
    Restart,
}

const DIRS: [&str; 3] = ["", "x", "y"];
/// Folder and name.
const PATHS: [(usize, &str); 6] = [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "c")];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let path = || 0..PATHS.len();
    let op = prop_oneof![
        8 => (path(), 0..6000usize, 1..5000usize, 1..=255u8)
            .prop_map(|(path, offset, length, byte)| Op::Write { path, offset, length, byte }),
        2 => (path(), 0..8000usize).prop_map(|(path, length)| Op::SetLength { path, length }),
        1 => path().prop_map(|path| Op::Empty { path }),
        4 => path().prop_map(|path| Op::SyncFile { path }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => path().prop_map(|path| Op::Unlink { path }),
        3 => (1..DIRS.len()).prop_map(|dir| Op::MakeDir { dir }),
        1 => (1..DIRS.len()).prop_map(|dir| Op::RemoveDir { dir }),
        3 => (0..DIRS.len()).prop_map(|dir| Op::SyncDir { dir }),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..60)
}

type Names = BTreeMap<String, usize>;

/// Versions since the last sync; the first is durable, the last is what a reader sees.
#[derive(Clone, Debug)]
enum Node {
    File(Vec<Vec<u8>>),
    Dir(Vec<Names>),
}

struct Model {
    nodes: Vec<Node>,
}

impl Model {
    fn new() -> Model {
        Model { nodes: vec![Node::Dir(vec![Names::new()])] }
    }

    fn names(&self, dir: usize) -> &Names {
        match &self.nodes[dir] {
            Node::Dir(versions) => versions.last().unwrap(),
            Node::File(_) => panic!("a folder"),
        }
    }

    /// The node of a folder of `DIRS`, if it is there.
    fn dir(&self, dir: usize) -> Option<usize> {
        if dir == 0 { Some(0) } else { self.names(0).get(DIRS[dir]).copied() }
    }

    fn file(&self, path: usize) -> Option<usize> {
        let (dir, name) = PATHS[path];
        self.names(self.dir(dir)?).get(name).copied()
    }

    fn change_names(&mut self, dir: usize, change: impl FnOnce(&mut Names)) {
        let mut names = self.names(dir).clone();
        change(&mut names);
        let Node::Dir(versions) = &mut self.nodes[dir] else { panic!("a folder") };
        versions.push(names);
    }

    fn change_file(&mut self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let Node::File(versions) = &mut self.nodes[file] else { panic!("a file") };
        let mut bytes = versions.last().unwrap().clone();
        change(&mut bytes);
        versions.push(bytes);
    }

    fn sync(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::File(versions) => drop(versions.drain(..versions.len() - 1)),
            Node::Dir(versions) => drop(versions.drain(..versions.len() - 1)),
        }
    }

    /// Whether the disk holds what the policy allows.
    fn check(&self, path: &Path, node: usize, policy: Policy) -> Result<(), String> {
        match &self.nodes[node] {
            Node::File(versions) => {
                let found = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let allowed = allowed(versions, policy);
                let length_fits = allowed.iter().any(|version| version.len() == found.len());
                let wrong =
                    (0..found.len()).find(|at| !allowed.iter().any(|v| v.get(*at).copied().unwrap_or(0) == found[*at]));
                match (length_fits, wrong) {
                    (true, None) => Ok(()),
                    (false, _) => Err(format!("{}: length {}", path.display(), found.len())),
                    (_, Some(at)) => Err(format!("{}: byte {at} is {}", path.display(), found[at])),
                }
            }
            Node::Dir(versions) => {
                let mut why = String::new();
                for version in allowed(versions, policy) {
                    match self.check_names(path, version, policy) {
                        Ok(()) => return Ok(()),
                        Err(error) => why = error,
                    }
                }
                Err(why)
            }
        }
    }

    fn check_names(&self, path: &Path, names: &Names, policy: Policy) -> Result<(), String> {
        let mut found: Vec<String> = std::fs::read_dir(path)
            .map_err(|e| format!("{}: {e}", path.display()))?
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        if !found.iter().eq(names.keys()) {
            return Err(format!("{}: {found:?} instead of {names:?}", path.display()));
        }
        names.iter().try_for_each(|(name, node)| self.check(&path.join(name), *node, policy))
    }
}

fn allowed<T>(versions: &[T], policy: Policy) -> &[T] {
    match policy {
        Policy::KeepAll => &versions[versions.len() - 1..],
        Policy::DropAll => &versions[..1],
        Policy::Random { .. } => versions,
    }
}

/// The disk and the model, moved together.
struct Run {
    root: PathBuf,
    journal: PathBuf,
    recorder: Option<Recorder>,
    model: Model,
    forget: bool,
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

impl Run {
    fn new(folder: &Path, forget: bool) -> Run {
        let (root, journal) = (folder.join("root"), folder.join("journal"));
        let recorder = Some(Recorder::open(&journal, &root, forget).unwrap());
        Run { root, journal, recorder, model: Model::new(), forget }
    }

    fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().unwrap()
    }

    fn path(&self, path: usize) -> PathBuf {
        let (dir, name) = PATHS[path];
        self.root.join(DIRS[dir]).join(name)
    }

    fn open(&self, path: &Path, flags: i32) -> i32 {
        let path = c(path);
        let fd = self.recorder().open_file(libc::AT_FDCWD, &path, flags, |flags| {
            call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644)
        });
        assert!(fd >= 0, "{path:?}: {}", std::io::Error::last_os_error());
        i32::try_from(fd).unwrap()
    }

    fn sync(&self, fd: i32) {
        assert_eq!(self.recorder().sync(fd, || call!(SYS_fsync, fd)), 0);
        call!(SYS_close, fd);
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Write { path, offset, length, byte } => {
                let (dir, name) = PATHS[path];
                let Some(folder) = self.model.dir(dir) else { return };
                let file = self.model.file(path).unwrap_or_else(|| {
                    self.model.nodes.push(Node::File(vec![Vec::new()]));
                    let file = self.model.nodes.len() - 1;
                    self.model.change_names(folder, |names| _ = names.insert(name.to_string(), file));
                    file
                });
                // Write-only now and then: pre-images are then read through a descriptor of the recorder's own.
                let access = if length % 3 == 0 { libc::O_WRONLY } else { libc::O_RDWR };
                let fd = self.open(&self.path(path), access | libc::O_CREAT);
                let bytes = vec![byte; length];
                let span = Span::At { offset: offset as u64, length: length as u64 };
                let written =
                    self.recorder().change(fd, span, || call!(SYS_pwrite64, fd, bytes.as_ptr(), length, offset));
                assert_eq!(written, length as isize);
                call!(SYS_close, fd);
                self.model.change_file(file, |content| {
                    content.resize(content.len().max(offset + length), 0);
                    content[offset..offset + length].fill(byte);
                });
            }
            Op::SetLength { path, length } => {
                let Some(file) = self.model.file(path) else { return };
                let fd = self.open(&self.path(path), libc::O_RDWR);
                let span = Span::Length(length as u64);
                assert_eq!(self.recorder().change(fd, span, || call!(SYS_ftruncate, fd, length)), 0);
                call!(SYS_close, fd);
                self.model.change_file(file, |content| content.resize(length, 0));
            }
            Op::Empty { path } => {
                let Some(file) = self.model.file(path) else { return };
                let fd = self.open(&self.path(path), libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC);
                call!(SYS_close, fd);
                self.model.change_file(file, Vec::clear);
            }
            Op::SyncFile { path } => {
                let Some(file) = self.model.file(path) else { return };
                self.sync(self.open(&self.path(path), libc::O_RDONLY));
                if !self.forget {
                    self.model.sync(file);
                }
            }
            Op::Rename { from, to } => {
                let (Some(file), Some(target)) = (self.model.file(from), self.model.dir(PATHS[to].0)) else { return };
                let (old, new) = (c(&self.path(from)), c(&self.path(to)));
                let call = || call!(SYS_renameat2, libc::AT_FDCWD, old.as_ptr(), libc::AT_FDCWD, new.as_ptr(), 0);
                assert_eq!(self.recorder().rename((libc::AT_FDCWD, &old), (libc::AT_FDCWD, &new), call), 0);
                if self.model.file(to) == Some(file) {
                    return;
                }
                let source = self.model.dir(PATHS[from].0).unwrap();
                let (from, to) = (PATHS[from].1, PATHS[to].1.to_string());
                if source == target {
                    self.model.change_names(source, |names| {
                        names.remove(from);
                        names.insert(to, file);
                    });
                } else {
                    self.model.change_names(source, |names| _ = names.remove(from));
                    self.model.change_names(target, |names| _ = names.insert(to, file));
                }
            }
            Op::Link { from, to } => {
                let (Some(file), Some(folder)) = (self.model.file(from), self.model.dir(PATHS[to].0)) else { return };
                if self.model.file(to).is_some() {
                    return;
                }
                let (old, new) = (c(&self.path(from)), c(&self.path(to)));
                let call = || call!(SYS_linkat, libc::AT_FDCWD, old.as_ptr(), libc::AT_FDCWD, new.as_ptr(), 0);
                assert_eq!(self.recorder().make(libc::AT_FDCWD, &new, call), 0);
                self.model.change_names(folder, |names| _ = names.insert(PATHS[to].1.to_string(), file));
            }
            Op::Unlink { path } => {
                if self.model.file(path).is_none() {
                    return;
                }
                let name = c(&self.path(path));
                let call = || call!(SYS_unlinkat, libc::AT_FDCWD, name.as_ptr(), 0);
                assert_eq!(self.recorder().unlink(libc::AT_FDCWD, &name, call), 0);
                let folder = self.model.dir(PATHS[path].0).unwrap();
                self.model.change_names(folder, |names| _ = names.remove(PATHS[path].1));
            }
            Op::MakeDir { dir } => {
                if self.model.dir(dir).is_some() {
                    return;
                }
                let name = c(&self.root.join(DIRS[dir]));
                let call = || call!(SYS_mkdirat, libc::AT_FDCWD, name.as_ptr(), 0o755);
                assert_eq!(self.recorder().make(libc::AT_FDCWD, &name, call), 0);
                self.model.nodes.push(Node::Dir(vec![Names::new()]));
                let made = self.model.nodes.len() - 1;
                self.model.change_names(0, |names| _ = names.insert(DIRS[dir].to_string(), made));
            }
            Op::RemoveDir { dir } => {
                let Some(node) = self.model.dir(dir) else { return };
                let name = c(&self.root.join(DIRS[dir]));
                let call = || call!(SYS_unlinkat, libc::AT_FDCWD, name.as_ptr(), libc::AT_REMOVEDIR);
                let result = self.recorder().rmdir(libc::AT_FDCWD, &name, call);
                assert_eq!(result == 0, self.model.names(node).is_empty(), "only empty folders go");
                if result == 0 {
                    self.model.change_names(0, |names| _ = names.remove(DIRS[dir]));
                }
            }
            Op::SyncDir { dir } => {
                let Some(node) = self.model.dir(dir) else { return };
                self.sync(self.open(&self.root.join(DIRS[dir]), libc::O_RDONLY));
                if !self.forget {
                    self.model.sync(node);
                }
            }
            Op::Restart => {
                self.recorder = None;
                self.recorder = Some(Recorder::open(&self.journal, &self.root, self.forget).unwrap());
            }
        }
    }
}

fn tell(ops: &[Op], policy: Policy, forget: bool) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(folder.path(), forget);
    ops.iter().for_each(|op| run.step(op));
    run.model.check(&run.root, 0, Policy::KeepAll)?;
    run.recorder = None;
    rewind(&run.journal, policy).unwrap();
    run.model.check(&run.root, 0, policy)?;
    let graveyard = folder.path().join(".root.graveyard");
    let left = std::fs::read_dir(graveyard).unwrap().count();
    if left == 0 { Ok(()) } else { Err(format!("{left} files stay in the graveyard")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_drops_what_was_not_synced(ops in ops()) {
        tell(&ops, Policy::DropAll, false).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_cut_may_keep_everything(ops in ops()) {
        tell(&ops, Policy::KeepAll, false).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_cut_may_keep_some_and_never_makes_anything_up(ops in ops(), seed: u64) {
        tell(&ops, Policy::Random { seed }, false).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn without_syncs_it_leads_back_to_the_beginning(ops in ops()) {
        tell(&ops, Policy::DropAll, true).map_err(TestCaseError::fail)?;
    }
}
