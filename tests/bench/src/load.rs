//! The traffic: pod curl sends to pod httpbin on the other node, all in one kernel. The sender is on the first CPU, what
//! receives on the last one. There are two such networks, which are compared.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{CpuSet, sched_setaffinity};
use tracer_lab::{Lab, Pod};

use crate::turns::{Turns, median};

/// Payload of UDP packets, bytes.
pub(crate) const PAYLOAD: usize = 32;
const SINK: u16 = 9000;
const STREAM: u16 = 9001;
const ECHO: u16 = 9002;
/// What a receiver may fall behind by, bytes.
const ROOM: usize = 64 << 20;
/// Before packets are counted.
const REST: Duration = Duration::from_millis(500);
/// An answer that has not come after this does not come.
const ANSWER: Duration = Duration::from_millis(500);

/// What a run of all three kinds gave, in turns with the bare network.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Small packets, as many as there can be. The sending thread's CPU is the kernel's work for them down to the receiver's
    /// socket as well: without interrupts of their own, virtual devices hand packets on in the sender's context.
    pub(crate) udp: Turns,
    /// One stream each.
    pub(crate) tcp: Turns,
    /// Medians of request and response: of the bare network, and with something on it.
    pub(crate) round_trip: (Duration, Duration),
}

/// Small packets at a rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
}

