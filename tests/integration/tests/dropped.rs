//! What the kernel drops is told with the place, the kernel's reason and what to look at. Faults are real ones: rules,
//! routes, MTUs, sockets, programs. Where the kernel gives no reasons, the point of loss is right.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tracer_integration::{Attach, Follow, Tracer, Trajectory, Verdict, attach, kernel_version};
use tracer_lab::Direction::Ingress;
use tracer_lab::{Fault, Flood, Foreign, ForeignHook, ForeignVerdict, Lab, Topology};

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";
const TUNNEL: &str = "vxlan.calico";
const SOON: Duration = Duration::from_secs(20);
/// MTU of the tunnel devices.
const OVERLAY_MTU: u32 = 1450;

/// What is told of a dropped packet.
struct Expected<'a> {
    /// Kernels differ.
    reasons: &'a [&'a str],
    node: &'a str,
    pod: Option<&'a str>,
    /// The last hop: place, device, direction.
    after: (&'a str, &'a str, &'a str),
    advice: &'a str,
    /// The packet reaches its last hop, so that without drop reasons nothing is known to be wrong.
    arrives: bool,
}

/// From curl to httpbin, followed.
struct Case {
    lab: Lab,
    follow: Follow,
}

impl Case {
    fn start() -> Self {
        Self::follow(Lab::build(Topology::RoutedVxlan).unwrap())
    }

    fn follow(lab: Lab) -> Self {
        let follow = Tracer::new(&lab).unwrap().follow(&["--pod", "curl", "--to", "httpbin"]).unwrap();
        Self { lab, follow }
    }

    fn send_udp(&self, port: u16, flood: Flood) {
        let to = SocketAddr::new(self.lab.pod("httpbin").ipv4().into(), port);
        self.lab.pod("curl").udp_flood(to, flood).unwrap();
    }

    fn leaves_curl(&self) -> (&'static str, String, &'static str) {
        (NODE_1, self.lab.pod("curl").host_device().to_owned(), "ingress")
    }

    /// Waits for the first packet that `is_it`, which was not delivered (or for any, where the kernel gives no reason
    /// and the packet arrives).
    #[track_caller]
    fn assert_told(&self, what: &str, is_it: impl Fn(&Trajectory) -> bool, expected: &Expected<'_>) {
        let gives_reasons = kernel_version() >= (5, 17);
        let verdict = match (gives_reasons, expected.arrives) {
            (true, _) => Verdict::Dropped,
            (false, false) => Verdict::Lost,
            (false, true) => Verdict::Delivered,
        };
        let rule = format!("{what}: {verdict:?}");
        let matches = |told: &&Trajectory| is_it(told) && told.verdict == verdict;
        let told = self.follow.eventually(SOON, &rule, |told| told.iter().any(|told| matches(&told)));

        let told = told.iter().find(matches).unwrap();
        let last = told.hops.last().unwrap_or_else(|| panic!("{what}: no hop: {told}"));
        assert_eq!((&*last.place(), &*last.device, &*last.direction), expected.after, "{what}: {told}");
        let Some(detail) = told.verdict_detail.as_ref() else {
            assert_eq!(verdict, Verdict::Delivered, "{what}: {told}");
            return;
        };
        assert_eq!(detail.after_hop, Some(told.hops.len() - 1), "{what}: {told}");
        if !gives_reasons {
            return;
        }
        let (Some(reason), Some(drop)) = (&detail.reason, &detail.drop) else { panic!("{what}: {told}") };
        assert!(expected.reasons.contains(&&**reason), "{what}: {reason} at {:?}: {told}", drop.function);
        assert_eq!((&*drop.node, drop.pod.as_deref()), (expected.node, expected.pod), "{what}: {told}");
        assert!(drop.advice.contains(expected.advice), "{what}: {}", drop.advice);
        assert!(drop.time_ns >= last.time_ns, "{what}: {told}");
    }
}

