//! curl, ping and plain TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::{self, AddressFamily, SendFlags, SocketType};

use crate::lab::Pod;

/// What curl printed.
#[derive(Clone, Debug)]
pub struct CurlOutput {
    /// The HTTP status.
    pub status: u16,
    /// The answer's body.
    pub body: Vec<u8>,
    /// Address and port that curl sent from.
    pub local: SocketAddr,
    /// Address and port that curl connected to.
    pub remote: SocketAddr,
}

/// How many echo requests were sent and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingReport {
    pub sent: u32,
    pub received: u32,
}

impl Pod {
    /// `curl url` in the pod, with the real curl.
    ///
    /// # Errors
    /// When curl is missing or fails, with its message.
    pub fn curl(&self, url: &str) -> Result<CurlOutput> {
        self.curl_with(url, &[])
    }

    /// `curl arguments... url` in the pod; the arguments must not change what curl writes where.
    ///
    /// # Errors
    /// When curl is missing or fails, with its message.
    pub fn curl_with(&self, url: &str, arguments: &[&str]) -> Result<CurlOutput> {
        const FACTS: &str = "\n%{http_code} %{local_ip} %{local_port} %{remote_ip} %{remote_port}";
        let output = self
            .netns()
            .command("curl")
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20", "--write-out", FACTS])
            .args(arguments)
            .arg(url)
            .output()
            .context("cannot start curl; install curl")?;
        must_succeed(&output, || format!("curl {url} in pod {}", self.name()))?;
        let split = output.stdout.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let (body, facts) = output.stdout.split_at(split);
        let facts = String::from_utf8_lossy(facts);
        parse_facts(body, &facts).with_context(|| format!("cannot read curl's output {facts:?}"))
    }

    /// `ping -c count` in the pod, 20 ms apart, with the real ping. Unanswered requests are not an error.
    ///
    /// # Errors
    /// When ping is missing or cannot send.
    pub fn ping(&self, to: IpAddr, count: u32) -> Result<PingReport> {
        self.ping_with(to, count, &[])
    }

    /// As [`Pod::ping`], with more arguments (`["-s", "2000"]`).
    ///
    /// # Errors
    /// When ping is missing or cannot send.
    pub fn ping_with(&self, to: IpAddr, count: u32, arguments: &[&str]) -> Result<PingReport> {
        let output = self
            .netns()
            .command("ping")
            // Once an answer has come, ping waits for the others no longer than the interval or two round trips.
            .args(["-n", "-q", "-i", "0.1", "-W", "2", "-c", &count.to_string()])
            .args(arguments)
            .arg(to.to_string())
            .env("LC_ALL", "C")
            .output()
            .context("cannot start ping; install iputils-ping")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_ping(&text).with_context(|| {
            format!(
                "ping {to} in pod {} printed {text:?} and {:?}",
                self.name(),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Sends an ICMP echo reply that nobody asked for: conntrack calls it invalid.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn stray_echo_reply(&self, to: Ipv4Addr, sequence: u16) -> Result<()> {
        let message = echo_reply(sequence);
        let send = || -> rustix::io::Result<usize> {
            let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::ICMP))?;
            net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrV4::new(to, 0))
        };
        self.netns().run(send)?.with_context(|| format!("cannot send ICMP from pod {}", self.name()))?;
        Ok(())
    }

    /// Opens a TCP connection from the pod.
    ///
    /// # Errors
    /// As `TcpStream::connect_timeout`.
    pub fn tcp_connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.netns().run(|| TcpStream::connect_timeout(&to, timeout)).map_err(io::Error::other)?
    }
}

fn parse_facts(body: &[u8], facts: &str) -> Option<CurlOutput> {
    let mut words = facts.split_whitespace();
    let status = words.next()?.parse().ok()?;
    let mut socket = || {
        let ip: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(ip, words.next()?.parse().ok()?))
    };
    Some(CurlOutput { status, body: body.to_vec(), local: socket()?, remote: socket()? })
}

/// Reads "3 packets transmitted, 3 received, 0% packet loss".
fn parse_ping(text: &str) -> Option<PingReport> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |part: &str| part.split_whitespace().next()?.parse().ok();
    let mut parts = line.split(',');
    Some(PingReport { sent: number(parts.next()?)?, received: number(parts.next()?)? })
}

fn must_succeed(output: &Output, what: impl FnOnce() -> String) -> Result<()> {
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", what(), output.status, error.trim());
    }
    Ok(())
}

/// RFC 792, with the one's complement checksum of RFC 1071.
fn echo_reply(sequence: u16) -> [u8; 16] {
    const IDENTIFIER: u16 = 0x7261;
    let mut message = [0; 16];
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum: u32 = message.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    message
}