/// Sender and receivers.
pub(crate) struct Ends {
    curl: Pod,
    server: Ipv4Addr,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Ends {
    /// Lets httpbin receive.
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
        let udp = |port: u16| -> Result<UdpSocket> {
            let socket = httpbin.netns().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
            set_socket_recv_buffer_size_force(&socket, ROOM)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        };
        let (sink, echo) = (udp(SINK)?, udp(ECHO)?);
        let listener = httpbin.netns().run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, STREAM)))??;
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let ends = Self { curl, server: httpbin.ipv4(), received, stop };
        ends.swallow(sink)?;
        ends.echo(echo);
        thread::spawn(move || {
            on_cpu(last_cpu());
            // One connection at a time; each until its client closes it.
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut buffer = vec![0; 256 << 10];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
        });
        Ok(ends)
    }

    /// Takes what has come every millisecond, and waits for nothing: a receiver that waits has to be woken for each packet or
    /// for none, as it happens to be faster or slower than the sender, and the sender pays for it.
    fn swallow(&self, socket: UdpSocket) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(1);
        socket.set_nonblocking(true)?;
        let (received, stop) = (Arc::clone(&self.received), Arc::clone(&self.stop));
        thread::spawn(move || {
            on_cpu(last_cpu());
            while !stop.load(Ordering::Relaxed) {
                while socket.recv(&mut [0; 2048]).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
                // sleep: see above.
                thread::sleep(LOOK);
            }
        });
        Ok(())
    }

    /// Answers each packet with itself.
    fn echo(&self, socket: UdpSocket) {
        let stop = Arc::clone(&self.stop);
        thread::spawn(move || {
            on_cpu(last_cpu());
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..count], from);
                }
            }
        });
    }

    /// So many packets a second.
    pub(crate) fn udp_at(&self, rate: u32, seconds: f64) -> Result<Udp> {
        let socket = self.socket((self.server, SINK).into())?;
        // sleep: a virtual machine that has just been busy (a tool was started) may get less of its CPUs for a while.
        thread::sleep(REST);
        let udp = in_thread(move || {
            let mut packets = 0_u64;
            let start = Instant::now();
            while start.elapsed().as_secs_f64() < seconds {
                packets += send(&socket, packets);
                let due = Duration::from_secs_f64(packets as f64 / f64::from(rate));
                while start.elapsed() < due {
                    std::hint::spin_loop();
                }
            }
            Udp { packets, seconds: start.elapsed().as_secs_f64() }
        })?;
        self.settle();
        Ok(udp)
    }

    /// Until everything that is on its way has arrived.
    pub(crate) fn settle(&self) {
        let mut last = u64::MAX;
        loop {
            let now = self.received.load(Ordering::Relaxed);
            if now == last {
                return;
            }
            last = now;
            // sleep: the time that the receiver must be quiet for.
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Of curl, to one address.
    pub(crate) fn socket(&self, to: SocketAddr) -> Result<UdpSocket> {
        let bound = self.curl.netns().run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        bound.with_context(|| format!("cannot send to {to}"))
    }

    /// Sends small packets so many times a second for as long as the guard lives.
    pub(crate) fn trickle(&self, rate: u32) -> Result<Trickle> {
        let socket = self.socket((self.server, SINK).into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let pause = Duration::from_secs(1) / rate;
        thread::spawn(move || {
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let _ = socket.send(&[&number.to_be_bytes()[..], &[0; PAYLOAD - 8]].concat());
                number += 1;
                // sleep: the rate that was asked for.
                thread::sleep(pause);
            }
        });
        Ok(Trickle(stop))
    }
}

/// As many small packets as there can be, over both networks in turns.
pub(crate) fn udp(bare: &Ends, with: &Ends, seconds: f64) -> Result<Turns> {
    const TURN: Duration = Duration::from_millis(20);
    let burst = |ends: &Ends| -> Result<_> {
        let socket = ends.socket((ends.server, SINK).into())?;
        let mut packets = 0;
        Ok(move || {
            let sent: u64 = (0..16).map(|number| send(&socket, packets + number)).sum();
            packets += 16;
            Ok(sent)
        })
    };
    let (bare_burst, with_burst) = (burst(bare)?, burst(with)?);
    // sleep: as in `udp_at`.
    thread::sleep(REST);
    let turns = in_thread(|| Turns::take(seconds, TURN, bare_burst, with_burst))??;
    bare.settle();
    with.settle();
    Ok(turns)
}

/// One stream over each network, in turns.
pub(crate) fn tcp(bare: &Ends, with: &Ends, seconds: f64) -> Result<Turns> {
    /// Long beside the time that the buffers of a stream last.
    const TURN: Duration = Duration::from_millis(100);
    let chunk = vec![0; 64 << 10];
    let stream = |ends: &Ends| -> Result<_> {
        let server = SocketAddr::new(IpAddr::V4(ends.server), STREAM);
        let mut stream = ends.curl.netns().run(|| TcpStream::connect(server))??;
        let chunk = &chunk;
        Ok(move || Ok(stream.write(chunk).context("the stream broke")? as u64))
    };
    let (bare_stream, with_stream) = (stream(bare)?, stream(with)?);
    in_thread(|| Turns::take(seconds, TURN, bare_stream, with_stream))?
}

/// Medians of one request at a time, over both networks in turns.
pub(crate) fn round_trip(bare: &Ends, with: &Ends, seconds: f64) -> Result<(Duration, Duration)> {
    let sockets = [bare, with].map(|ends| -> Result<_> {
        let socket = ends.socket((ends.server, ECHO).into())?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok((socket, Vec::new()))
    });
    let [bare, with] = sockets;
    let (mut bare, mut with) = (bare?, with?);
    in_thread(|| -> Result<()> {
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < 2.0 * seconds {
            for (socket, times) in [&mut bare, &mut with] {
                let asked = Instant::now();
                socket.send(&[0; PAYLOAD])?;
                socket.recv(&mut [0; PAYLOAD]).context("no answer")?;
                times.push(asked.elapsed().as_secs_f64());
            }
        }
        Ok(())
    })??;
    let [bare, with] = [bare.1, with.1].map(|times| Duration::try_from_secs_f64(median(times)));
    Ok((bare.context("not one answer")?, with.context("not one answer")?))
}

/// One small packet with a number in it; 1 if it went.
fn send(socket: &UdpSocket, number: u64) -> u64 {
    let mut payload = [0; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    u64::from(socket.send(&payload).is_ok())
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// See [`Ends::trickle`].
pub(crate) struct Trickle(Arc<AtomicBool>);

impl Drop for Trickle {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            on_cpu(0);
            work()
        });
        worker.join().map_err(|_| anyhow::anyhow!("the sender has panicked"))
    })
}

/// Keeps this thread on one CPU; where that is not allowed the figures are only noisier.
fn on_cpu(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

pub(crate) fn last_cpu() -> usize {
    thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1)
}