const ONE: Flood = Flood { packets: 1, payload: 100, rate: None };

/// A legacy filter of ours sees nothing behind a TCX program that ends the chain.
fn hook_behind_ours() -> ForeignHook {
    if attach() == Attach::Tcx { ForeignHook::TcxTail } else { ForeignHook::Clsact }
}

fn udp_to(port: u16) -> impl Fn(&Trajectory) -> bool {
    move |told| told.protocol == "udp" && told.dst.port == Some(port)
}

#[test]
fn what_netfilter_drops_or_rejects_says_which_chains_to_list() {
    let case = Case::start();
    let (place, device, direction) = case.leaves_curl();
    let netfilter = |node, after| Expected {
        reasons: &["NETFILTER_DROP"],
        node,
        pod: None,
        after,
        advice: "hook forward",
        arrives: false,
    };
    let at_node_1 = netfilter(NODE_1, (place, &device, direction));
    let at_node_2 = netfilter(NODE_2, (NODE_2, TUNNEL, "ingress"));

    let fault = case.lab.inject(NODE_1, Fault::DropRule { port: 9001 }).unwrap();
    case.send_udp(9001, ONE);
    case.assert_told("nftables drop", udp_to(9001), &at_node_1);
    drop(fault);

    let fault = case.lab.inject(NODE_2, Fault::RejectRule { port: 9002 }).unwrap();
    case.send_udp(9002, ONE);
    case.assert_told("nftables reject", udp_to(9002), &at_node_2);
    drop(fault);

    let fault = case.lab.inject(NODE_1, Fault::DropInvalid).unwrap();
    case.lab.pod("curl").stray_echo_reply(case.lab.pod("httpbin").ipv4(), 7).unwrap();
    let stray = |told: &Trajectory| told.icmp.as_ref().is_some_and(|icmp| (icmp.r#type, icmp.seq) == (0, 7));
    case.assert_told("conntrack invalid", stray, &at_node_1);
    drop(fault);
    assert!(case.follow.stop().unwrap().exit.success());
}

#[test]
fn what_routing_drops_says_route_ttl_mtu_or_reverse_path() {
    let case = Case::start();
    let (curl, httpbin) = (case.lab.pod("curl"), case.lab.pod("httpbin"));
    let (place, device, direction) = case.leaves_curl();
    let at_node_1 = |reasons, advice| Expected {
        reasons,
        node: NODE_1,
        pod: None,
        after: (place, &device, direction),
        advice,
        arrives: false,
    };

    let fault = case.lab.inject(NODE_1, Fault::Blackhole { to: httpbin.ipv4() }).unwrap();
    case.send_udp(9003, ONE);
    let no_reason = at_node_1(&["NOT_SPECIFIED", "IP_INNOROUTES"], "ip route get");
    case.assert_told("blackhole", udp_to(9003), &no_reason);
    drop(fault);

    let is_ping = |length: u64| {
        move |told: &Trajectory| {
            told.icmp.as_ref().is_some_and(|icmp| icmp.r#type == 8) && told.payload_length == length
        }
    };
    curl.ping_with(httpbin.ipv4().into(), 1, &["-t", "1", "-s", "101"]).unwrap();
    case.assert_told("TTL expired", is_ping(101), &at_node_1(&["IP_INHDR"], "TTL"));

    let small = Fault::SmallMtu { device: TUNNEL.to_owned(), mtu: 1300, restored: OVERLAY_MTU };
    let fault = case.lab.inject(NODE_1, small).unwrap();
    curl.ping_with(httpbin.ipv4().into(), 1, &["-M", "do", "-s", "1372"]).unwrap();
    case.assert_told("larger than the MTU", is_ping(1372), &at_node_1(&["PKT_TOO_BIG"], "MTU"));
    drop(fault);

    let asymmetric = Fault::ReversePathFilter {
        device: TUNNEL.to_owned(),
        source: curl.ipv4(),
        elsewhere: httpbin.host_device().to_owned(),
    };
    let fault = case.lab.inject(NODE_2, asymmetric).unwrap();
    case.send_udp(9004, ONE);
    let filtered = Expected {
        reasons: &["IP_RPFILTER"],
        node: NODE_2,
        pod: None,
        after: (NODE_2, TUNNEL, "ingress"),
        advice: "rp_filter",
        arrives: false,
    };
    case.assert_told("reverse path filter", udp_to(9004), &filtered);
    drop(fault);
    assert!(case.follow.stop().unwrap().exit.success());
}

#[test]
fn what_a_pods_sockets_drop_says_that_nothing_listens_or_reads() {
    let case = Case::start();
    let in_pod = |reasons, advice| Expected {
        reasons,
        node: NODE_2,
        pod: Some("httpbin"),
        after: ("default/httpbin", "eth0", "ingress"),
        advice,
        arrives: true,
    };

    case.send_udp(9005, ONE);
    case.assert_told("no socket", udp_to(9005), &in_pod(&["NO_SOCKET"], "nothing listens on UDP port 9005"));

    let deaf = case.lab.pod("httpbin").netns().run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9006)));
    let deaf = deaf.unwrap().unwrap();
    case.send_udp(9006, Flood { packets: 600, payload: 1000, rate: Some(5000) });
    case.assert_told(
        "full socket buffer",
        udp_to(9006),
        &in_pod(&["SOCKET_RCVBUFF"], "socket buffer is full"),
    );
    drop(deaf);
    assert!(case.follow.stop().unwrap().exit.success());
}

