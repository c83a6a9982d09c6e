//! Pods and devices come and go while a follow runs.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::Ipv4Addr;
use std::time::Duration;

use tracer_integration::{Follow, Report, Tracer, Trajectory, ip, url};
use tracer_lab::{Lab, Pod, Protocol, ServicePort, Topology};

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";
const SOON: Duration = Duration::from_secs(10);

#[test]
fn interfaces_with_the_same_index_in_two_pods_stay_apart() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, local) = (lab.pod("curl"), lab.pod("httpbin-local"));
    assert_eq!(curl.ifindex(), local.ifindex(), "the lab makes them so");
    let tracer = Tracer::new(&lab).unwrap();
    let follow = follow_icmp(&tracer, "httpbin-local");

    ping(&curl, &local, 3);

    let told = follow.eventually(SOON, "all pings", |told| told.len() == 6);
    for trajectory in &told {
        let (from, to) =
            if trajectory.src.pod.as_deref() == Some("curl") { (&curl, &local) } else { (&local, &curl) };
        let path = [
            (from.label(), "eth0", "egress"),
            (NODE_1.to_owned(), from.host_device(), "ingress"),
            (NODE_1.to_owned(), to.host_device(), "egress"),
            (to.label(), "eth0", "ingress"),
        ];
        assert_eq!(trajectory.path(), path, "{trajectory}");
        assert_eq!((trajectory.hops[0].ifindex, trajectory.hops[3].ifindex), (from.ifindex(), to.ifindex()));
        assert!(trajectory.is_complete(), "{trajectory}");
    }
    end(follow);
}

#[test]
fn a_pod_that_starts_while_we_follow_is_seen() {
    for annotated in [true, false] {
        let mut lab = Lab::build(Topology::RoutedVxlan).unwrap();
        let tracer = Tracer::new(&lab).unwrap();
        // The API server knows a pod, and its address, before its interface is there.
        announce(&lab, &tracer, "late", Ipv4Addr::new(10, 244, 1, 100), annotated);
        let follow = follow_icmp(&tracer, "late");

        let late = lab.add_pod(NODE_2, "late").unwrap();
        assert_eq!(late.ipv4(), Ipv4Addr::new(10, 244, 1, 100), "the announced address");

        assert_seen_on_both_ends(&follow, &lab.pod("curl"), &late);
        end(follow);
    }
}

#[test]
fn a_pod_that_comes_back_with_another_address_is_seen_when_the_inventory_tells() {
    let mut lab = Lab::build(Topology::BridgeVxlan).unwrap();
    let first = lab.add_pod(NODE_2, "web-0").unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = follow_icmp(&tracer, "web-0");
    assert_seen_on_both_ends(&follow, &lab.pod("curl"), &first);

    lab.delete_pod("web-0").unwrap();
    let second = lab.add_pod(NODE_2, "web-0").unwrap();
    assert_ne!(first.ipv4(), second.ipv4());
    tracer.update_inventory(&lab).unwrap();

    assert_seen_on_both_ends(&follow, &lab.pod("curl"), &second);
    end(follow);
}

#[test]
fn a_new_endpoint_of_a_service_is_seen_when_the_inventory_tells() {
    let mut lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let old = lab.add_pod(NODE_2, "web-1").unwrap();
    let _old_server = old.serve_http(80).unwrap();
    let ports = vec![ServicePort { name: "http", protocol: Protocol::Tcp, port: 8000, target_port: 80 }];
    let service = lab.add_service("web", 0x50, ports, &["web-1", "web-2"]).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "svc/web", "--port", "8000"]).unwrap();
    let curl = lab.pod("curl");
    let call = || curl.curl(&url(service.cluster_ipv4, 8000, "/")).unwrap().status;
    assert_eq!(call(), 200);
    follow.eventually(SOON, "the old endpoint's interface", |told| enters(told, &old));

    lab.delete_pod("web-1").unwrap();
    // On the node that had no endpoint of the Service so far.
    let new = lab.add_pod(NODE_1, "web-2").unwrap();
    let _new_server = new.serve_http(80).unwrap();
    tracer.update_inventory(&lab).unwrap();

    tracer_integration::wait_until(SOON, "the new endpoint's interface", || {
        assert_eq!(call(), 200);
        enters(&follow.trajectories(), &new).then_some(())
    });
    end(follow);
}

#[test]
fn a_device_that_disappears_does_no_harm() {
    let mut lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let doomed = lab.add_pod(NODE_1, "doomed").unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = follow_icmp(&tracer, "httpbin");
    let follow_doomed = follow_icmp(&tracer, "doomed");
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    ping(&curl, &doomed, 2);
    follow_doomed.eventually(SOON, "all pings", |told| told.len() == 4);

    lab.delete_device(NODE_1, doomed.host_device()).unwrap();
    lab.delete_pod("doomed").unwrap();
    lab.delete_device(NODE_2, lab.pod("coredns").host_device()).unwrap();
    // Long enough for each to look after its hooks more than once.
    ping(&curl, &httpbin, 120);

    let told = follow.eventually(SOON, "all pings", |told| told.len() == 240);
    let incomplete = told.iter().find(|told| !told.is_complete());
    assert!(incomplete.is_none(), "the rest goes on, but {}", incomplete.unwrap());
    for report in [end(follow), end(follow_doomed)] {
        let warnings: Vec<_> = report.stderr.iter().filter(|line| line.starts_with("warning")).collect();
        assert!(warnings.is_empty(), "what is gone needs no care: {warnings:?}");
    }
    assert!(tracer.hooked().ours.is_empty());
}

