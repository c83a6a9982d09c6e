//! DNS over UDP: a server that knows the lab's names, and a client that asks one question.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::listen;
use crate::lab::{Lab, Pod};

/// The longest DNS message over UDP without extensions, in bytes.
const LONGEST_MESSAGE: usize = 512;
const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const NAME_ERROR: u8 = 3;
const FORMAT_ERROR: u8 = 1;

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    A,
    Aaaa,
}

/// Addresses by full name without the last dot, in lower case.
pub type DnsRecords = HashMap<String, Vec<IpAddr>>;

/// A running server.
pub struct DnsServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// The names that a cluster's DNS has: `<service>.<namespace>.svc.cluster.local`.
    #[must_use]
    pub fn dns_records(&self) -> DnsRecords {
        let record = |service: &crate::plan::Service| {
            let name = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
            (name, service.cluster_ips().to_vec())
        };
        self.services().iter().map(record).collect()
    }
}

impl Pod {
    /// Answers A and AAAA queries on a port of all the pod's addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve_dns(&self, port: u16, records: DnsRecords) -> Result<DnsServer> {
        let socket =
            listen(self, &format!("UDP port {port}"), || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("cannot set a timeout")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&socket, &records, &stop)
        });
        Ok(DnsServer { stop, thread: Some(thread) })
    }

    /// Asks a server once, and waits two seconds for its answer. A name that does not exist has no addresses.
    ///
    /// # Errors
    /// When no answer comes, or one that is no answer to the question.
    pub fn dns_query(&self, server: SocketAddr, name: &str, kind: RecordType) -> Result<Vec<IpAddr>> {
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = self
            .netns()
            .run(|| UdpSocket::bind(local).and_then(|socket| socket.connect(server).map(|()| socket)))?
            .with_context(|| format!("cannot send to {server} from pod {}", self.name()))?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).context("cannot set a timeout")?;
        // The local port differs between queries, so it can serve as their number.
        let id = socket.local_addr().context("a socket without address")?.port();
        let query = query(id, name, kind);
        socket.send(&query).with_context(|| format!("cannot send to {server}"))?;
        let mut buffer = [0; LONGEST_MESSAGE];
        let length = socket.recv(&mut buffer).with_context(|| {
            format!("no answer from {server} to a query for {name} from pod {}", self.name())
        })?;
        let answer = &buffer[..length];
        if answer.get(..2) != Some(&id.to_be_bytes()) {
            bail!("{server} answered another question");
        }
        addresses(answer, query.len()).with_context(|| format!("{server} sent an answer that is not DNS"))
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within its read timeout.
            let _ = thread.join();
        }
    }
}

impl RecordType {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

fn serve(socket: &UdpSocket, records: &DnsRecords, stop: &AtomicBool) {
    let mut buffer = [0; LONGEST_MESSAGE];
    while !stop.load(Ordering::Acquire) {
        let Ok((length, client)) = receive(socket, &mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..length], records) {
            // A client that is gone needs no answer.
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    socket.recv_from(buffer)
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.number().to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The answer to a query; `None` when it is too short to be answered at all.
fn answer(query: &[u8], records: &DnsRecords) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let Some((name, kind, end)) = question(query) else {
        let mut message = header.to_vec();
        message[2..].copy_from_slice(&[0x81, 0x80 | FORMAT_ERROR, 0, 0, 0, 0, 0, 0, 0, 0]);
        return Some(message);
    };
    let found = records.get(&name);
    let data: Vec<Vec<u8>> = found
        .into_iter()
        .flatten()
        .filter_map(|ip| match (kind, ip) {
            (1, IpAddr::V4(ip)) => Some(ip.octets().to_vec()),
            (28, IpAddr::V6(ip)) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut message = query[..end].to_vec();
    let status = if found.is_some() { 0 } else { NAME_ERROR };
    // An answer, with recursion available; one question, the answers, nothing else.
    message[2..HEADER].copy_from_slice(&[0x81, 0x80 | status, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    for address in data {
        // The name is the question's, at offset 12; then type, class, 30 s to live, and the address.
        message.extend([0xc0, HEADER as u8]);
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(30u32.to_be_bytes());
        message.extend((address.len() as u16).to_be_bytes());
        message.extend(address);
    }
    Some(message)
}

/// Name and type of a query's only question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    if query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?.to_lowercase()),
            _ => return None,
        }
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    query.get(at + 2..at + 4)?;
    Some((labels.join("."), kind, at + 4))
}

/// The addresses in an answer whose question ends at `at`.
fn addresses(answer: &[u8], mut at: usize) -> Option<Vec<IpAddr>> {
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut addresses = Vec::new();
    for _ in 0..count {
        // A pointer to the name, type, class, time to live, length.
        let record = answer.get(at..at + 12)?;
        let length = usize::from(u16::from_be_bytes([record[10], record[11]]));
        let data = answer.get(at + 12..at + 12 + length)?;
        if let Ok(octets) = <[u8; 4]>::try_from(data) {
            addresses.push(Ipv4Addr::from(octets).into());
        } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
            addresses.push(Ipv6Addr::from(octets).into());
        }
        at += 12 + length;
    }
    Some(addresses)
}
