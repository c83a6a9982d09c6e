//! What is lost is counted and told; what is not lost is whole.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tracer_integration::{
    Losses, Report, Summary, Tracer, Verdict, device_counters, kernel_version, wait_until,
};
use tracer_lab::{Flood, Lab, Pod, Topology};

const NODES: [&str; 2] = ["telekom-xwkb3", "telekom-xwkb8"];
const FOLLOWED: [&str; 8] = ["--pod", "curl", "--to", "httpbin", "--protocol", "udp", "--port", "9000"];
const PORT: u16 = 9000;
/// Points on the way from curl to httpbin: pod, veth peer, tunnel and NIC, on each node.
const POINTS: u64 = 8;
/// Each of these passes all points, as request and as answer, while the flood goes on.
const PINGS: u32 = 20;
const SOON: Duration = Duration::from_secs(30);

const AS_FAST_AS_POSSIBLE: Flood = Flood { packets: 20_000, payload: 64, rate: None };

/// At full speed the sender, the kernel's work for it and whatever else runs may leave the program no CPU at all.
fn within_a_second(packets: u64) -> Flood {
    Flood { packets, payload: 64, rate: Some(packets) }
}

/// What the kernel's own counters say of a flood.
struct Counted {
    /// Packets that passed the followed hooks, by the devices.
    passed: u64,
    /// Datagrams for which httpbin's socket had no room.
    refused: u64,
}

/// Floods httpbin from curl between `start` and `stop` of a follow; gives what `stop` gives, and what the kernel counted.
fn flood<F, T>(flood: Flood, start: impl FnOnce(&Tracer) -> F, stop: impl FnOnce(F) -> T) -> (T, Counted) {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _sink = httpbin.udp_sink(PORT).unwrap();
    // Neighbours are resolved before, so that no datagram waits for that.
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let tracer = Tracer::new(&lab).unwrap();
    let follow = start(&tracer);
    let passed = || -> u64 {
        let on_nodes = NODES.iter().zip([&curl, &httpbin]).flat_map(|(name, pod)| {
            let node = lab.node(name).netns().clone();
            let of_node =
                ["eth0", "vxlan.calico", pod.host_device()].map(|device| device_counters(&node, device));
            of_node.into_iter().chain([device_counters(pod.netns(), "eth0")])
        });
        on_nodes.map(|counters| counters.unwrap()).map(|(received, sent)| received + sent).sum()
    };

    let before = passed();
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| curl.ping(httpbin.ipv4().into(), PINGS).unwrap().received);
        let to = SocketAddr::new(httpbin.ipv4().into(), PORT);
        assert_eq!(curl.udp_flood(to, flood).unwrap(), flood.packets);
        assert_eq!(pings.join().unwrap(), PINGS, "other traffic is not harmed");
    });
    wait_until(SOON, "the last datagram has arrived", || {
        (passed() - before >= (flood.packets + u64::from(PINGS) * 2) * POINTS).then_some(())
    });
    let told = stop(follow);
    (told, Counted { passed: passed() - before, refused: refused_by_sockets(&httpbin) })
}

/// `UdpRcvbufErrors` of a pod.
fn refused_by_sockets(pod: &Pod) -> u64 {
    let text = pod.netns().run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    columns.find(|(name, _)| *name == "RcvbufErrors").unwrap().1.parse().unwrap()
}

/// What a slow receiver has no room for is dropped; all else is delivered.
#[track_caller]
fn assert_delivered_or_refused(summary: &Summary, sent: u64, counted: &Counted) {
    let dropped = if kernel_version() < (5, 17) { 0 } else { counted.refused };
    assert_eq!((summary.packets.total, summary.packets.dropped), (sent, dropped), "{summary:?}");
    assert_eq!(summary.packets.delivered, sent - dropped, "{summary:?}");
}

/// Every packet that came to a hook has exactly one outcome, and every datagram is recorded or counted as lost.
#[track_caller]
fn assert_all_accounted_for(summary: &Summary, sent: u64, passed: u64) {
    let hooks = &summary.hooks;
    assert_eq!(
        hooks.recorded + hooks.ring_full,
        sent * POINTS,
        "recorded + lost == sent x points: {hooks:?}"
    );
    assert!(hooks.filtered >= u64::from(PINGS) * 2 * POINTS, "the pings are filtered: {hooks:?}");
    assert_eq!((hooks.truncated, hooks.malformed, hooks.too_deep, hooks.internal), (0, 0, 0, 0));
    let at_hooks = hooks.recorded + hooks.ring_full + hooks.filtered + hooks.not_ip;
    // A few frames of the kernel's own, such as neighbour discovery, pass before the first and behind the last look.
    assert!(at_hooks.abs_diff(passed) <= 64, "{at_hooks} packets at the hooks, {passed} at the devices");
    assert_eq!(summary.losses.ring_full, hooks.ring_full);
    assert_eq!((summary.losses.undecodable, summary.losses.unattributed), (0, 0));
}

