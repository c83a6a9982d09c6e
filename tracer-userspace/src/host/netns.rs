//! Network namespaces: finding all of a machine, and running a closure inside one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Directories in which tools keep network namespaces that may have no process: `ip netns` and CNI plugins,
/// Docker.
const DIRECTORIES: &[&str] = &["/run/netns", "/run/docker/netns"];

/// What identifies a network namespace while it lives: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    pub device: u64,
    /// As `ip netns identify` and `readlink /proc/PID/ns/net` know it.
    pub inode: u64,
}

/// A network namespace, by path and identity. It is not kept open: an open descriptor keeps a namespace and its
/// devices alive after the last process has left it, which others would notice.
#[derive(Clone)]
pub struct Netns {
    id: NetnsId,
    path: Arc<Path>,
    label: Arc<str>,
}

impl fmt::Debug for Netns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Netns({}, {})", self.label, self.id.inode)
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl Netns {
    /// Opens the namespace of a path: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The path cannot be opened, or is no network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, path.display().to_string())
    }

    fn open_as(path: &Path, label: String) -> io::Result<Self> {
        let (_, id) = open_namespace(path, &label)?;
        Ok(Self { id, path: path.into(), label: label.into() })
    }

    /// Opens it for the moment.
    ///
    /// # Errors
    /// It is gone, or another one has its place.
    pub fn fd(&self) -> io::Result<OwnedFd> {
        let (fd, id) = open_namespace(&self.path, &self.label)?;
        if id == self.id {
            return Ok(fd);
        }
        let text = format!("the network namespace {} is gone; another one has its place", self.label);
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// The namespace of this process.
    ///
    /// # Errors
    /// /proc is not mounted or cannot be read.
    pub fn own() -> io::Result<Self> {
        Self::open_as(Path::new("/proc/self/ns/net"), "the machine's own".to_owned())
    }

    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Path by which it was found, or words for the process's own.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it: a thread's namespace is the
    /// thread's, and one that could not return to its own would be a trap for whoever gets it next.
    ///
    /// # Errors
    /// The namespace is gone ([`io::ErrorKind::NotFound`]), the thread cannot be started, or the namespace cannot be
    /// entered (needs CAP_SYS_ADMIN).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let fd = self.fd()?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
                    let error = io::Error::from(error);
                    let hint = match error.kind() {
                        io::ErrorKind::PermissionDenied => " (needs root or CAP_SYS_ADMIN)",
                        _ => "",
                    };
                    let text =
                        format!("cannot enter the network namespace {}: setns: {error}{hint}", self.label);
                    io::Error::new(error.kind(), text)
                })?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn open_namespace(path: &Path, label: &str) -> io::Result<(OwnedFd, NetnsId)> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot open the network namespace {label}: {error}"))
    };
    let file = File::open(path).map_err(explain)?;
    // A leftover file of a namespace that is gone is an ordinary file.
    if rustix::fs::fstatfs(&file).map_err(|error| explain(error.into()))?.f_type as u64 != NSFS_MAGIC {
        let text = "it is an ordinary file, not a namespace (left behind when the namespace was removed?)";
        return Err(explain(io::Error::new(io::ErrorKind::NotFound, text)));
    }
    let metadata = file.metadata().map_err(explain)?;
    Ok((file.into(), NetnsId { device: metadata.dev(), inode: metadata.ino() }))
}

#[cfg(test)]
impl Netns {
    /// One that a test makes up; it cannot be entered.
    pub(crate) fn made_up(inode: u64) -> Self {
        let id = NetnsId { device: 4, inode };
        Self { id, path: Path::new("/nonexistent/netns").into(), label: format!("made up {inode}").into() }
    }
}

/// `statfs` type of the files that stand for namespaces.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A namespace and who lives in it.
#[derive(Clone, Debug)]
pub struct Found {
    pub netns: Netns,
    /// Processes in it, ascending; empty where only a file keeps it.
    pub processes: Vec<u32>,
}

/// Finds all network namespaces that have a name or a process, this process's own first, and what could not be
/// looked at.
///
/// # Errors
/// /proc cannot be read.
pub fn discover() -> io::Result<(Vec<Found>, Vec<String>)> {
    let own = Netns::own()?;
    let mut problems = Vec::new();
    let mut found = vec![Found { netns: own, processes: Vec::new() }];
    let mut places = BTreeMap::from([(found[0].netns.id(), 0)]);
    for directory in DIRECTORIES {
        for path in entries(Path::new(directory), &mut problems) {
            match Netns::open(&path) {
                Ok(netns) => drop(places.entry(netns.id()).or_insert_with(|| {
                    found.push(Found { netns, processes: Vec::new() });
                    found.len() - 1
                })),
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    let mut denied = 0;
    for process in processes()? {
        let path = PathBuf::from(format!("/proc/{process}/ns/net"));
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                // A process may end at any time, and has no namespace when it is a zombie.
                denied += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        let id = NetnsId { device: metadata.dev(), inode: metadata.ino() };
        let place = match places.get(&id) {
            Some(place) => *place,
            None => {
                let Ok(netns) = Netns::open(&path) else { continue };
                places.insert(netns.id(), found.len());
                found.push(Found { netns, processes: Vec::new() });
                found.len() - 1
            }
        };
        found[place].processes.push(process);
    }
    if denied > 0 {
        problems.push(format!(
            "the network namespaces of {denied} processes may not be looked at: run as root, or with CAP_SYS_PTRACE"
        ));
    }
    Ok((found, problems))
}

/// All processes, ascending.
fn processes() -> io::Result<Vec<u32>> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot list /proc: {error}"));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(explain)? {
        if let Some(process) = entry.map_err(explain)?.file_name().to_str().and_then(|name| name.parse().ok())
        {
            found.push(process);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The entries of a directory that need not exist, sorted.
fn entries(directory: &Path, problems: &mut Vec<String>) -> Vec<PathBuf> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(format!("cannot list {}: {error}", directory.display()));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    paths
}
