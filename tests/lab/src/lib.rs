//! The lab: two nodes with pods as network namespaces, with the kernel's real datapaths between them.
//!
//! ```no_run
//! use tracer_lab::{Lab, Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::build(Topology::CiliumLegacyRouting)?;
//! let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
//! let _server = httpbin.serve_http(80)?;
//! let capture = lab.capture_everywhere()?;
//!
//! let answer = curl.curl(&format!("http://{}:80/", httpbin.ipv4()))?;
//!
//! let captured = capture.stop()?;
//! assert_eq!((answer.status, captured.dropped), (200, 0));
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `options` | topologies, kube-proxy's modes |
//! | `needs` | what a kernel lacks for them |
//! | `plan` | names, addresses and MAC addresses; Services |
//! | `lab` | the lab, its nodes and pods |
//! | `netns`, `netlink` | namespaces, and what is configured in them |
//! | `wire`, `topology` | the wire between the nodes, which may lose and delay; one file per kind of CNI |
//! | `service` | what kube-proxy makes of Services, in each of its modes |
//! | `traffic` | curl, HTTP, DNS, ping, UDP floods |
//! | `capture` | what really passed every device |
//! | `fault` | what goes wrong at a node, so that its kernel drops packets |
//! | `foreign` | programs of others at tc and TCX hooks |
//! | `inventory` | the lab as `kubectl get -o yaml` prints a cluster |
//!
//! It needs root, and shares no code with tracer: what it says is the truth that tracer is compared with.

mod capture;
mod fault;
mod foreign;
mod inventory;
mod lab;
mod needs;
mod netlink;
mod netns;
mod options;
mod plan;
mod service;
mod topology;
mod traffic;
mod wire;

pub use crate::capture::{Capture, Captured, CapturedPacket};
pub use crate::fault::{Fault, Injected};
pub use crate::foreign::{Direction, Foreign, ForeignHook, ForeignProgram, ForeignVerdict};
pub use crate::lab::{Lab, Node, Pod, Redirection};
pub use crate::netns::Netns;
pub use crate::options::{KubeProxy, Options, StandIns, Topology, Wire};
pub use crate::plan::{Mac, Protocol, Service, ServicePort};
pub use crate::traffic::{
    CurlOutput, DnsRecords, DnsServer, Flood, HttpServer, PingReport, RecordType, UdpSink,
};
pub use crate::wire::{Arrival, Chance, Departure, Fate, Impairment, Relay, RelayLog, RelayOptions};
