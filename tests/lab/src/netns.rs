//! Network namespaces that people can see (`ip netns`) and that do not outlive the lab.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "tracer-lab-";

/// Counts the labs of this process, so that their namespaces have different names.
static LABS: AtomicU32 = AtomicU32::new(0);

/// A name that no other lab has: `tracer-lab-<pid>-<number>`.
pub(crate) fn unique_prefix() -> String {
    let number = LABS.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// A network namespace, bind-mounted at `/run/netns/<name>` until it is dropped.
///
/// Clones are the same namespace; the last one to go removes it.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    namespace: File,
    mounted: AtomicBool,
}

impl Netns {
    /// Makes a namespace with its loopback device down.
    ///
    /// # Errors
    /// When the caller is not root, or something already has that name.
    pub fn create(name: &str) -> Result<Self> {
        prepare_directory()?;
        let path = Path::new(DIRECTORY).join(name);
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let mounted = on_new_thread(|| mount_new_namespace(&path));
        let opened = mounted.and_then(|()| {
            File::open(&path).with_context(|| format!("cannot open namespace {}", path.display()))
        });
        match opened {
            Ok(namespace) => {
                let mounted = AtomicBool::new(true);
                Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), path, namespace, mounted }) })
            }
            Err(error) => {
                unmount(&path);
                Err(error)
            }
        }
    }

    /// The name below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The bind mount, `/run/netns/<name>`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The open namespace.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.namespace.as_fd()
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay in the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` panics, with its message.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread(|| {
            enter(self.as_fd()).with_context(|| format!("cannot enter namespace {}", self.name()))?;
            Ok(work())
        })
    }

    /// A command that will run inside the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.inner);
        // SAFETY: between fork and exec only setns(2) is called, which is safe there and allocates nothing.
        unsafe { command.pre_exec(move || enter(inner.namespace.as_fd())) };
        command
    }

    /// Runs a tool inside the namespace with `text` as its standard input.
    ///
    /// # Errors
    /// When the tool is not installed, or fails; with what it said and what it was given.
    pub(crate) fn feed(&self, tool: &str, arguments: &[&str], text: &str) -> Result<()> {
        let mut child = self
            .command(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {tool}; is it installed?"))?;
        let mut stdin = child.stdin.take().context("the tool has no standard input")?;
        // A tool that refuses the text early says so itself, below.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("cannot wait for {tool}"))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{tool} {} fails in {}: {error}\n{text}", arguments.join(" "), self.name());
        }
        Ok(())
    }

    /// The interface index of a device.
    ///
    /// # Errors
    /// When the namespace has no such device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let socket = socket.context("cannot make a socket to ask for a device")?;
        rustix::net::netdevice::name_to_index(&socket, device)
            .with_context(|| format!("namespace {} has no device {device}", self.name()))
    }

    /// Writes sysctls, by their path below `/proc/sys`.
    ///
    /// # Errors
    /// Names the sysctl that cannot be written.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                fs::write(Path::new("/proc/sys").join(name), value)
                    .with_context(|| format!("cannot set {name} = {value} in {}", self.name()))?;
            }
            Ok(())
        })?
    }

    /// Takes the name away. The namespace itself goes when the last socket, process and clone have left it.
    pub(crate) fn remove(&self) {
        self.inner.remove();
    }
}

impl Inner {
    fn remove(&self) {
        if self.mounted.swap(false, Ordering::AcqRel) {
            unmount(&self.path);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the namespaces of labs whose process is gone: killed, so that it could not clean up.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            unmount(&entry.path());
        }
    }
}

/// Makes the directory a shared mount, as `ip netns` does when it finds that it is none. Left to `ip netns`, that
/// would happen while a lab is up and put a second set of its mounts on top of the first.
fn prepare_directory() -> Result<()> {
    fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot create {DIRECTORY}"))?;
    let directory = File::open(DIRECTORY).with_context(|| format!("cannot open {DIRECTORY}"))?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {DIRECTORY}"))?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    if rustix::mount::mount_change(DIRECTORY, shared).is_ok() {
        return Ok(());
    }
    rustix::mount::mount_bind_recursive(DIRECTORY, DIRECTORY)
        .and_then(|()| rustix::mount::mount_change(DIRECTORY, shared))
        .with_context(|| format!("cannot make {DIRECTORY} a shared mount; the lab must run as root"))
}

fn mount_new_namespace(path: &Path) -> Result<()> {
    // SAFETY: this thread does nothing but this and ends; no other code relies on its namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .context("cannot create a network namespace; the lab must run as root")?;
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path)
        .with_context(|| format!("cannot mount the namespace at {}", path.display()))
}

/// Best effort: there is nobody left to tell, and the next lab sweeps what stays.
fn unmount(path: &Path) {
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
    let _ = fs::remove_file(path);
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// A thread for work that changes the thread's namespace, so that nobody else's is changed.
fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
