//! What the lab promises beside traffic: clean-up, captures, foreign programs, the inventory. They need root.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::panic;
use std::path::Path;

use serde_json::Value;
use tracer_lab::Direction::{self, Egress, Ingress};
use tracer_lab::{
    Captured, Flood, Foreign, ForeignHook, ForeignVerdict, Lab, Netns, Pod, Protocol, RecordType,
    ServicePort, StandIns, Topology,
};

/// Where a packet with `needle` in it was seen: place, device, direction.
fn seen(captured: &Captured, needle: &[u8]) -> Vec<(String, String, Direction)> {
    let has_it = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    captured
        .packets
        .iter()
        .filter(|packet| has_it(&packet.bytes))
        .map(|packet| (packet.place.to_string(), packet.device.to_string(), packet.direction))
        .collect()
}

/// Sends one datagram from curl to a pod over IPv4, and returns where it was seen.
fn path_of_a_datagram(lab: &Lab, to: &str) -> Vec<(String, String, Direction)> {
    let to = lab.pod(to);
    path(lab, SocketAddr::new(to.ipv4().into(), 9000), &to)
}

/// Sends one datagram from curl to an address that leads to `pod` at the same port, and returns where it was seen.
fn path(lab: &Lab, to: SocketAddr, pod: &Pod) -> Vec<(String, String, Direction)> {
    let curl = lab.pod("curl");
    let _sink = pod.udp_sink(to.port()).unwrap();
    let send = |payload| curl.udp_flood(to, Flood { packets: 1, payload, rate: None }).unwrap();
    // Neighbours are resolved first, so that the datagram that counts does not wait for them.
    assert_eq!(curl.ping(pod.ipv4().into(), 1).unwrap().received, 1);
    assert_eq!(send(8), 1);
    let capture = lab.capture_everywhere().unwrap();

    assert_eq!(send(61), 1);

    let captured = capture.stop().unwrap();
    assert_eq!(captured.dropped, 0);
    // Its destination port and its UDP length stand side by side, inside tunnels too.
    let [high, low] = to.port().to_be_bytes();
    seen(&captured, &[high, low, 0, 69])
}

fn hops(expected: &[(&str, &str, Direction)]) -> Vec<(String, String, Direction)> {
    expected.iter().map(|(place, device, way)| ((*place).to_owned(), (*device).to_owned(), *way)).collect()
}

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";

#[test]
fn routed_pods_are_reached_through_calicos_devices() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    assert_eq!(
        path_of_a_datagram(&lab, "httpbin"),
        hops(&[
            ("default/curl", "eth0", Egress),
            (NODE_1, curl.host_device(), Ingress),
            (NODE_1, "vxlan.calico", Egress),
            (NODE_1, "eth0", Egress),
            (NODE_2, "eth0", Ingress),
            (NODE_2, "vxlan.calico", Ingress),
            (NODE_2, httpbin.host_device(), Egress),
            ("default/httpbin", "eth0", Ingress),
        ])
    );
}

