//! What `tracer observe` writes on each node is joined by a follow elsewhere as if one process had seen all of it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tracer_integration::{Follow, Observe, Report, Tracer, Trajectory, Verdict, fifo, lab};
use tracer_lab::{Lab, RecordType, Topology};

const SELECTION: [&str; 4] = ["--pod", "curl", "--to", "httpbin"];
const NEAR: &str = "telekom-xwkb3";
const FAR: &str = "telekom-xwkb8";
/// The name that the lab's DNS is asked for.
const NAME: &str = "kube-dns.kube-system.svc.cluster.local";
const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_live_streams_are_joined_for_tcp_udp_and_icmp() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let live = Live::start(&lab);
    let sent = traffic(&lab);
    live.follow.eventually(SOON, "all pings are told", |told| of(told, "icmp").count() >= sent.icmp);
    let report = live.stop();
    assert_joined(&report, &sent);
    let streams = &report.summary().streams;
    assert_eq!(streams.iter().map(|stream| stream.nodes.join(",")).collect::<Vec<_>>(), [NEAR, FAR]);
    assert!(
        streams.iter().all(|stream| !stream.kernel.is_empty() && stream.end == "interrupted"),
        "{streams:?}"
    );
}

#[test]
fn two_recordings_are_joined_for_tcp_udp_and_icmp() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = TempDir::new().unwrap();
    let paths = ["near.stream", "far.stream"].map(|name| directory.path().join(name));
    let observers: Vec<Observe> = paths
        .iter()
        .zip([NEAR, FAR])
        .map(|(path, node)| tracer.observe(&with_node(node), File::create(path).unwrap()).unwrap())
        .collect();
    let sent = traffic(&lab);
    observers.into_iter().for_each(|observe| observe.stop().unwrap());

    let follow = tracer.follow_streams(&[&paths[0], &paths[1]], &SELECTION).unwrap();
    assert_joined(&follow.until_its_end().unwrap(), &sent);
}

#[test]
fn the_stream_of_one_node_alone_says_that_the_other_is_not_observed() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("near.stream");
    let observe = tracer.observe(&with_node(NEAR), File::create(&path).unwrap()).unwrap();
    assert_eq!(lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 2).unwrap().received, 2);
    observe.stop().unwrap();

    let report = tracer.follow_streams(&[&path], &SELECTION).unwrap().until_its_end().unwrap();
    assert!(of(&report.trajectories, "icmp").count() >= 2);
    for told in &report.trajectories {
        assert!(told.hops.iter().all(|hop| hop.node == NEAR), "{told}");
        assert_ne!(told.verdict, Verdict::Lost, "{told}");
    }
}

#[test]
fn a_stream_that_stalls_delays_verdicts_and_makes_no_losses() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let live = Live::start(&lab);
    // Longer than the correlator waits for late records, shorter than what is called silence.
    live.observers[1].signal(Signal::STOP).unwrap();
    assert_eq!(
        lab.pod("curl").ping_with(lab.pod("httpbin").ipv4().into(), 10, &["-i", "0.2"]).unwrap().received,
        10
    );
    live.observers[1].signal(Signal::CONT).unwrap();
    live.follow.eventually(SOON, "all pings are told", |told| of(told, "icmp").count() >= 20);
    let report = live.stop();
    for told in of(&report.trajectories, "icmp") {
        assert_eq!(told.verdict, Verdict::Delivered, "{told}");
        assert_eq!(told.hops.len(), 8, "{told}");
    }
}

#[test]
fn a_stream_that_is_cut_off_is_said_and_no_loss_is_told_behind_it() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let live = Live::start(&lab);
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    assert_eq!(curl.ping(httpbin.ipv4().into(), 2).unwrap().received, 2);
    live.follow.eventually(SOON, "the first pings are told", |told| of(told, "icmp").count() >= 4);

    live.observers[1].signal(Signal::KILL).unwrap();
    live.follow.eventually_notices(SOON, "the stream's end is said with its node", |line| {
        line.contains("was cut off") && line.contains(FAR) && line.contains("not visible from now on")
    });
    assert_eq!(curl.ping(httpbin.ipv4().into(), 2).unwrap().received, 2);
    live.follow.eventually(SOON, "later pings are told", |told| of(told, "icmp").count() >= 8);

    let report = live.follow.stop().unwrap();
    assert!(
        report.trajectories.iter().all(|told| told.verdict != Verdict::Lost),
        "{:?}",
        report.trajectories
    );
    let streams = &report.summary().streams;
    assert_eq!(streams[0].end, "still running");
    assert!(streams[1].end.contains("was cut off"), "{streams:?}");
}

