//! Other tools' programs on the same hooks: both run, and the traffic does not change.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::time::Duration;

use tracer_integration::{
    Attach, Filter, Follow, Tracer, Trajectory, attach, has_tcx, run_in, tc_filters, url, wait_until,
};
use tracer_lab::Direction::{Egress, Ingress};
use tracer_lab::{
    Captured, Direction, Foreign, ForeignHook, ForeignProgram, ForeignVerdict, Lab, Pod, Topology,
};

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";
const SOON: Duration = Duration::from_secs(10);
/// How soon we are first again (docs/attach.md: it looks once a second).
const OVERTAKEN_FOR: Duration = Duration::from_secs(2);

const OK_AT_TCX_TAIL: Foreign = Foreign { hook: ForeignHook::TcxTail, verdict: ForeignVerdict::Ok };
const OK_IN_CLSACT: Foreign = Foreign { hook: ForeignHook::Clsact, verdict: ForeignVerdict::Ok };

/// A hook as captures and JSON name it.
type Hook = (String, String, Direction);

/// What the pods on it see of a network: a big answer and pings in both families.
fn traffic(lab: &Lab) -> (u16, Vec<u8>, Vec<u32>) {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let answer = curl.curl(&url(httpbin.ipv4(), 80, "/bytes/20000")).unwrap();
    let pings = httpbin.ips().map(|ip| curl.ping(ip, 5).unwrap().received);
    (answer.status, answer.body, pings.to_vec())
}

/// How many packets between the two pods passed each hook, as the taps saw it.
fn between(captured: &Captured, one: &Pod, other: &Pod) -> BTreeMap<Hook, u64> {
    assert_eq!(captured.dropped, 0, "the capture is whole");
    let mut counts = BTreeMap::new();
    for packet in &captured.packets {
        if mentions(&packet.bytes, one) && mentions(&packet.bytes, other) && is_ip(&packet.bytes) {
            let hook = (packet.place.to_string(), packet.device.to_string(), packet.direction);
            *counts.entry(hook).or_default() += 1;
        }
    }
    counts
}

/// Whether one of the pod's addresses is in the frame's headers.
fn mentions(frame: &[u8], pod: &Pod) -> bool {
    let headers = &frame[..frame.len().min(128)];
    let (four, six) = (pod.ipv4().octets(), pod.ipv6().octets());
    headers.windows(4).any(|bytes| bytes == four) || headers.windows(16).any(|bytes| bytes == six)
}

/// ARP and neighbour discovery name the addresses too.
fn is_ip(frame: &[u8]) -> bool {
    let neighbour_discovery = frame.len() > 54
        && frame[12..14] == [0x86, 0xdd]
        && (133..=137).contains(&frame[54])
        && frame[20] == 58;
    frame[12..14] != [0x08, 0x06] && !neighbour_discovery
}

/// The same from what tracer told.
fn told_at_hooks(told: &[Trajectory]) -> BTreeMap<Hook, u64> {
    let mut counts = BTreeMap::new();
    for hop in told.iter().flat_map(|trajectory| &trajectory.hops) {
        let direction = if hop.direction == "ingress" { Ingress } else { Egress };
        *counts.entry((hop.place(), hop.device.clone(), direction)).or_default() += u64::from(hop.segments);
    }
    counts
}

/// Waits until tracer has told of as many packets at a hook as passed there.
#[track_caller]
fn assert_all_seen(follow: &Follow, passed: &BTreeMap<Hook, u64>, hook: &Hook) {
    let expected = passed[hook];
    assert!(expected > 10, "there was traffic at {hook:?}: {passed:?}");
    follow.eventually(SOON, &format!("all {expected} packets at {hook:?}"), |told| {
        told_at_hooks(told).get(hook) == Some(&expected)
    });
}

/// Counts all frames of a hook, of whatever kind.
fn frames(captured: &Captured, hook: &Hook) -> u64 {
    let here = |packet: &&tracer_lab::CapturedPacket| {
        *packet.place == *hook.0 && *packet.device == *hook.1 && packet.direction == hook.2
    };
    captured.packets.iter().filter(here).count() as u64
}

fn hook(place: &str, device: &str, direction: Direction) -> Hook {
    (place.to_owned(), device.to_owned(), direction)
}

