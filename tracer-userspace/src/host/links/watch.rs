//! Changes of a namespace's links as they happen.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::Link;
use crate::host::netlink::Connection;
use crate::host::netns::{Netns, NetnsId};

/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 1;

/// How soon an announcement of lost events is tried again while the receiver's channel is full.
const RETRY: Duration = Duration::from_millis(50);

/// What happened to the links of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link is new or has changed, as it is afterwards, without its addresses.
    Changed { netns: NetnsId, link: Link },
    /// A link is gone, with its last state.
    Gone { netns: NetnsId, link: Link },
    /// Events are lost, in the kernel's buffer or because the channel was full: look at all links anew.
    Resync { netns: NetnsId },
}

/// Watches until it is dropped.
pub struct LinkWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Sends what happens to the links of `netns` from when this returns on. The watching thread never waits for the
/// receiver: what does not fit into the channel is announced as [`LinkEvent::Resync`] when there is room.
///
/// # Errors
/// The namespace cannot be entered, or descriptors or threads have run out.
pub fn watch(netns: &Netns, sender: Sender<LinkEvent>) -> io::Result<LinkWatch> {
    let connection = Connection::open(netns, LINK_GROUP)?;
    connection.set_nonblocking()?;
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let mut watcher =
        Watcher { netns: netns.id(), connection, stop: Arc::clone(&stop), sender, missed: false };
    let thread = std::thread::Builder::new().name("link-watch".to_owned()).spawn(move || watcher.run())?;
    Ok(LinkWatch { stop, thread: Some(thread) })
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        // Cannot fail: the counter of an eventfd has room for one.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    netns: NetnsId,
    connection: Connection,
    stop: Arc<OwnedFd>,
    sender: Sender<LinkEvent>,
    missed: bool,
}

impl Watcher {
    fn run(&mut self) {
        while !self.sender.is_closed() && self.wait() {
            self.read();
            self.tell_missed();
        }
    }

    /// Waits for the kernel, or for another try; `false` when it is time to stop.
    fn wait(&self) -> bool {
        let timeout = self.missed.then(|| Timespec::try_from(RETRY).ok()).flatten();
        let mut fds = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => fds[0].revents().is_empty(),
            Err(error) => error == rustix::io::Errno::INTR,
        }
    }

    fn read(&mut self) {
        loop {
            let messages = match self.connection.receive() {
                Ok(messages) => messages,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // What is still in the queue is older than what is lost: it would come after the Resync and
                // undo it. So the rest is read and dropped first.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.missed = true;
                    continue;
                }
                Err(_) => {
                    self.missed = true;
                    return;
                }
            };
            for message in messages {
                let Some(link) = Link::decode(&message) else { continue };
                let netns = self.netns;
                self.send(match message.kind {
                    libc::RTM_DELLINK => LinkEvent::Gone { netns, link },
                    _ => LinkEvent::Changed { netns, link },
                });
            }
        }
    }

    fn send(&mut self, event: LinkEvent) {
        // Once something is lost, what follows would be applied to a wrong state.
        if !self.missed && matches!(self.sender.try_send(event), Err(TrySendError::Full(_))) {
            self.missed = true;
        }
    }

    fn tell_missed(&mut self) {
        if self.missed {
            self.missed = matches!(
                self.sender.try_send(LinkEvent::Resync { netns: self.netns }),
                Err(TrySendError::Full(_))
            );
        }
    }
}
