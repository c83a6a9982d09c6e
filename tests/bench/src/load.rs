//! The traffic: pod curl sends to pod httpbin on the other node, all in one kernel. The sender is on the first CPU, what
//! receives on the last one.

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

use crate::slices::Slices;

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

/// What a run of all three kinds gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) udp: Udp,
    /// Bytes a second.
    pub(crate) tcp: f64,
    /// Median of request and response.
    pub(crate) round_trip: Duration,
}

/// Small packets, as many as there can be. What costs and rates are told of it are those of its best slices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
    /// Packets a second.
    pub(crate) rate: f64,
    /// Nanoseconds of the sending thread's CPU for a packet, with the kernel's work for it down to the receiver's socket:
    /// without interrupts of their own, virtual devices hand packets on in the sender's context.
    pub(crate) cpu_per_packet_ns: f64,
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
    /// for none, as it happens to be slower or faster than the sender, and waking another CPU of a virtual machine costs
    /// the sender as much as all hops together.
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

    /// All three kinds, one after the other, for so many seconds each.
    pub(crate) fn load(&self, seconds: f64) -> Result<Load> {
        Ok(Load { udp: self.udp(seconds)?, tcp: self.tcp(seconds)?, round_trip: self.round_trip(seconds)? })
    }

    /// As many packets as there can be.
    pub(crate) fn udp(&self, seconds: f64) -> Result<Udp> {
        self.send(Duration::from_secs_f64(seconds), None)
    }

    /// So many packets a second.
    pub(crate) fn udp_at(&self, rate: u32, seconds: f64) -> Result<Udp> {
        self.send(Duration::from_secs_f64(seconds), Some(rate))
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

    fn send(&self, time: Duration, rate: Option<u32>) -> Result<Udp> {
        let socket = self.socket((self.server, SINK).into())?;
        // sleep: both of a pair begin from rest. A virtual machine that has just been busy (a tool was started) may get
        // less of its CPUs for a while.
        thread::sleep(REST);
        let udp = in_thread(move || {
            let payload = &mut [0; PAYLOAD];
            let (start, mut packets) = (Instant::now(), 0_u64);
            let mut slices = Slices::begin();
            while start.elapsed() < time {
                for _ in 0..16 {
                    payload[..8].copy_from_slice(&packets.to_be_bytes());
                    packets += u64::from(socket.send(payload).is_ok());
                    if let Some(rate) = rate {
                        let due = Duration::from_secs_f64(packets as f64 / f64::from(rate));
                        while start.elapsed() < due {
                            std::hint::spin_loop();
                        }
                    }
                }
                slices.note(packets);
            }
            let seconds = start.elapsed().as_secs_f64();
            let (wall, cpu) = slices.best();
            Udp { packets, seconds, rate: 1.0 / wall, cpu_per_packet_ns: cpu * 1e9 }
        })?;
        self.settle();
        Ok(udp)
    }

    /// One stream, bytes a second.
    pub(crate) fn tcp(&self, seconds: f64) -> Result<f64> {
        let server = SocketAddr::new(IpAddr::V4(self.server), STREAM);
        let mut stream = self.curl.netns().run(|| TcpStream::connect(server))??;
        in_thread(move || {
            let chunk = vec![0; 64 << 10];
            let (start, mut written) = (Instant::now(), 0_u64);
            let mut slices = Slices::begin();
            while start.elapsed().as_secs_f64() < seconds {
                written += stream.write(&chunk).context("the stream broke")? as u64;
                slices.note(written);
            }
            Ok(1.0 / slices.best().0)
        })?
    }

    /// Median of one request at a time.
    pub(crate) fn round_trip(&self, seconds: f64) -> Result<Duration> {
        let socket = self.socket((self.server, ECHO).into())?;
        socket.set_read_timeout(Some(ANSWER))?;
        let mut times = in_thread(move || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            let start = Instant::now();
            while start.elapsed().as_secs_f64() < seconds {
                let asked = Instant::now();
                socket.send(&[0; PAYLOAD])?;
                socket.recv(&mut [0; PAYLOAD]).context("no answer")?;
                times.push(asked.elapsed());
            }
            Ok(times)
        })??;
        times.sort_unstable();
        times.get(times.len() / 2).copied().context("not one answer")
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