/// A foreign program on a hook: runs for every packet, tracer sees every packet before it, and the traffic is what
/// it was without tracer.
fn both_run(foreign: &Foreign, place: &str, device: impl Fn(&Lab) -> String, direction: Direction) {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _server = httpbin.serve_http(80).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let device = device(&lab);
    let program = lab.attach_foreign(place, &device, direction, foreign).unwrap();
    let without_tracer = traffic(&lab);

    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin"]).unwrap();
    let point = tracer.hook(place, &device, direction);
    let capture = lab.capture_everywhere().unwrap();
    let before = program.packets().unwrap();
    let with_tracer = traffic(&lab);
    let ran = program.packets().unwrap() - before;
    let captured = capture.stop().unwrap();

    assert_eq!(without_tracer, with_tracer, "traffic is unchanged");
    assert_eq!(with_tracer.2, [5, 5], "no ping is lost");
    assert_eq!((point.attached, point.place), (true, Some(1)), "we are first: {point:?}");
    let others = point.others();
    assert_eq!(others.len(), 1, "{point:?}");
    assert_eq!((others[0].name.as_str(), others[0].id), (program.name(), Some(program.id())));
    assert!(program.name().len() > 15, "a name that the kernel cuts");
    let hook = hook(place, &device, direction);
    let passed = between(&captured, &curl, &httpbin);
    // The node's own frames (neighbour discovery) may come between the counts and the capture's ends.
    let every_packet = passed[&hook]..=frames(&captured, &hook);
    assert!(every_packet.contains(&ran), "the foreign program runs for every packet: {ran} {every_packet:?}");
    assert_all_seen(&follow, &passed, &hook);

    let report = follow.stop().unwrap();
    assert!(report.exit.success());
    let after = tracer.hook(place, &device, direction);
    assert_eq!(after.programs.iter().map(|program| program.id).collect::<Vec<_>>(), [Some(program.id())]);
    assert_eq!(traffic(&lab), without_tracer);
}

fn lxc_of_curl(lab: &Lab) -> String {
    lab.pod("curl").host_device().to_owned()
}

/// Where the kernel has no TCX nobody can be there; that is asserted.
fn nobody_is_at_tcx() -> bool {
    if !has_tcx() {
        let lab = Lab::build(Topology::RoutedVxlan).unwrap();
        assert!(lab.attach_foreign(NODE_1, "eth0", Ingress, &OK_AT_TCX_TAIL).is_err(), "there is no TCX");
    }
    !has_tcx()
}

#[test]
fn a_filter_of_ours_behind_a_final_tcx_program_says_so() {
    if nobody_is_at_tcx() {
        return;
    }
    let lab = Lab::build(Topology::CiliumHostRouting).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let arguments = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp", "--attach", "clsact"];
    let follow = Tracer::new(&lab).unwrap().follow(&arguments).unwrap();

    curl.ping(httpbin.ipv4().into(), 1).unwrap();

    let told = follow.eventually(SOON, "both ways", |told| told.len() == 2);
    for told in told {
        assert!(told.missing.iter().all(|missing| missing.explained), "{:?}", told.missing);
        let hidden = told.missing.iter().filter(|missing| missing.reason.starts_with("hidden by cil_from_"));
        assert_eq!(hidden.count(), 2, "the sender's lxc and the receiver's tunnel: {:?}", told.missing);
    }
    assert!(follow.stop().unwrap().exit.success());
}

#[test]
fn a_tcx_program_at_the_tail_that_ends_the_chain_runs_behind_us() {
    if attach() == Attach::Clsact {
        // Legacy filters run behind TCX programs, whoever is first at each.
        return a_filter_of_ours_behind_a_final_tcx_program_says_so();
    }
    both_run(&OK_AT_TCX_TAIL, NODE_1, lxc_of_curl, Ingress);
    both_run(&OK_AT_TCX_TAIL, NODE_2, |_| "eth0".to_owned(), Ingress);
    both_run(&OK_AT_TCX_TAIL, NODE_1, |_| "vxlan.calico".to_owned(), Egress);
}

#[test]
fn a_filter_at_priority_1_handle_1_runs_behind_us() {
    both_run(&OK_IN_CLSACT, NODE_1, lxc_of_curl, Ingress);
    both_run(&OK_IN_CLSACT, NODE_1, |_| "eth0".to_owned(), Egress);
}