/// A loss is in the output wherever it matters, and is not taken for a lost packet.
fn a_ring_that_overflows(bytes: &str) {
    let sent = AS_FAST_AS_POSSIBLE.packets;
    let arguments = [&FOLLOWED[..], &["--ring-bytes", bytes]].concat();
    let (report, counted): (Report, Counted) = flood(
        AS_FAST_AS_POSSIBLE,
        |tracer| tracer.follow(&arguments).unwrap(),
        |follow| follow.stop().unwrap(),
    );

    assert!(report.exit.success(), "{:?}", report.stderr);
    let summary = report.summary();
    assert_all_accounted_for(summary, sent, counted.passed);
    // Whether the ring overflows or, behind a reader that keeps up with it, the channel: the loss is told.
    assert!(
        summary.losses.ring_full + summary.losses.channel_full > 0,
        "{bytes} bytes overflow: {summary:?}"
    );
    let uncertain = report.trajectories.iter().filter(|told| told.lost_records > 0).count();
    assert!(uncertain > 0, "the packets' own lines say that records were lost");
    let lost = report.trajectories.iter().find(|told| told.verdict == Verdict::Lost);
    assert!(lost.is_none(), "all were delivered, and yet this one is said to be lost: {}", lost.unwrap());
    assert_eq!(summary.packets.lost, 0);
    for told in report.trajectories.iter().filter(|told| told.verdict == Verdict::Unknown) {
        let reason = told.verdict_detail.as_ref().and_then(|detail| detail.reason.as_deref());
        assert!(
            reason.is_some_and(|reason| reason.contains("lost")),
            "the loss of records is the reason: {told}"
        );
    }
}

#[test]
fn a_ring_of_a_page_loses_records_and_says_so() {
    a_ring_that_overflows("4096");
}

#[test]
fn a_small_ring_loses_records_and_says_so() {
    a_ring_that_overflows("32768");
}

#[test]
fn a_burst_of_50_000_packets_within_a_second_fits_the_default_ring() {
    let sent = 50_000;
    let (summary, counted) = flood(within_a_second(sent), FastlyRead::start, FastlyRead::stop);

    assert_all_accounted_for(&summary, sent, counted.passed);
    assert_eq!(summary.losses.ring_full, 0, "{:?}", summary.losses);
    // A build without optimisation is slower than the burst, and its channel holds 260,000 records.
    assert_eq!(summary.losses, Losses { channel_full: summary.losses.channel_full, ..Losses::default() });
    assert_eq!(summary.packets.lost, 0, "what is not known to be lost is not said to be");
    if !summary.losses.is_any() {
        assert_delivered_or_refused(&summary, sent, &counted);
    }
}

#[test]
fn a_burst_that_the_channel_holds_is_whole_however_slow_the_program_is() {
    let sent = 20_000;
    let (summary, counted) = flood(within_a_second(sent), FastlyRead::start, FastlyRead::stop);

    assert_all_accounted_for(&summary, sent, counted.passed);
    assert!(!summary.losses.is_any(), "{:?}", summary.losses);
    assert_delivered_or_refused(&summary, sent, &counted);
}

/// A follow whose reader is fast and keeps the summary only: who parses each line is slower than who writes them.
struct FastlyRead {
    follow: Child,
    stderr: BufReader<ChildStderr>,
    reader: Child,
}

impl FastlyRead {
    fn start(tracer: &Tracer) -> Self {
        let (mut follow, stderr) = Self::follow(tracer.follow_command(&FOLLOWED).args(["-o", "json"]));
        let lines = follow.stdout.take().unwrap();
        let reader =
            Command::new("tail").args(["-n", "1"]).stdin(lines).stdout(Stdio::piped()).spawn().unwrap();
        Self { follow, stderr, reader }
    }

    /// A follow that is ready, and whose output nobody reads yet.
    fn follow(command: &mut Command) -> (Child, BufReader<ChildStderr>) {
        let mut follow = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(follow.stderr.take().unwrap());
        let mut said = String::new();
        while !said.starts_with("following ") {
            said.clear();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it followed");
        }
        (follow, stderr)
    }

    fn stop(mut self) -> Summary {
        kill_process(Pid::from_child(&self.follow), Signal::INT).unwrap();
        let output = self.reader.wait_with_output().unwrap();
        let exit = self.follow.wait().unwrap();
        let said: Vec<_> = self.stderr.lines().map_while(Result::ok).collect();
        assert!(exit.success(), "{exit}: {said:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}
