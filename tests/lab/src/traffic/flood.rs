//! Many UDP datagrams, counted at both ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::listen;
use crate::lab::Pod;

/// What a flood sends.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// How many datagrams.
    pub packets: u64,
    /// Bytes in each; at least 8. The first eight are the datagram's number, so that no two are equal.
    pub payload: usize,
    /// Datagrams per second; `None` is as fast as possible.
    pub rate: Option<u64>,
}

/// Takes all datagrams that come to a port.
pub struct UdpSink {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pod {
    /// Sends datagrams from one socket, and returns how many the kernel took.
    ///
    /// # Errors
    /// When the socket cannot be made or sending fails for another reason than a full queue or an ICMP error.
    pub fn udp_flood(&self, to: SocketAddr, flood: Flood) -> Result<u64> {
        let local: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = self
            .netns()
            .run(|| UdpSocket::bind(local).and_then(|socket| socket.connect(to).map(|()| socket)))?
            .with_context(|| format!("cannot send UDP to {to} from pod {}", self.name()))?;
        send_all(&socket, flood).with_context(|| format!("cannot send UDP to {to} from pod {}", self.name()))
    }

    /// Receives and counts all datagrams to a port, so that a flood is not answered by ICMP errors.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn udp_sink(&self, port: u16) -> Result<UdpSink> {
        let socket =
            listen(self, &format!("UDP port {port}"), || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("cannot set a timeout")?;
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (received, stop) = (Arc::clone(&received), Arc::clone(&stop));
            move || {
                let mut buffer = [0; 65536];
                while !stop.load(Ordering::Acquire) {
                    if socket.recv(&mut buffer).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(UdpSink { received, stop, thread: Some(thread) })
    }
}

impl UdpSink {
    /// Datagrams received so far. A full socket buffer may have lost some.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for UdpSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within its read timeout.
            let _ = thread.join();
        }
    }
}

fn send_all(socket: &UdpSocket, flood: Flood) -> io::Result<u64> {
    let mut payload = vec![0; flood.payload.max(8)];
    let start = Instant::now();
    let mut sent = 0;
    for number in 0..flood.packets {
        payload[..8].copy_from_slice(&number.to_be_bytes());
        loop {
            match socket.send(&payload) {
                Ok(_) => break sent += 1,
                // An earlier datagram was refused; that is told once, in place of sending this one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        if let Some(rate) = flood.rate {
            let due = Duration::from_secs_f64((number + 1) as f64 / rate as f64);
            if let Some(early) = due.checked_sub(start.elapsed())
                && early > Duration::from_millis(1)
            {
                // sleep: keeps to the rate that was asked for; shorter waits would be rounded up.
                thread::sleep(early);
            }
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
        }
    }
    Ok(sent)
}