#[test]
fn a_tcx_program_that_redirects_still_does_and_we_see_its_packets() {
    if nobody_is_at_tcx() {
        return;
    }
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let tracer = Tracer::new(&lab).unwrap();
    let verdict =
        ForeignVerdict::Redirect { destination: httpbin.ipv4().into(), device: "vxlan.calico".to_owned() };
    let foreign = Foreign { hook: ForeignHook::TcxTail, verdict };
    let program = lab.attach_foreign(NODE_1, curl.host_device(), Ingress, &foreign).unwrap();
    let follow = tracer
        .follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "icmp", "--attach", "tcx"])
        .unwrap();

    assert_eq!(curl.ping(httpbin.ipv4().into(), 10).unwrap().received, 10);

    assert_eq!(program.redirected().unwrap(), 10);
    let told = follow.eventually(SOON, "requests and answers", |told| told.len() == 20);
    for request in told.iter().filter(|told| told.src.pod.as_deref() == Some("curl")) {
        let path: Vec<_> = request.path();
        assert_eq!(path[1], (NODE_1.to_owned(), curl.host_device(), "ingress"), "{request}");
        assert_eq!(path[2], (NODE_1.to_owned(), "vxlan.calico", "egress"), "{request}");
        assert!(request.is_complete(), "{request}");
    }
    let _ = follow.stop().unwrap();
}

#[test]
fn a_filter_that_gets_in_front_is_overtaken_and_still_runs() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--attach", "clsact"]).unwrap();
    let device = curl.host_device();
    let netns = lab.node(NODE_1).netns().clone();
    let filters = || tc_filters(&netns, device, Ingress).unwrap();

    let program = lab.attach_foreign(NODE_1, device, Ingress, &OK_IN_CLSACT).unwrap();
    // That it was in front is what the notice below says: by the time we look, it may be overtaken.
    wait_until(OVERTAKEN_FOR, "we are first again", || {
        let filters = filters();
        // Ours is there twice while it is being moved.
        (filters.len() == 2 && filters[0].name.starts_with("tracer_")).then_some(())
    });
    let before = program.packets().unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 20).unwrap().received, 20);

    let point = tracer.hook(NODE_1, device, Ingress);
    assert_eq!((point.place, point.others()[0].id), (Some(1), Some(program.id())));
    assert!(program.packets().unwrap() - before >= 20, "the foreign filter still runs");
    follow.eventually_notices(SOON, "we tell that another tool got in front", |line| {
        line.contains("another tool got in front of us") && line.contains(device)
    });
    let told = follow.eventually(SOON, "all pings", |told| told.len() == 40);
    assert!(told.iter().all(Trajectory::is_complete), "{told:#?}");
    let report = follow.stop().unwrap();
    assert!(report.exit.success());
    assert_eq!(filters().iter().map(|filter| filter.program).collect::<Vec<_>>(), [u64::from(program.id())]);
}

#[test]
fn a_foreign_filter_replaced_while_we_follow_runs_and_we_stay_first() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let tracer = Tracer::new(&lab).unwrap();
    let (device, netns) = (curl.host_device(), lab.node(NODE_1).netns().clone());
    let old = lab.attach_foreign(NODE_1, device, Ingress, &OK_IN_CLSACT).unwrap();
    // The new version of the program is one that sits elsewhere, so that it has an id.
    let new = lab.attach_foreign(NODE_1, "eth0", Ingress, &OK_IN_CLSACT).unwrap();
    let pins = PrivateBpffs::mount();
    pins.pin(new.id(), "replacement");
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"]).unwrap();

    let arguments = format!(
        "filter replace dev {device} ingress prio 1 handle 1 protocol all bpf direct-action object-pinned {}",
        pins.path("replacement")
    );
    run_in(&netns, "tc", &arguments);
    let (old_before, new_before) = (old.packets().unwrap(), new.packets().unwrap());
    assert_eq!(curl.ping(httpbin.ipv4().into(), 20).unwrap().received, 20);

    let told = follow.eventually(SOON, "all pings", |told| told.len() == 40);
    assert!(told.iter().all(Trajectory::is_complete));
    assert_eq!(old.packets().unwrap(), old_before, "the old program runs no more");
    // At eth0 it sees the answers as well.
    assert!(new.packets().unwrap() - new_before >= 40, "the new program runs");
    let point = tracer.hook(NODE_1, device, Ingress);
    assert_eq!((point.place, point.others().len()), (Some(1), 1), "{point:?}");
    assert_eq!(point.others()[0].id, Some(new.id()));
    let report = follow.stop().unwrap();
    assert!(report.exit.success());
    let left = tc_filters(&netns, device, Ingress).unwrap();
    assert_eq!(left.iter().map(|filter| filter.program).collect::<Vec<_>>(), [u64::from(new.id())]);
}

