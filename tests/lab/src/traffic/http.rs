//! An HTTP/1.1 server in the manner of httpbin: a thread for each connection, keep-alive, both address families.
//!
//! | request | answer |
//! |---|---|
//! | `GET /`, `GET /get` | JSON: arguments, headers, origin, url |
//! | `GET /bytes/N` | N bytes |
//! | `GET /status/N` | that status |
//! | `GET /delay/N` | nothing, after N milliseconds, ten seconds at most |
//! | `POST /post` | JSON: how many bytes came |

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::listen;
use crate::lab::Pod;

/// The longest request line or header that is read.
const LONGEST_LINE: u64 = 64 << 10;

/// The longest that a client can make the server wait.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// A running server.
pub struct HttpServer {
    address: SocketAddr,
    stop: Arc<OwnedFd>,
    connections: Arc<Connections>,
    acceptor: Option<JoinHandle<()>>,
}

/// Open connections, so that they can be ended from outside, and their threads.
#[derive(Default)]
struct Connections {
    open: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl Pod {
    /// Serves HTTP on a port of all the pod's addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve_http(&self, port: u16) -> Result<HttpServer> {
        let listener =
            listen(self, &format!("TCP port {port}"), || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        HttpServer::start(listener)
    }
}

impl HttpServer {
    fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().context("a listener without address")?;
        listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an eventfd")?);
        let connections = Arc::new(Connections::default());
        let acceptor = thread::spawn({
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            move || accept(&listener, &stop, &connections)
        });
        Ok(Self { address, stop, connections, acceptor: Some(acceptor) })
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Nothing here can fail in a way that a test could use.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let open = std::mem::take(&mut *self.connections.lock());
        for (stream, thread) in open {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Vec<(TcpStream, JoinHandle<()>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let handle = stream.try_clone()?;
        // A client that goes away in the middle of an answer ends its connection; that is all.
        let thread = thread::spawn(move || drop(serve(&stream)));
        let mut open = self.lock();
        open.retain(|(_, thread)| !thread.is_finished());
        open.push((handle, thread));
        Ok(())
    }
}

fn accept(listener: &TcpListener, stop: &OwnedFd, connections: &Connections) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if poll(&mut fds, None).is_err() || !fds[1].revents().is_empty() {
            return;
        }
        if let Ok((stream, _)) = listener.accept() {
            // A connection that is gone already needs no server.
            let _ = connections.add(stream);
        }
    }
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(line) = read_line(reader)? else { return Ok(None) };
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut headers = Vec::new();
        while let Some(line) = read_line(reader)?.filter(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        Ok(Some(Self { method, target, headers }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.take(LONGEST_LINE).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end().to_owned()))
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let received = match request.header("content-length").and_then(|value| value.parse().ok()) {
            Some(length) => {
                if request.header("expect").is_some() {
                    (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                io::copy(&mut (&mut reader).take(length), &mut io::sink())?
            }
            None => 0,
        };
        answer(stream, &request, received, peer)?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

fn answer(stream: &TcpStream, request: &Request, received: u64, peer: SocketAddr) -> io::Result<()> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut segments = path.trim_matches('/').splitn(2, '/');
    let (first, rest) = (segments.next().unwrap_or(""), segments.next());
    match (request.method.as_str(), first, rest) {
        ("GET", "" | "get", None) => {
            write_answer(stream, 200, "application/json", facts(request, query, peer).as_bytes())
        }
        ("GET", "bytes", Some(count)) if count.parse::<usize>().is_ok() => {
            let count = count.parse().unwrap_or(0);
            let body: Vec<u8> = (b'a'..=b'z').cycle().take(count).collect();
            write_answer(stream, 200, "application/octet-stream", &body)
        }
        ("GET", "status", Some(status)) if status.parse::<u16>().is_ok() => {
            write_answer(stream, status.parse().unwrap_or(500), "text/plain", b"")
        }
        ("GET", "delay", Some(delay)) if delay.parse::<u64>().is_ok() => {
            let delay = Duration::from_millis(delay.parse().unwrap_or(0)).min(LONGEST_DELAY);
            // sleep: the delay is what the client asks for.
            thread::sleep(delay);
            write_answer(stream, 200, "text/plain", b"")
        }
        ("POST", "post", None) => {
            let body = format!(
                "{{\n  \"origin\": \"{}\",\n  \"received\": {received}\n}}\n",
                peer.ip().to_canonical()
            );
            write_answer(stream, 200, "application/json", body.as_bytes())
        }
        _ => write_answer(stream, 404, "text/plain", b"not found\n"),
    }
}

fn facts(request: &Request, query: &str, peer: SocketAddr) -> String {
    let arguments = query.split('&').filter_map(|pair| pair.split_once('='));
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    format!(
        "{{\n  \"args\": {},\n  \"headers\": {},\n  \"origin\": {},\n  \"url\": {}\n}}\n",
        object(arguments),
        object(headers),
        quote(&peer.ip().to_canonical().to_string()),
        quote(&format!("http://{}{}", request.header("host").unwrap_or("-"), request.target)),
    )
}

fn object<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let members: Vec<_> =
        members.map(|(name, value)| format!("\n    {}: {}", quote(name), quote(value))).collect();
    if members.is_empty() { "{}".to_owned() } else { format!("{{{}\n  }}", members.join(",")) }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            // Writing to a String cannot fail.
            control if control.is_control() => drop(write!(out, "\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn write_answer(mut stream: &TcpStream, status: u16, content_type: &str, body: &[u8]) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        404 => "NOT FOUND",
        _ => "-",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nServer: tracer-lab\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // One write, so that a small answer is one packet.
    let mut answer = head.into_bytes();
    answer.extend_from_slice(body);
    stream.write_all(&answer)
}
