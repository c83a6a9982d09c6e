//! `tracer path`: the way before there is a packet, as the two reference walks find it by hand, and what looks wrong on it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

mod findings;
mod walks;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tracer_integration::{Tracer, lab, patient};
use tracer_lab::{Fault, Flood, Lab, Netns, Node, Topology};

const SOON: Duration = Duration::from_secs(20);

/// `tracer path -o json` from curl; it fails where there are problems, and says them all the same.
fn path(tracer: &Tracer, to: &str, more: &[&str]) -> Value {
    let arguments = ["--pod", "curl", "--to", to, "-o", "json"];
    let output = tracer.run("path", &[&arguments, more].concat()).unwrap();
    read(&output)
}

fn read(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn rules(way: &Value) -> Vec<String> {
    let findings = way["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

/// The one step of a device, and what says so.
fn step<'a>(path: &'a Value, way: &str, device: &str, direction: &str) -> (&'a Value, Vec<&'a str>) {
    let steps = path[way].as_array().unwrap();
    let found: Vec<_> =
        steps.iter().filter(|step| step["name"] == device && step["direction"] == direction).collect();
    let [step] = found[..] else { panic!("{device} {direction} in {steps:#?}") };
    (step, step["evidence"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect())
}

fn evidence_of(step: &Value) -> Vec<String> {
    step["evidence"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn says(evidence: &[impl AsRef<str> + std::fmt::Debug], text: &str) {
    assert!(evidence.iter().any(|line| line.as_ref().contains(text)), "{text:?} is not in {evidence:#?}");
}

fn hooks(path: &Value, way: &str) -> Vec<String> {
    let steps = path[way].as_array().unwrap().iter();
    steps
        .map(|step| {
            let text = |field: &str| step[field].as_str().unwrap().to_owned();
            let place = if step["pod"].is_null() { "node" } else { "pod" };
            format!("{} {place} {} {}", text("node"), text("name"), text("direction"))
        })
        .collect()
}

/// The next hops are asked for by whoever sends first.
fn talk(lab: &Lab) {
    assert_eq!(lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 2).unwrap().received, 2);
}

/// What a tool prints in a namespace.
fn run_in(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let output = netns.command(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(node: &Node, arguments: &[&str]) -> String {
    run_in(node.netns(), "ip", arguments)
}

fn far(lab: &Lab) -> Node {
    lab.node_of(&lab.pod("httpbin"))
}

fn near(lab: &Lab) -> Node {
    lab.node_of(&lab.pod("curl"))
}

/// What is lost before any packet has shown a way is expected where the nodes' own state would have sent it.
#[test]
fn the_first_packet_is_expected_at_the_hooks_of_the_way() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, httpbin, port) = (lab.pod("curl"), lab.pod("httpbin"), 9001);
    let _fault = lab.inject(near(&lab).name(), Fault::DropRule { port }).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "udp"]).unwrap();
    let one = Flood { packets: 1, payload: 100, rate: None };
    curl.udp_flood(SocketAddr::new(httpbin.ipv4().into(), port), one).unwrap();
    let told = follow.eventually(patient(SOON), "the packet", |told| !told.is_empty());
    follow.stop().unwrap();

    let way = path(&tracer, "httpbin", &[]);

    let lost = &told[0];
    let expected: Vec<_> =
        way["there"].as_array().unwrap()[2..].iter().map(|step| step["name"].clone()).collect();
    let missing: Vec<_> = lost.missing.iter().map(|missing| missing.point.as_str()).collect();
    assert_eq!((lost.hops.len(), missing.len()), (2, expected.len()), "{lost}");
    for (missing, expected) in missing.iter().zip(&expected) {
        assert!(missing.contains(expected.as_str().unwrap()), "{expected}: {lost}");
    }
}

/// A WireGuard device sends to the peer that has the target's network.
#[test]
fn the_far_end_of_wireguard_is_its_peers() {
    if let Some(lacking) = Topology::CalicoWireguard.lacking().unwrap() {
        assert!(lab(Topology::CalicoWireguard).err().unwrap().to_string().ends_with(&lacking));
        return;
    }
    let lab = lab(Topology::CalicoWireguard).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    talk(&lab);

    let way = path(&tracer, "httpbin", &[]);

    let (packs, evidence) = step(&way, "there", "wireguard.cali", "egress");
    assert_eq!(packs["what"], format!("packs it for {}", far(&lab).ipv4()));
    let peers = run_in(near(&lab).netns(), "wg", &["show", "wireguard.cali", "allowed-ips"]);
    let (key, networks) = peers.trim().split_once('\t').unwrap();
    says(&evidence, &format!("wireguard peer {key} with allowed ips "));
    assert!(
        networks.split(' ').any(|network| evidence.iter().any(|line| line.contains(network))),
        "{evidence:#?}"
    );

    run_in(near(&lab).netns(), "wg", &["set", "wireguard.cali", "peer", key, "allowed-ips", "192.0.2.0/24"]);

    assert_eq!(rules(&path(&tracer, "httpbin", &[])), ["tunnel-end-unknown"]);
}

#[test]
fn what_is_printed_is_what_ip_ethtool_and_bpftool_print() {
    let lab = lab(Topology::CiliumLegacyRouting).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    talk(&lab);
    let (curl, node) = (lab.pod("curl"), lab.node_of(&lab.pod("curl")));

    let way = path(&tracer, "httpbin", &[]);

    let route = run_in(curl.netns(), "ip", &["route", "get", "10.244.1.246"]);
    let near = &way["near"]["pod"]["route"]["route"];
    for (word, value) in [("via", &near["gateway"]), ("dev", &near["device"]), ("src", &near["source"])] {
        assert!(route.contains(&format!("{word} {}", value.as_str().unwrap())), "{word} {value}: {route}");
    }
    let neighbours = run_in(curl.netns(), "ip", &["neigh"]);
    let hop = &way["near"]["pod"]["next_hop"];
    assert!(neighbours.contains(&format!("lladdr {}", hop["mac"].as_str().unwrap())), "{hop}: {neighbours}");
    let device = &way["near"]["device"];
    let link = ip(&node, &["-o", "link", "show", "dev", device["name"].as_str().unwrap()]);
    for value in [
        format!("{}: ", device["ifindex"]),
        format!("mtu {} ", device["mtu"]),
        format!("link/ether {} ", device["mac"].as_str().unwrap()),
    ] {
        assert!(link.contains(&value), "{value}: {link}");
    }
    let name = device["name"].as_str().unwrap();
    let of_driver = run_in(node.netns(), "ethtool", &["-i", name]);
    assert!(of_driver.contains(&format!("driver: {}\n", device["kind"].as_str().unwrap())), "{of_driver}");
    assert_eq!((&device["up"], device["peer"].as_u64()), (&true.into(), Some(u64::from(curl.ifindex()))));
    assert!(run_in(node.netns(), "ethtool", &[name]).contains("Link detected: yes"));
    let statistics = run_in(node.netns(), "ethtool", &["-S", name]);
    assert!(statistics.contains(&format!("peer_ifindex: {}\n", curl.ifindex())), "{statistics}");
    let program = &device["ingress"][0];
    let shown = run_in(node.netns(), "bpftool", &["-j", "prog", "show", "id", &program["id"].to_string()]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for (ours, theirs) in [
        ("tag", "tag"),
        ("uid", "uid"),
        ("xlated", "bytes_xlated"),
        ("jited", "bytes_jited"),
        ("memlock", "bytes_memlock"),
        ("map_ids", "map_ids"),
        ("btf_id", "btf_id"),
    ] {
        assert_eq!(program[ours], shown[theirs], "{ours}: {program} {shown}");
    }
    assert_eq!(program["gpl"], shown["gpl_compatible"]);
    let rules = ip(&node, &["rule"]);
    for rule in way["near"]["rules"].as_array().unwrap() {
        let line = format!("{}:\t{}", rule["priority"], rule["text"].as_str().unwrap());
        assert!(rules.contains(&line), "{line:?}: {rules:?}");
    }
}

/// A line of `ip` without what the kernel still does by itself after a device was set up: its carrier, and link-local
/// addresses.
fn settled(line: &str) -> Option<String> {
    if line.contains("fe80::") {
        return None;
    }
    let (before, rest) = line.split_once('<').unwrap_or((line, ""));
    let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let kept = words
        .iter()
        .enumerate()
        .filter(|(at, word)| **word != "state" && (*at == 0 || words[at - 1] != "state"));
    Some(format!("{before}{}\n", kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")))
}

#[test]
fn looking_changes_nothing_on_the_machine() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    talk(&lab);
    let nodes = lab.nodes().iter().map(|node| node.netns().clone());
    let places: Vec<_> = nodes.chain(lab.pods().iter().map(|pod| pod.netns().clone())).collect();
    let state = || {
        let mut all = String::new();
        for place in &places {
            for command in [&["-d", "link"][..], &["addr"], &["route"], &["-6", "route"], &["rule"]] {
                all.extend(run_in(place, "ip", command).lines().filter_map(settled));
            }
            all.push_str(&run_in(place, "bridge", &["fdb"]));
            all.push_str(&run_in(place, "tc", &["qdisc"]));
            all.push_str(&run_in(place, "nft", &["list", "ruleset"]));
            all.push_str(&run_in(place, "bpftool", &["net"]));
        }
        all
    };
    // Their states, with which a line ends, change by themselves, and the kernel forgets those that nobody uses.
    let neighbours = || {
        let all = places.iter().map(|place| run_in(place, "ip", &["neigh"])).collect::<String>();
        all.lines()
            .map(|line| line.trim_end().rsplit_once(' ').unwrap().0.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (before, neighbours_before) = (state(), neighbours());

    path(&tracer, "svc/httpbin", &[]);

    let (after, neighbours_after) = (state(), neighbours());
    assert_eq!(neighbours_after.difference(&neighbours_before).collect::<Vec<_>>(), Vec::<&String>::new());
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(&before), lines(&after));
    assert_eq!(before.symmetric_difference(&after).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// Both directions, for each topology that works here, by the pod's address and by the Service's.
#[test]
fn the_way_has_the_hooks_at_which_packets_are_seen_and_nothing_looks_wrong_on_a_good_one() {
    for topology in Topology::ALL {
        if topology.lacking().unwrap().is_some() {
            continue;
        }
        let lab = lab(topology).unwrap();
        let tracer = Tracer::new(&lab).unwrap();
        for (to, pod) in
            [("httpbin", "httpbin"), ("svc/httpbin", "httpbin"), ("httpbin-local", "httpbin-local")]
        {
            let (curl, peer) = (lab.pod("curl"), lab.pod(pod));
            let follow = tracer.follow(&["--pod", "curl", "--to", pod, "--protocol", "icmp"]).unwrap();
            assert_eq!(curl.ping(peer.ipv4().into(), 2).unwrap().received, 2);
            let told = follow.eventually(patient(SOON), "both ways", |told| {
                told.iter().filter(|told| told.is_complete()).count() >= 4
            });
            follow.stop().unwrap();

            let path = path(&tracer, to, &[]);

            assert_eq!(rules(&path), Vec::<String>::new(), "{topology} {to}: {:#}", path["findings"]);
            for told in told.iter().filter(|told| told.is_complete()) {
                let way = if told.src.ip == curl.ipv4() { "there" } else { "back" };
                let seen: Vec<String> = told
                    .hops
                    .iter()
                    .map(|hop| {
                        let place = if hop.role == "pod-interface" { "pod" } else { "node" };
                        format!("{} {place} {} {}", hop.node, hop.device, hop.direction)
                    })
                    .collect();
                let expected: Vec<String> = hooks(&path, way)
                    .into_iter()
                    .zip(path[way].as_array().unwrap())
                    .filter(|(hook, step)| step["unseen"].is_null() || seen.contains(hook))
                    .map(|(hook, _)| hook)
                    .collect();
                assert_eq!(expected, seen, "{topology} {to} {way}: {told}");
            }
        }
    }
}

#[test]
fn a_service_is_led_to_its_endpoints_by_who_translates_it() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();

    let way = path(&tracer, "svc/httpbin", &[]);

    assert_eq!(way["service"]["ip"], lab.service("httpbin").cluster_ipv4.to_string());
    assert_eq!(way["service"]["endpoints"][0]["ip"], lab.pod("httpbin").ipv4().to_string());
    assert_eq!(way["near"]["services"][0]["by"], "nftables");
}

#[test]
fn text_fits_80_columns_and_says_why_with_v() {
    let lab = lab(Topology::CiliumLegacyRouting).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let text = |more: &[&str]| {
        let output = tracer.run("path", &[&["--pod", "curl", "--to", "httpbin"], more].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };

    let (short, long) = (text(&[]), text(&["-v"]));

    assert!(short.lines().all(|line| line.chars().count() <= 80), "{short}");
    assert!(short.contains("telekom-xwkb3") && short.contains("nothing looks wrong on this way"), "{short}");
    assert!(!short.contains("next hop:") && long.contains("next hop: 10.244.0.237"), "{long}");
}

#[test]
fn two_pods_ways_are_compared_where_they_differ() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let same = path(&tracer, "httpbin", &["--diff", "pod/httpbin-local"]);
    let about = |way: &Value| {
        let differences = way["difference"]["differences"].as_array().unwrap();
        differences
            .iter()
            .map(|difference| difference["about"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(about(&same), Vec::<String>::new(), "{}", same["difference"]);

    run_in(lab.pod("httpbin-local").netns(), "ip", &["link", "set", "eth0", "mtu", "1200"]);

    let differs = path(&tracer, "httpbin", &["--diff", "pod/httpbin-local"]);
    assert_eq!(about(&differs), ["from: pod's device"], "{}", differs["difference"]);
}

#[test]
fn a_packet_that_was_seen_is_laid_beside_the_way() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"]).unwrap();
    talk(&lab);
    follow.eventually(SOON, "a packet", |told| !told.is_empty());
    let report = follow.stop().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("told.json");
    fs::write(&file, report.stdout.join("\n")).unwrap();

    let way = path(&tracer, "httpbin", &["--diff", file.to_str().unwrap()]);

    let marks: Vec<_> =
        way["difference"]["hooks"].as_array().unwrap().iter().map(|line| &line["mark"]).collect();
    assert_eq!(marks.len(), 8, "{way:#}");
    assert!(marks.iter().all(|mark| **mark == "same"), "{:#}", way["difference"]);
}

#[test]
fn what_cannot_be_seen_is_said_and_what_is_asked_wrongly_is_an_error() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();

    let outside = path(&tracer, "192.0.2.1", &[]);
    assert!(outside["far"].is_null());
    assert!(outside["notes"][0].as_str().unwrap().contains("192.0.2.1"), "{}", outside["notes"]);

    for (arguments, code) in [
        (&["--pod", "curl"][..], 2),
        (&["--pod", "curl", "--to", "nobody"], 1),
        (&["--pod", "curl", "--to", "httpbin", "--diff", "/nonexistent"], 1),
    ] {
        let output = tracer.run("path", arguments).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
}