#[test]
fn two_follows_of_the_same_packets_both_see_all_and_leave_each_other_alone() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let tracer = Tracer::new(&lab).unwrap();
    let start = || tracer.follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"]).unwrap();
    let first = start();
    let before = tracer.hooked();
    let second = start();
    let together = tracer.hooked();
    assert_eq!(together.ours.len(), 2 * before.ours.len(), "both are on every hook");

    // Long enough for each to look whether it is first, several times.
    let pings = 120;
    assert_eq!(curl.ping(httpbin.ipv4().into(), pings).unwrap().received, pings);

    for follow in [&first, &second] {
        let told = follow.eventually(SOON, "all pings", |told| told.len() as u32 == 2 * pings);
        assert!(told.iter().all(Trajectory::is_complete));
        let quarrels: Vec<_> =
            follow.notices().into_iter().filter(|line| line.contains("in front of us")).collect();
        assert!(quarrels.is_empty(), "they do not overtake each other: {quarrels:?}");
    }
    let report = second.stop().unwrap();
    assert!(report.exit.success());
    assert_eq!(tracer.hooked(), before, "the first one's programs are as they were");
    assert_eq!(curl.ping(httpbin.ipv4().into(), 5).unwrap().received, 5);
    first.eventually(SOON, "the first one goes on", |told| told.len() as u32 == 2 * pings + 10);
    assert!(first.stop().unwrap().exit.success());
    assert!(tracer.hooked().ours.is_empty());
}

#[test]
fn a_loader_that_creates_or_replaces_priority_1_handle_1_on_our_hook_gets_its_place_and_leaves_ours() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let (device, netns) = (curl.host_device(), lab.node(NODE_1).netns().clone());
    // Two versions of a program, on a hook where they have no part in this.
    let old = lab.attach_foreign(NODE_2, "eth0", Ingress, &OK_IN_CLSACT).unwrap();
    let new = lab.attach_foreign(NODE_2, "eth0", Egress, &OK_IN_CLSACT).unwrap();
    let pins = PrivateBpffs::mount();
    pins.pin(old.id(), "old");
    pins.pin(new.id(), "new");
    // Netlink's NLM_F_CREATE | NLM_F_REPLACE, as Cilium's loader has it.
    let load = |version: &str| {
        let filter =
            format!("filter replace dev {device} ingress prio 1 handle 1 protocol all bpf direct-action");
        run_in(&netns, "tc", &format!("{filter} object-pinned {}", pins.path(version)));
    };
    let filters = || tc_filters(&netns, device, Ingress).unwrap();
    let theirs = |program: &ForeignProgram| filters().iter().any(|filter| is_ciliums(filter, program.id()));
    let follow = Tracer::new(&lab)
        .unwrap()
        .follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "icmp", "--attach", "clsact"])
        .unwrap();
    let ours = filters();
    assert!(ours.len() == 1 && ours[0].name.starts_with("tracer_") && ours[0].handle != "0x1", "{ours:?}");

    load("old");
    // As it was, or, where the loader was slow, in front again already.
    let is_there = filters().iter().any(|filter| filter.name == ours[0].name);
    assert!(is_there, "a loader that comes after us replaces nothing of ours");
    wait_until(OVERTAKEN_FOR, "we are first again", || {
        let filters = filters();
        (filters.len() == 2 && filters[0].name.starts_with("tracer_")).then_some(())
    });
    assert!(theirs(&old), "it stays where it put itself: {:?}", filters());
    let first = filters()[0].clone();
    load("new");
    let packets = new.packets().unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 20).unwrap().received, 20);

    assert!(theirs(&new) && !theirs(&old), "{:?}", filters());
    assert_eq!((filters().len(), &filters()[0]), (2, &first), "ours is where it was");
    assert!(new.packets().unwrap() - packets >= 20, "the new version runs behind us");
    let told = follow.eventually(SOON, "all pings", |told| told.len() == 40);
    assert!(told.iter().all(Trajectory::is_complete), "{told:#?}");
    assert!(follow.stop().unwrap().exit.success());
    assert_eq!(filters().len(), 1, "only ours is gone");
    assert!(theirs(&new));
}

