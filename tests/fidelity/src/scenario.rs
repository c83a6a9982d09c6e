//! What is sent, between whom, and over what kind of wire. A wire may lose what is sent: then clients fail, which is no
//! failure of a scenario.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_lab::{Flood, Impairment, Lab, Pod, Protocol, RecordType, ServicePort};

use crate::record::Onlookers;

const FAR: &str = "telekom-xwkb8";
const NEAR: &str = "telekom-xwkb3";
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);
const BULK_PORT: u16 = 5201;
/// The port of a Service's ClusterIP, and that of its pods.
const SERVICE_PORT: u16 = 8000;
const POD_PORT: u16 = 80;
/// A name that the lab's DNS knows.
const NAME: &str = "httpbin.default.svc.cluster.local";

/// What a wire does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireKind {
    pub(crate) name: &'static str,
    pub(crate) impairments: [Impairment; 2],
}

const fn both(name: &'static str, impairment: Impairment) -> WireKind {
    WireKind { name, impairments: [impairment; 2] }
}

pub(crate) const WIRES: [WireKind; 6] = [
    both("clean", Impairment::NONE),
    WireKind {
        name: "delay",
        impairments: [
            Impairment {
                delay: Duration::from_millis(3),
                jitter: Duration::from_millis(1),
                ..Impairment::NONE
            },
            Impairment {
                delay: Duration::from_millis(2),
                jitter: Duration::from_micros(500),
                ..Impairment::NONE
            },
        ],
    },
    both("loss", Impairment { loss: 0.03, ..Impairment::NONE }),
    both("duplicate", Impairment { duplicate: 0.05, ..Impairment::NONE }),
    both("reorder", Impairment { reorder: 0.05, reorder_by: Duration::from_millis(3), ..Impairment::NONE }),
    both("mtu", Impairment { mtu: Some(1200), ..Impairment::NONE }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Curl,
    Bulk,
    Dns,
    Ping,
    Flows,
    Churn,
}

impl Scenario {
    pub(crate) const ALL: [Self; 6] =
        [Self::Curl, Self::Bulk, Self::Dns, Self::Ping, Self::Flows, Self::Churn];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Bulk => "bulk",
            Self::Dns => "dns",
            Self::Ping => "ping",
            Self::Flows => "flows",
            Self::Churn => "churn",
        }
    }

    /// Whom to follow.
    pub(crate) const fn selection(self) -> [&'static str; 4] {
        match self {
            Self::Curl | Self::Bulk | Self::Ping => ["--pod", "curl", "--to", "httpbin"],
            Self::Dns => ["--pod", "curl", "--to", "kube-dns.kube-system"],
            Self::Flows | Self::Churn => ["--pod", "curl", "--to", "svc/many"],
        }
    }

    /// What must be there before anything is observed.
    ///
    /// # Errors
    /// When the lab refuses.
    pub(crate) fn prepare(self, lab: &mut Lab) -> Result<()> {
        if matches!(self, Self::Flows | Self::Churn) {
            let port = ServicePort {
                name: "http",
                protocol: Protocol::Tcp,
                port: SERVICE_PORT,
                target_port: POD_PORT,
            };
            lab.add_pod(FAR, "another")?;
            lab.add_service(
                "many",
                0x55,
                vec![port],
                &["httpbin", "another", "httpbin-local", "late", "later"],
            )?;
        }
        // A path with a smaller MTU is found out by TCP itself: no router tells.
        for pod in lab.pods() {
            pod.netns().set_sysctls(&[("net/ipv4/tcp_mtu_probing", "1")])?;
        }
        Ok(())
    }

    /// Sends, and lets the onlookers know of pods that come and go. `scale` is how much, in tenths.
    ///
    /// # Errors
    /// When a server cannot be started, or a pod that comes is not observed.
    pub(crate) fn run(self, lab: &mut Lab, scale: u64, onlookers: &mut Onlookers<'_>) -> Result<()> {
        let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
        match self {
            Self::Curl => {
                let _server = httpbin.serve_http(POD_PORT)?;
                for _ in 0..scale.div_ceil(3) {
                    for ip in httpbin.ips() {
                        for path in ["/get?a=b", "/bytes/40000"] {
                            let url = format!("http://{}{path}", SocketAddr::new(ip, POD_PORT));
                            let _ = curl.curl_with(&url, &["--max-time", "3"]);
                        }
                    }
                }
            }
            Self::Bulk => {
                for ip in httpbin.ips() {
                    bulk(&curl, &httpbin, ip, 100_000 * scale as usize)?;
                }
            }
            Self::Dns => {
                let coredns = lab.pod("coredns");
                let _server = coredns.serve_dns(53, lab.dns_records())?;
                let ips = lab.service("kube-dns").cluster_ips();
                in_parallel(8, |turn| {
                    for _ in 0..scale {
                        let to = SocketAddr::new(ips[turn % 2], 53);
                        let kind = if turn % 4 < 2 { RecordType::A } else { RecordType::Aaaa };
                        let _ = curl.dns_query(to, NAME, kind);
                    }
                });
                let sink = Flood { packets: 20 * scale, payload: 64, rate: Some(5_000) };
                // Datagrams that no DNS answers.
                for ip in ips {
                    let _ = curl.udp_flood(SocketAddr::new(ip, 53), sink);
                }
            }
            Self::Ping => {
                for ip in httpbin.ips() {
                    ping_flood(&curl, ip, 30 * scale, 56)?;
                    ping_flood(&curl, ip, 5 * scale, 1300)?;
                }
            }
            Self::Flows => {
                let pods = ["httpbin", "another", "httpbin-local"].map(|name| lab.pod(name));
                let servers = pods.iter().map(|pod| pod.serve_http(POD_PORT)).collect::<Result<Vec<_>>>()?;
                let ips = lab.service("many").cluster_ips();
                in_parallel(8, |turn| {
                    for _ in 0..scale {
                        let _ = get(&curl, SocketAddr::new(ips[turn % 2], SERVICE_PORT), 3000);
                    }
                });
                drop(servers);
            }
            Self::Churn => {
                let pods = ["httpbin", "another"].map(|name| lab.pod(name));
                let _servers = pods.iter().map(|pod| pod.serve_http(POD_PORT)).collect::<Result<Vec<_>>>()?;
                let ips = lab.service("many").cluster_ips();
                let send = || {
                    in_parallel(4, |turn| {
                        for _ in 0..scale.div_ceil(3) {
                            let _ = get(&curl, SocketAddr::new(ips[turn % 2], SERVICE_PORT), 500);
                        }
                    });
                };
                let late = lab.add_pod(NEAR, "late")?;
                let server = late.serve_http(POD_PORT)?;
                onlookers.welcome(&late, lab)?;
                send();
                let later = lab.add_pod(FAR, "later")?;
                let second = later.serve_http(POD_PORT)?;
                onlookers.welcome(&later, lab)?;
                send();
                drop(server);
                lab.relay().context("a lab without a relay")?.settle()?;
                lab.delete_pod("late")?;
                send();
                drop(second);
                lab.relay().context("a lab without a relay")?.settle()?;
                lab.delete_pod("later")?;
            }
        }
        Ok(())
    }
}

fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for turn in 0..count {
            scope.spawn(move || work(turn));
        }
    });
}

/// One request over a connection of its own.
fn get(from: &Pod, to: SocketAddr, bytes: usize) -> Result<()> {
    let mut stream = from.tcp_connect(to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /bytes/{bytes} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Sends as fast as TCP does, one way, for a while at most.
fn bulk(from: &Pod, to: &Pod, ip: IpAddr, bytes: usize) -> Result<()> {
    let listener =
        to.netns().run(|| TcpListener::bind((ip, BULK_PORT)))?.context("cannot listen for bulk data")?;
    thread::scope(|scope| {
        let sink = scope.spawn(|| sink(&listener));
        let _ = send(from, SocketAddr::new(ip, BULK_PORT), bytes);
        // It ends with the connection, or for want of one.
        let _ = sink.join();
    });
    Ok(())
}

fn sink(listener: &TcpListener) -> Result<()> {
    let timeout = Timespec::try_from(PATIENCE)?;
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout))? == 0 {
        return Ok(());
    }
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn send(from: &Pod, to: SocketAddr, bytes: usize) -> Result<()> {
    let mut stream: TcpStream = from.tcp_connect(to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // No two segments have equal bytes.
    let data: Vec<u8> =
        (0..bytes.div_ceil(8) as u64).flat_map(|number| (number ^ 0x5eed_5eed).to_be_bytes()).collect();
    stream.write_all(&data)?;
    Ok(())
}

fn ping_flood(from: &Pod, to: IpAddr, count: u64, size: u32) -> Result<()> {
    let mut ping = from.netns().command("ping");
    let arguments =
        ["-n", "-q", "-f", "-w", "4", "-W", "1", "-c", &count.to_string(), "-s", &size.to_string()];
    ping.args(arguments).arg(to.to_string());
    // How many come back is for the judge to say.
    ping.stdout(File::create("/dev/null")?).stderr(File::create("/dev/null")?);
    ping.status().context("cannot start ping; install iputils-ping")?;
    Ok(())
}