/// A drop that no hook has seen: nobody answers the pod's ARP.
#[test]
fn what_dies_in_its_pod_before_the_first_hook_is_told_by_its_drop() {
    let case = Case::start();
    let (_, device, _) = case.leaves_curl();
    let hook = hook_behind_ours();
    let program = Foreign { hook, verdict: ForeignVerdict::Drop };

    let _program = case.lab.attach_foreign(NODE_1, &device, Ingress, &program).unwrap();
    case.send_udp(9008, ONE);

    if kernel_version() < (5, 17) {
        assert!(case.follow.stop().unwrap().trajectories.is_empty());
        return;
    }
    let is_it = udp_to(9008);
    let told = case.follow.eventually(SOON, "told by its drop", |told| told.iter().any(&is_it));
    let told = told.iter().find(|told| is_it(told)).unwrap();
    let detail = told.verdict_detail.as_ref().unwrap();
    assert_eq!((told.verdict, detail.after_hop, told.hops.len()), (Verdict::Dropped, None, 0), "{told}");
    let drop = detail.drop.as_ref().unwrap();
    assert_eq!((&*drop.node, drop.pod.as_deref()), (NODE_1, Some("curl")), "{told}");
    assert_eq!(detail.reason.as_deref(), Some("NEIGH_FAILED"), "{told}");
    assert!(drop.advice.contains("ip neigh"), "{told}");
}

#[test]
fn what_a_tc_program_drops_names_the_program() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let hook = hook_behind_ours();
    let program = Foreign { hook, verdict: ForeignVerdict::Drop };
    // The program drops ARP as well.
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    // Before we attach: a legacy filter that comes later is in front of us for a moment.
    let program = lab.attach_foreign(NODE_1, curl.host_device(), Ingress, &program).unwrap();
    let case = Case::follow(lab);
    let (place, device, direction) = case.leaves_curl();

    case.send_udp(9007, ONE);

    let expected = Expected {
        reasons: &["TC_INGRESS"],
        node: NODE_1,
        pod: None,
        after: (place, &device, direction),
        advice: &device,
        arrives: false,
    };
    case.assert_told("tc program", udp_to(9007), &expected);
    drop(program);
    assert!(case.follow.stop().unwrap().exit.success());
}