fn is_ciliums(filter: &Filter, program: u32) -> bool {
    (filter.priority, filter.handle.as_str(), filter.program) == (1, "0x1", u64::from(program))
}

/// Cilium does so on every update of an endpoint, and its program ends the chain.
#[test]
fn who_attaches_by_tcx_and_deletes_all_legacy_filters_hides_ours_and_we_say_so() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let (device, netns) = (curl.host_device(), lab.node(NODE_1).netns().clone());
    let tracer = Tracer::new(&lab).unwrap();
    let arguments = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp", "--attach", "clsact"];
    let follow = tracer.follow(&arguments).unwrap();
    let remove_filters = || run_in(&netns, "tc", &format!("filter del dev {device} ingress"));
    let ours_are_back = || {
        let filters = tc_filters(&netns, device, Ingress).unwrap();
        (filters.len() == 1 && filters[0].name.starts_with("tracer_")).then_some(())
    };

    // Without TCX nobody deletes filters of others in this way, but we come back from that as well.
    remove_filters();
    wait_until(OVERTAKEN_FOR, "our filter is back", ours_are_back);
    assert_eq!(curl.ping(httpbin.ipv4().into(), 3).unwrap().received, 3);
    let told = follow.eventually(SOON, "all pings", |told| told.len() == 6);
    assert!(told.iter().all(Trajectory::is_complete), "{told:#?}");
    if !has_tcx() {
        assert!(lab.attach_foreign(NODE_1, device, Ingress, &OK_AT_TCX_TAIL).is_err(), "there is no TCX");
        assert!(follow.stop().unwrap().exit.success());
        return;
    }

    let program = lab.attach_foreign(NODE_1, device, Ingress, &OK_AT_TCX_TAIL).unwrap();
    remove_filters();
    follow.eventually_notices(SOON, "we tell that somebody is in front", |line| {
        line.contains("TCX programs came or went before our legacy filters")
    });
    wait_until(OVERTAKEN_FOR, "our filter is back", ours_are_back);
    assert_eq!(curl.ping(httpbin.ipv4().into(), 3).unwrap().received, 3);

    let told = follow.eventually(SOON, "all pings", |told| told.len() == 12);
    for request in told[6..].iter().filter(|told| told.src.pod.as_deref() == Some("curl")) {
        assert!(request.path().iter().all(|hop| *hop != (NODE_1.to_owned(), device, "ingress")), "{request}");
        let why: Vec<_> = request.missing.iter().map(|missing| missing.reason.as_str()).collect();
        assert!(why.len() == 1 && why[0].starts_with("hidden by cil_from_container"), "{why:?}");
    }
    let point = tracer.hook(NODE_1, device, Ingress);
    assert_eq!((point.place, point.others()[0].id), (Some(2), Some(program.id())));
    let blind = point.blind.unwrap();
    assert!(blind.starts_with("cil_from_container is a TCX program"), "{blind}");
    assert!(follow.stop().unwrap().exit.success());
}

/// The kernel takes the way on from them when the process ends.
#[test]
fn filters_that_outlive_a_killed_tracer_let_every_packet_pass() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _server = httpbin.serve_http(80).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let program = lab.attach_foreign(NODE_1, curl.host_device(), Ingress, &OK_IN_CLSACT).unwrap();
    let without_tracer = traffic(&lab);
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--attach", "clsact"]).unwrap();
    let held = tracer.hooked();

    assert!(!follow.kill().unwrap().exit.success());

    assert_eq!(tracer.hooked(), held, "they are still there");
    let packets = program.packets().unwrap();
    assert_eq!(traffic(&lab), without_tracer);
    assert!(program.packets().unwrap() - packets > 10, "who comes behind them runs");
    // Nobody else may find them.
    assert!(tracer.follow(&["--pod", "curl", "--attach", "clsact"]).unwrap().stop().unwrap().exit.success());
    assert!(tracer.hooked().ours.is_empty());
}

/// A file system for pinned programs that only this test knows.
struct PrivateBpffs(tempfile::TempDir);

impl PrivateBpffs {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", directory.path(), "bpf", flags, None).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn pin(&self, program: u32, name: &str) {
        let output = std::process::Command::new("bpftool")
            .args(["prog", "pin", "id", &program.to_string(), &self.path(name)])
            .output()
            .unwrap();
        assert!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