#[test]
fn bridged_pods_are_reached_through_flannels_devices() {
    let lab = Lab::build(Topology::BridgeVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    assert_eq!(
        path_of_a_datagram(&lab, "httpbin"),
        hops(&[
            ("default/curl", "eth0", Egress),
            (NODE_1, curl.host_device(), Ingress),
            (NODE_1, "cni0", Ingress),
            (NODE_1, "flannel.1", Egress),
            (NODE_1, "eth0", Egress),
            (NODE_2, "eth0", Ingress),
            (NODE_2, "flannel.1", Ingress),
            (NODE_2, "cni0", Egress),
            (NODE_2, httpbin.host_device(), Egress),
            ("default/httpbin", "eth0", Ingress),
        ])
    );
}

#[test]
fn ciliums_legacy_routing_delivers_through_the_lxc_device() {
    let lab = Lab::build(Topology::CiliumLegacyRouting).unwrap();
    assert_eq!(
        path_of_a_datagram(&lab, "httpbin"),
        hops(&[
            ("default/curl", "eth0", Egress),
            (NODE_1, "lxced3096cb2cb1", Ingress),
            (NODE_1, "cilium_vxlan", Egress),
            (NODE_1, "eth0", Egress),
            (NODE_2, "eth0", Ingress),
            (NODE_2, "cilium_vxlan", Ingress),
            (NODE_2, "lxc0f9f206e5d0b", Egress),
            ("default/httpbin", "eth0", Ingress),
        ])
    );
}

#[test]
fn ciliums_host_routing_skips_the_lxc_device_of_the_receiver() {
    let lab = Lab::build(Topology::CiliumHostRouting).unwrap();
    assert_eq!(
        path_of_a_datagram(&lab, "httpbin"),
        hops(&[
            ("default/curl", "eth0", Egress),
            (NODE_1, "lxced3096cb2cb1", Ingress),
            (NODE_1, "cilium_vxlan", Egress),
            (NODE_1, "eth0", Egress),
            (NODE_2, "eth0", Ingress),
            (NODE_2, "cilium_vxlan", Ingress),
            ("default/httpbin", "eth0", Ingress),
        ])
    );
    assert_eq!(
        path_of_a_datagram(&lab, "httpbin-local"),
        hops(&[
            ("default/curl", "eth0", Egress),
            (NODE_1, "lxced3096cb2cb1", Ingress),
            ("default/httpbin-local", "eth0", Ingress),
        ])
    );
    assert!(lab.program_runs(NODE_2, "cil_from_overlay").unwrap() > 0);
}

#[test]
fn ciliums_legacy_loader_has_its_programs_at_prio_1_handle_1_of_clsact() {
    let lab = Lab::build_with(Topology::CiliumHostRouting, StandIns::Clsact).unwrap();
    let path = |to| path_of_a_datagram(&lab, to);
    let over_tcx = Lab::build(Topology::CiliumHostRouting).unwrap();

    assert_eq!(path("httpbin"), path_of_a_datagram(&over_tcx, "httpbin"));
    assert_eq!(path("httpbin-local"), path_of_a_datagram(&over_tcx, "httpbin-local"));
    for (device, direction, program) in [
        ("lxced3096cb2cb1", "ingress", "cil_from_container-lxced3096cb2cb1"),
        ("cilium_host", "egress", "cil_from_host-cilium_host"),
        ("cilium_vxlan", "ingress", "cil_from_overlay-cilium_vxlan"),
    ] {
        let mut tc = lab.node(NODE_1).netns().command("tc");
        let output = tc.args(["filter", "show", "dev", device, direction]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let expected = format!("pref 1 bpf chain 0 handle 0x1 {program} direct-action");
        assert!(shown.contains(&expected), "{shown}");
    }
}

#[test]
fn ciliums_service_traffic_passes_the_nodes_stack_both_ways() {
    for topology in [Topology::CiliumLegacyRouting, Topology::CiliumHostRouting] {
        let lab = Lab::build(topology).unwrap();
        let (curl, coredns) = (lab.pod("curl"), lab.pod("coredns"));
        let service = SocketAddr::new(lab.service("kube-dns").cluster_ipv4.into(), 53);
        let runs = || lab.program_runs(NODE_1, "cil_from_host").unwrap();

        let path = path(&lab, service, &coredns);

        // A tap does not see cilium_host, from which the program at its egress takes the packet.
        let legacy: &[_] = match topology {
            Topology::CiliumLegacyRouting => &[(NODE_2, coredns.host_device(), Egress)],
            _ => &[],
        };
        let start = [
            ("default/curl", "eth0", Egress),
            (NODE_1, curl.host_device(), Ingress),
            (NODE_1, "cilium_vxlan", Egress),
            (NODE_1, "eth0", Egress),
            (NODE_2, "eth0", Ingress),
            (NODE_2, "cilium_vxlan", Ingress),
        ];
        let end = [("kube-system/coredns", "eth0", Ingress)];
        assert_eq!(path, hops(&[&start, legacy, &end].concat()), "{topology}");

        let _server = coredns.serve_dns(53, lab.dns_records()).unwrap();
        let before = runs();
        let name = "kube-dns.kube-system.svc.cluster.local";
        assert_eq!(curl.dns_query(service, name, RecordType::A).unwrap(), [service.ip()]);
        assert!(runs() >= before + 2, "query and answer leave by cilium_host");
    }
}

#[test]
fn the_reference_walk_finds_its_indexes_and_mac_addresses() {
    let lab = Lab::build(Topology::CiliumLegacyRouting).unwrap();
    let link = |netns: &Netns, device: &str| {
        let mut ip = netns.command("ip");
        let output = ip.args(["-o", "link", "show", "dev", device]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let expect = |text: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(text.contains(part), "no {part} in {text}"));
    };
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let (node_1, node_2) = (lab.node(NODE_1), lab.node(NODE_2));

    expect(link(curl.netns(), "eth0"), &["256: eth0@if257:", "9a:b4:aa:83:18:62", "mtu 1500"]);
    expect(link(node_1.netns(), "lxced3096cb2cb1"), &["257: lxced3096cb2cb1@if256:", "f6:25:f2:9e:91:49"]);
    expect(link(node_2.netns(), "lxc0f9f206e5d0b"), &["131: lxc0f9f206e5d0b@if130:", "da:22:1a:46:fe:6a"]);
    expect(link(httpbin.netns(), "eth0"), &["130: eth0@if131:", "c2:36:a6:d2:9c:ce"]);

    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let output = curl.netns().command("ip").args(["route", "get", "10.244.1.246"]).output().unwrap();
    let route = String::from_utf8(output.stdout).unwrap();
    expect(route, &["10.244.1.246 via 10.244.0.237 dev eth0 src 10.244.0.153"]);
    let output = curl.netns().command("ip").args(["neigh", "show", "10.244.0.237"]).output().unwrap();
    expect(String::from_utf8(output.stdout).unwrap(), &["f6:25:f2:9e:91:49"]);
}

#[test]
fn a_flood_is_captured_to_the_last_packet() {
    let lab = Lab::build(Topology::CiliumHostRouting).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _sink = httpbin.udp_sink(9000).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let capture = lab.capture_everywhere().unwrap();

    let flood = Flood { packets: 20_000, payload: 61, rate: Some(20_000) };
    let sent = curl.udp_flood(SocketAddr::new(httpbin.ipv4().into(), 9000), flood).unwrap();

    let captured = capture.stop().unwrap();
    assert_eq!((sent, captured.dropped), (20_000, 0));
    let seen = seen(&captured, &[0x23, 0x28, 0, 69]);
    assert_eq!(seen.len(), 7 * 20_000);
    assert!(captured.packets.is_sorted_by_key(|packet| packet.time_ns));
}

#[test]
fn foreign_programs_count_and_leave_traffic_alone() {
    for hook in [ForeignHook::TcxTail, ForeignHook::Clsact] {
        let lab = Lab::build(Topology::RoutedVxlan).unwrap();
        let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
        let ok = Foreign { hook, verdict: ForeignVerdict::Ok };
        let attach = |way| lab.attach_foreign(NODE_1, curl.host_device(), way, &ok).unwrap();
        let (from, to) = (attach(Ingress), attach(Egress));
        assert_eq!((from.name(), to.name()), ("cil_from_container", "cil_to_container"));

        assert_eq!(curl.ping(httpbin.ipv4().into(), 5).unwrap().received, 5);

        assert!(from.packets().unwrap() >= 5, "{hook:?} ingress");
        assert!(to.packets().unwrap() >= 5, "{hook:?} egress");
    }
}

#[test]
fn a_foreign_clsact_filter_is_at_prio_1_handle_1_until_it_is_dropped() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let device = lab.pod("curl").host_device().to_owned();
    let node = lab.node(NODE_1);
    let filters = || {
        let mut tc = node.netns().command("tc");
        let output = tc.args(["filter", "show", "dev", &device, "ingress"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let foreign = Foreign { hook: ForeignHook::Clsact, verdict: ForeignVerdict::Ok };
    let program = lab.attach_foreign(NODE_1, &device, Ingress, &foreign).unwrap();

    let shown = filters();
    assert!(shown.contains("pref 1 bpf") && shown.contains("handle 0x1 cil_from_container"), "{shown}");
    drop(program);
    assert_eq!(filters(), "");
}

#[test]
fn a_foreign_redirect_takes_packets_past_the_stack() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    for ip in httpbin.ips() {
        let verdict = ForeignVerdict::Redirect { destination: ip, device: "vxlan.calico".to_owned() };
        let foreign = Foreign { hook: ForeignHook::TcxTail, verdict };
        let program = lab.attach_foreign(NODE_1, curl.host_device(), Ingress, &foreign).unwrap();

        assert_eq!(curl.ping(ip, 3).unwrap().received, 3);

        assert_eq!(program.redirected().unwrap(), 3);
    }
}

#[test]
fn a_foreign_drop_is_the_end_of_a_packet() {
    let lab = Lab::build(Topology::BridgeVxlan).unwrap();
    let (curl, local) = (lab.pod("curl"), lab.pod("httpbin-local"));
    assert_eq!(curl.ping(local.ipv4().into(), 1).unwrap().received, 1);
    let foreign = Foreign { hook: ForeignHook::TcxTail, verdict: ForeignVerdict::Drop };
    let program = lab.attach_foreign(NODE_1, local.host_device(), Egress, &foreign).unwrap();

    assert_eq!(curl.ping(local.ipv4().into(), 1).unwrap().received, 0);

    drop(program);
    assert_eq!(curl.ping(local.ipv4().into(), 1).unwrap().received, 1);
}

#[test]
fn the_inventory_is_a_kubernetes_list_of_what_is_there() {
    let mut lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let port = ServicePort { name: "http", protocol: Protocol::Tcp, port: 80, target_port: 80 };
    lab.add_service("empty", 0x99, vec![port], &["nobody"]).unwrap();

    let list: Value = serde_saphyr::from_str(&lab.inventory_yaml()).unwrap();

    assert_eq!((&list["kind"], &list["apiVersion"]), (&"List".into(), &"v1".into()));
    let items = list["items"].as_array().unwrap();
    let count = |kind: &str| items.iter().filter(|item| item["kind"] == kind).count();
    assert_eq!(["Pod", "Service", "EndpointSlice", "Node"].map(count), [4, 4, 8, 2]);
    let pod = items.iter().find(|item| item["metadata"]["name"] == "httpbin").unwrap();
    assert_eq!(pod["status"]["podIPs"][1]["ip"], lab.pod("httpbin").ipv6().to_string());
    assert_eq!(pod["status"]["hostIP"], "10.135.0.12");
    assert_eq!(pod["spec"]["nodeName"], NODE_2);
    let slice = items.iter().find(|item| item["metadata"]["name"] == "httpbin-ipv4").unwrap();
    assert_eq!(slice["endpoints"][0]["targetRef"]["uid"], pod["metadata"]["uid"]);
    assert_eq!(slice["ports"][0]["port"], 80);
    let uids: BTreeSet<_> = items.iter().map(|item| item["metadata"]["uid"].as_str().unwrap()).collect();
    assert_eq!(uids.len(), items.len(), "every uid is another");
}

#[test]
fn nothing_is_left_after_a_panic_or_a_kill() {
    let mut names = Vec::new();
    let failure = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::build(Topology::BridgeVxlan).unwrap();
        names.extend(lab.nodes().iter().map(|node| node.netns().path().to_owned()));
        names.extend(lab.pods().iter().map(|pod| pod.netns().path().to_owned()));
        assert!(names.iter().all(|path| path.exists()));
        panic!("a test fails");
    }));
    assert!(failure.is_err());
    assert!(!names.iter().any(|path| path.exists()), "left behind: {names:?}");

    // What a killed lab leaves: no process has a number above the kernel's limit of 2^22.
    let left = Path::new("/run/netns/tracer-lab-4194305-0-node");
    fs::write(left, "").unwrap();
    drop(Lab::build(Topology::RoutedVxlan).unwrap());
    assert!(!left.exists());
}

#[test]
fn a_device_can_go_while_its_pod_stays() {
    let mut lab = Lab::build(Topology::CiliumLegacyRouting).unwrap();
    let device = lab.pod("httpbin-local").host_device().to_owned();

    lab.delete_device(NODE_1, &device).unwrap();

    assert!(lab.node(NODE_1).netns().ifindex(&device).is_err());
    assert!(lab.pod("httpbin-local").netns().path().exists());
    lab.delete_pod("httpbin-local").unwrap();
    assert_eq!(lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1).unwrap().received, 1);
}