#[test]
fn a_device_with_the_index_of_one_that_is_gone_is_another_point() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let (curl, local) = (lab.pod("curl"), lab.pod("httpbin-local"));
    let tracer = Tracer::new(&lab).unwrap();
    let follow = follow_icmp(&tracer, "httpbin-local");
    ping(&curl, &local, 2);
    let told = follow.eventually(SOON, "all pings", |told| told.len() == 4);
    let old = told[0].hops.iter().find(|hop| hop.device == local.host_device()).unwrap().ifindex;

    lab.delete_device(NODE_1, local.host_device()).unwrap();
    plug_in_again(&lab, &local, "cali-again", old);

    tracer_integration::wait_until(SOON, "the new pair is observed at both ends", || {
        knock(&curl, &local);
        let told = follow.trajectories();
        let new = told.iter().find(|told| told.hops.iter().any(|hop| hop.device == "cali-again"))?;
        let hop = new.hops.iter().find(|hop| hop.device == "cali-again")?;
        assert_eq!(hop.ifindex, old, "the same index");
        told.last()?.is_complete().then_some(())
    });
    let report = end(follow);
    for trajectory in &report.trajectories {
        let devices: Vec<&str> = trajectory.hops.iter().map(|hop| hop.device.as_str()).collect();
        assert!(
            !(devices.contains(&"cali-again") && devices.contains(&local.host_device())),
            "a packet passes one of them: {trajectory}"
        );
    }
    assert_eq!(report.summary().losses.unattributed, 0);
}

fn follow_icmp(tracer: &Tracer, to: &str) -> Follow {
    tracer.follow(&["--pod", "curl", "--to", to, "--protocol", "icmp"]).unwrap()
}

#[track_caller]
fn ping(from: &Pod, to: &Pod, count: u32) {
    let report = from.ping(to.ipv4().into(), count).unwrap();
    assert_eq!(report.received, count, "no ping is lost");
}

/// One ping while tracer attaches to the way. The kernel may lose it: it stops a device for a moment when it gets its
/// clsact qdisc (docs/attach.md).
fn knock(from: &Pod, to: &Pod) {
    from.ping(to.ipv4().into(), 1).unwrap();
}

/// Pings until tracer tells of a packet that enters the pod's own interface with its whole path.
#[track_caller]
fn assert_seen_on_both_ends(follow: &Follow, curl: &Pod, pod: &Pod) {
    let address = pod.ipv4().to_string();
    let whole = |told: &[Trajectory]| {
        let to_it = |told: &&Trajectory| told.dst.ip.to_string() == address;
        told.iter().filter(to_it).any(|told| {
            told.is_complete()
                && told.dst.pod.as_deref() == Some(pod.name())
                && enters(std::slice::from_ref(told), pod)
        })
    };
    tracer_integration::wait_until(
        SOON,
        &format!("{} is followed at its own interface", pod.label()),
        || {
            knock(curl, pod);
            whole(&follow.trajectories()).then_some(())
        },
    );
}

/// Whether a packet entered the pod by its own interface.
fn enters(told: &[Trajectory], pod: &Pod) -> bool {
    let last = |told: &Trajectory| {
        told.hops.last().is_some_and(|hop| {
            hop.place() == pod.label()
                && hop.direction == "ingress"
                && hop.dst.ip == pod.ipv4()
                && hop.ifindex == pod.ifindex()
        })
    };
    told.iter().any(last)
}

#[track_caller]
fn end(follow: Follow) -> Report {
    let report = follow.stop().unwrap();
    assert!(report.exit.success(), "{}\n{}", report.exit, report.stderr.join("\n"));
    report
}

/// Adds a pod to the inventory that does not exist yet: httpbin under another name and address.
fn announce(lab: &Lab, tracer: &Tracer, name: &str, address: Ipv4Addr, annotated: bool) {
    let text = std::fs::read_to_string(tracer.inventory()).unwrap();
    let httpbin = lab.pod("httpbin");
    let is_its_pod = |item: &&str| item.contains("  kind: Pod\n") && item.contains("\n    name: httpbin\n");
    let item = text.split("\n- ").find(is_its_pod).unwrap();
    let [.., host] = address.octets();
    let mut new = item
        .replace("httpbin", name)
        .replace(&httpbin.ipv4().to_string(), &address.to_string())
        .replace(&httpbin.ipv6().to_string(), &format!("fd00:10:244:1::{host}"))
        .replace(httpbin.uid(), "00000000-1111-4222-8333-444444444444");
    if !annotated {
        // By its address then, of which only one is on this machine.
        let annotation =
            new.lines().filter(|line| !line.contains("tracer.dev/netns") && line.trim() != "annotations:");
        new = annotation.collect::<Vec<_>>().join("\n");
    }
    let whole =
        text.replacen("items:\n", &format!("items:\n- {}\n", new.trim_start_matches("- ").trim_end()), 1);
    std::fs::write(tracer.inventory(), whole).unwrap();
}

/// Gives the pod a new veth pair with the indexes of its old one, configured as the lab's CNI does.
fn plug_in_again(lab: &Lab, pod: &Pod, device: &str, ifindex: u32) {
    let node = lab.node(NODE_1).netns().clone();
    let inside = pod.netns();
    ip(
        &node,
        &format!(
            "link add {device} index {ifindex} address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 index {} netns {}",
            pod.ifindex(),
            inside.name()
        ),
    );
    node.set_sysctls(&[
        (&format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
        (&format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
    ])
    .unwrap();
    ip(&node, &format!("link set {device} up"));
    ip(&node, &format!("route add {}/32 dev {device}", pod.ipv4()));
    ip(inside, "link set eth0 mtu 1450 up");
    ip(inside, &format!("address add {}/32 dev eth0", pod.ipv4()));
    ip(inside, "route add 169.254.1.1 dev eth0");
    ip(inside, "route add default via 169.254.1.1 dev eth0");
}
