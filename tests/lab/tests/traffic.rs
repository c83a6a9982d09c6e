//! Traffic flows in every topology: the lab's own tests. They need root.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use tracer_lab::{Flood, Lab, Pod, RecordType, Topology};

/// Makes a test of each rule for each topology.
macro_rules! in_every_topology {
    ($($rule:ident)*) => {
        in_every_topology!(@ routed_vxlan RoutedVxlan $($rule)*);
        in_every_topology!(@ bridge_vxlan BridgeVxlan $($rule)*);
        in_every_topology!(@ cilium_legacy_routing CiliumLegacyRouting $($rule)*);
        in_every_topology!(@ cilium_host_routing CiliumHostRouting $($rule)*);
    };
    (@ $module:ident $topology:ident $($rule:ident)*) => {
        mod $module {
            $(#[test]
            fn $rule() {
                super::$rule(&mut tracer_lab::Lab::build(tracer_lab::Topology::$topology).unwrap());
            })*
        }
    };
}

in_every_topology! {
    ping_reaches_pods_on_both_nodes
    http_reaches_pods_on_both_nodes
    http_reaches_services_on_both_nodes
    dns_reaches_the_pod_and_the_service
    the_node_reaches_its_own_and_remote_pods
    a_pod_reaches_itself_through_its_service
    udp_fragments_reach_the_pod_and_the_service
    a_closed_udp_port_of_a_service_is_refused
    a_service_with_two_pods_reaches_both
    bulk_tcp_is_cut_on_the_wire_and_merged_behind_it
    a_pod_can_be_added_and_deleted
}

fn url(ip: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(ip, port))
}

fn ping_reaches_pods_on_both_nodes(lab: &mut Lab) {
    let curl = lab.pod("curl");
    for pod in ["httpbin", "httpbin-local", "coredns"].map(|name| lab.pod(name)) {
        for ip in pod.ips() {
            let report = curl.ping(ip, 3).unwrap();
            assert_eq!((report.sent, report.received), (3, 3), "ping {ip}");
        }
    }
}

fn http_reaches_pods_on_both_nodes(lab: &mut Lab) {
    let curl = lab.pod("curl");
    for pod in ["httpbin", "httpbin-local"].map(|name| lab.pod(name)) {
        let _server = pod.serve_http(80).unwrap();
        for (from, ip) in curl.ips().into_iter().zip(pod.ips()) {
            let answer = curl.curl(&url(ip, 80, "/get?a=b")).unwrap();
            let body = String::from_utf8(answer.body).unwrap();
            assert_eq!(answer.status, 200);
            assert!(body.contains(&format!("\"origin\": \"{from}\"")), "{body}");
        }
    }
}

fn http_reaches_services_on_both_nodes(lab: &mut Lab) {
    let clients = ["curl", "coredns"].map(|name| lab.pod(name));
    for name in ["httpbin", "httpbin-local"] {
        let _server = lab.pod(name).serve_http(80).unwrap();
        for client in &clients {
            for (from, ip) in client.ips().into_iter().zip(lab.service(name).cluster_ips()) {
                let answer = client.curl(&url(ip, 8000, "/")).unwrap();
                let body = String::from_utf8(answer.body).unwrap();
                assert_eq!((answer.status, answer.remote), (200, SocketAddr::new(ip, 8000)));
                assert!(body.contains(&format!("\"origin\": \"{from}\"")), "{body}");
            }
        }
    }
}

fn dns_reaches_the_pod_and_the_service(lab: &mut Lab) {
    let (curl, coredns) = (lab.pod("curl"), lab.pod("coredns"));
    let _server = coredns.serve_dns(53, lab.dns_records()).unwrap();
    let wanted = lab.service("httpbin");
    for ip in coredns.ips().into_iter().chain(lab.service("kube-dns").cluster_ips()) {
        let ask = |name, kind| curl.dns_query(SocketAddr::new(ip, 53), name, kind).unwrap();
        let name = "httpbin.default.svc.cluster.local";
        assert_eq!(ask(name, RecordType::A), [wanted.cluster_ipv4]);
        assert_eq!(ask(name, RecordType::Aaaa), [wanted.cluster_ipv6]);
        assert_eq!(ask("nobody.default.svc.cluster.local", RecordType::A), [] as [IpAddr; 0]);
    }
}

fn the_node_reaches_its_own_and_remote_pods(lab: &mut Lab) {
    let node = lab.node("telekom-xwkb3");
    for pod in ["curl", "httpbin"].map(|name| lab.pod(name)) {
        for ip in pod.ips() {
            let mut ping = node.netns().command("ping");
            let output = ping.args(["-n", "-q", "-c", "1", "-W", "2", &ip.to_string()]).output().unwrap();
            assert!(output.status.success(), "ping {ip}: {output:?}");
        }
    }
}