/// Two observers, a node each, and a follow that reads both.
struct Live {
    follow: Follow,
    observers: Vec<Observe>,
    _directory: TempDir,
    _tracer: Tracer,
}

impl Live {
    fn start(lab: &Lab) -> Self {
        let tracer = Tracer::new(lab).unwrap();
        let directory = TempDir::new().unwrap();
        let fifos = ["near", "far"].map(|name| fifo(directory.path(), name).unwrap());
        let follow = tracer.follow_streams(&[&fifos[0], &fifos[1]], &SELECTION).unwrap();
        let observers = fifos
            .iter()
            .zip([NEAR, FAR])
            .map(|(path, node)| tracer.observe(&with_node(node), open_to_write(path)).unwrap())
            .collect();
        follow.until_ready().unwrap();
        Self { follow, observers, _directory: directory, _tracer: tracer }
    }

    /// Ends the observers, and with their streams the follow.
    fn stop(self) -> Report {
        self.observers.into_iter().for_each(|observe| observe.stop().unwrap());
        self.follow.until_its_end().unwrap()
    }
}

/// Waits until somebody reads.
fn open_to_write(fifo: &Path) -> File {
    OpenOptions::new().write(true).open(fifo).unwrap()
}

fn with_node(node: &str) -> Vec<&str> {
    SELECTION.into_iter().chain(["--node", node]).collect()
}

/// What [`traffic`] must have sent at least, both directions.
struct Sent {
    icmp: usize,
    udp: usize,
    tcp: usize,
}

/// A page, a name and echoes from curl to httpbin.
fn traffic(lab: &Lab) -> Sent {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = httpbin.serve_http(80).unwrap();
    let dns = httpbin.serve_dns(53, lab.dns_records()).unwrap();
    let ip = httpbin.ipv4().into();
    assert_eq!(curl.curl(&format!("http://{ip}/")).unwrap().status, 200);
    assert_eq!(curl.dns_query(SocketAddr::new(ip, 53), NAME, RecordType::A).unwrap().len(), 1);
    assert_eq!(curl.ping(ip, 3).unwrap().received, 3);
    drop((web, dns));
    Sent { icmp: 6, udp: 2, tcp: 8 }
}

/// One trajectory per packet, with all hops of both nodes in order, from the right end to the right end.
fn assert_joined(report: &Report, sent: &Sent) {
    let count = |protocol| of(&report.trajectories, protocol).count();
    assert_eq!((count("icmp"), count("udp")), (sent.icmp, sent.udp));
    assert!(count("tcp") >= sent.tcp, "{}", count("tcp"));
    for told in &report.trajectories {
        assert_eq!(told.verdict, Verdict::Delivered, "{told}");
        let way: Vec<_> = told
            .path()
            .into_iter()
            .map(|(place, device, direction)| format!("{place} {device} {direction}"))
            .collect();
        let there = told.src.pod.as_deref() == Some("curl");
        assert_eq!(way, if there { THERE } else { BACK }, "{told}");
    }
    assert!(!report.summary().losses.is_any());
}

const THERE: [&str; 8] = [
    "default/curl eth0 egress",
    "telekom-xwkb3 cali2fec8217514 ingress",
    "telekom-xwkb3 vxlan.calico egress",
    "telekom-xwkb3 eth0 egress",
    "telekom-xwkb8 eth0 ingress",
    "telekom-xwkb8 vxlan.calico ingress",
    "telekom-xwkb8 calib5e64782955 egress",
    "default/httpbin eth0 ingress",
];

const BACK: [&str; 8] = [
    "default/httpbin eth0 egress",
    "telekom-xwkb8 calib5e64782955 ingress",
    "telekom-xwkb8 vxlan.calico egress",
    "telekom-xwkb8 eth0 egress",
    "telekom-xwkb3 eth0 ingress",
    "telekom-xwkb3 vxlan.calico ingress",
    "telekom-xwkb3 cali2fec8217514 egress",
    "default/curl eth0 ingress",
];

fn of<'a>(told: &'a [Trajectory], protocol: &'a str) -> impl Iterator<Item = &'a Trajectory> {
    told.iter().filter(move |told| told.protocol == protocol)
}
