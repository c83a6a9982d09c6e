//! Real clients and servers in pods. Servers listen when they are returned, and stop when they are dropped.

mod clients;
mod dns;
mod flood;
mod http;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::lab::Pod;

pub use self::clients::{CurlOutput, PingReport};
pub use self::dns::{DnsRecords, DnsServer, RecordType};
pub use self::flood::{Flood, UdpSink};
pub use self::http::HttpServer;

/// How long a port may stay taken by a socket that is closed already: a process of another test that is just being
/// started holds a copy of it until it runs its program.
const PORT_DEADLINE: Duration = Duration::from_secs(5);

/// Opens a server's socket in a pod.
fn listen<T: Send>(pod: &Pod, what: &str, open: impl Fn() -> io::Result<T> + Sync) -> Result<T> {
    let deadline = Instant::now() + PORT_DEADLINE;
    loop {
        match pod.netns().run(&open)? {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::yield_now();
            }
            result => {
                return result.with_context(|| format!("cannot listen on {what} of pod {}", pod.name()));
            }
        }
    }
}