fn a_pod_reaches_itself_through_its_service(lab: &mut Lab) {
    let httpbin = lab.pod("httpbin");
    let _server = httpbin.serve_http(80).unwrap();
    for ip in lab.service("httpbin").cluster_ips() {
        let answer = httpbin.curl(&url(ip, 8000, "/")).unwrap();
        let body = String::from_utf8(answer.body).unwrap();
        assert!(!body.contains(&format!("\"origin\": \"{}\"", httpbin.ipv4())), "not masqueraded: {body}");
    }
}

fn udp_fragments_reach_the_pod_and_the_service(lab: &mut Lab) {
    let (curl, coredns) = (lab.pod("curl"), lab.pod("coredns"));
    for ip in coredns.ips().into_iter().chain(lab.service("kube-dns").cluster_ips()) {
        let sink = coredns.udp_sink(53).unwrap();
        let flood = Flood { packets: 5, payload: 4000, rate: Some(1000) };
        assert_eq!(curl.udp_flood(SocketAddr::new(ip, 53), flood).unwrap(), 5);
        eventually(|| sink.received() == 5, &format!("5 fragmented datagrams to {ip}"));
    }
    let report = curl.ping_with(coredns.ipv4().into(), 2, &["-s", "4000"]).unwrap();
    assert_eq!(report.received, 2, "fragmented ping");
}

fn a_closed_udp_port_of_a_service_is_refused(lab: &mut Lab) {
    let curl = lab.pod("curl");
    for ip in lab.service("kube-dns").cluster_ips() {
        let error = curl.dns_query(SocketAddr::new(ip, 53), "a.b", RecordType::A).unwrap_err();
        let refused = error.chain().any(|cause| cause.to_string().contains("refused"));
        assert!(refused, "{ip}: {error:?}");
    }
}

fn a_service_with_two_pods_reaches_both(lab: &mut Lab) {
    let port = lab.service("httpbin").ports;
    let pair = lab.add_service("pair", 0x77, port, &["httpbin", "httpbin-local"]).unwrap();
    let curl = lab.pod("curl");
    let remote = lab.pod("httpbin").serve_http(80).unwrap();
    let _local = lab.pod("httpbin-local").serve_http(80).unwrap();
    let ask = || curl.curl(&url(pair.cluster_ipv4.into(), 8000, "/"));
    (0..8).for_each(|_| assert_eq!(ask().unwrap().status, 200));

    drop(remote);

    let answers = (0..40).map(|_| ask().is_ok()).collect::<Vec<_>>();
    assert!(answers.contains(&true) && answers.contains(&false), "not both chosen: {answers:?}");
}

fn bulk_tcp_is_cut_on_the_wire_and_merged_behind_it(lab: &mut Lab) {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _server = httpbin.serve_http(80).unwrap();
    for ip in httpbin.ips() {
        let capture = lab.capture_everywhere().unwrap();
        let answer = curl.curl(&url(ip, 80, "/bytes/1000000")).unwrap();
        let captured = capture.stop().unwrap();

        assert_eq!((answer.body.len(), captured.dropped), (1_000_000, 0));
        let largest = |place: &str| {
            let here = captured.packets.iter().filter(|p| *p.place == *place && *p.device == *"eth0");
            here.map(|packet| packet.bytes.len()).max().unwrap()
        };
        let nodes = ["telekom-xwkb3", "telekom-xwkb8"].map(largest);
        assert_eq!(nodes, [1514; 2], "full frames on the wire, none larger");
        let pods = ["default/curl", "default/httpbin"].map(largest);
        assert!(pods.iter().all(|largest| *largest > 2 * 1514), "GSO and GRO in the pods: {pods:?}");
    }
}

fn a_pod_can_be_added_and_deleted(lab: &mut Lab) {
    let httpbin = lab.pod("httpbin");
    let reaches = |late: &Pod| late.ping(httpbin.ipv4().into(), 1).unwrap().received == 1;
    let late = lab.add_pod("telekom-xwkb3", "late").unwrap();
    assert!(reaches(&late));
    assert!(lab.inventory_yaml().contains(late.uid()));

    lab.delete_pod("late").unwrap();

    assert!(!late.netns().path().exists());
    assert!(lab.node("telekom-xwkb3").netns().ifindex(late.host_device()).is_err());
    assert!(!lab.inventory_yaml().contains(late.uid()));
    let again = lab.add_pod("telekom-xwkb3", "late").unwrap();
    assert!(reaches(&again));
    assert_ne!(again.uid(), late.uid());
}

/// Waits for a condition for up to five seconds.
fn eventually(condition: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen within 5 s: {what}");
        thread::yield_now();
    }
}

#[test]
fn the_names_of_topologies_are_read_back() {
    for topology in Topology::ALL {
        assert_eq!(topology.name().parse::<Topology>().unwrap(), topology);
    }
    assert!("calico".parse::<Topology>().unwrap_err().contains("cilium-host-routing"));
}
