//! `tracer path`: the way before there is a packet, as the two reference walks find it by hand, and what looks wrong on it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tracer_integration::{Tracer, has_tcx, lab, patient};
use tracer_lab::{Direction, Foreign, ForeignHook, ForeignVerdict, Lab, Netns, Node, Pod, Topology};

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

#[track_caller]
fn says(evidence: &[&str], text: &str) {
    assert!(evidence.iter().any(|line| line.contains(text)), "{text:?} is not in {evidence:#?}");
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

#[test]
fn every_value_of_walk_1_is_found_by_one_command() {
    let lab = lab(Topology::CiliumLegacyRouting).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    talk(&lab);

    let way = path(&tracer, "httpbin", &[]);

    // 2: the target's address.
    assert_eq!(way["to"]["ip"], "10.244.1.246");
    // 3.1: the route in the pod. 3.2: the next hop's MAC.
    let pod = &way["there"][0];
    let evidence: Vec<_> =
        pod["evidence"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    says(&evidence, "10.244.1.246 via 10.244.0.237 dev eth0 src 10.244.0.153");
    says(&evidence, "10.244.0.237 dev eth0 lladdr f6:25:f2:9e:91:49");
    // 3.3: it is not the pod's own.
    assert_eq!(pod["device"], "256: eth0@if257");
    says(&evidence, "256: eth0@if257, MAC 9a:b4:aa:83:18:62, mtu 1500");
    // 3.4: but that of the node's end.
    says(&evidence, "f6:25:f2:9e:91:49 is 257: lxced3096cb2cb1@if256: the node's end of the pod's pair");
    let (end, evidence) = step(&way, "there", "lxced3096cb2cb1", "ingress");
    assert_eq!(
        (&end["device"], &end["node"]),
        (&"257: lxced3096cb2cb1@if256".into(), &"telekom-xwkb3".into())
    );
    says(&evidence, "MAC f6:25:f2:9e:91:49");
    // 3.5 and 3.6: the program there, with its id, tag and sizes.
    says(&evidence, "ingress: cil_from_container id ");
    says(&evidence, " gpl, loaded ");
    says(&evidence, ", map_ids ");
    // 3.7: what it does.
    assert!(end["what"].as_str().unwrap().contains("packs and redirects"), "{end}");
    // 3.8: the tunnel, and whose its far end is.
    let (tunnel, evidence) = step(&way, "there", "cilium_vxlan", "egress");
    says(&evidence, "cilium_ipcache: 10.244.1.246/32 identity=2735 encryptkey=0 tunnelendpoint=10.135.0.12");
    assert_eq!(tunnel["what"], "packs it for 10.135.0.12");
    says(&evidence, "far end 10.135.0.12 (cilium_ipcache says so), for telekom-xwkb8");
    // 4: the endpoint on the other node, its device there and in the pod.
    let (end, evidence) = step(&way, "there", "lxc0f9f206e5d0b", "egress");
    says(
        &evidence,
        "cilium_lxc: 10.244.1.246:0 id=1574 sec_id=2735 flags=0x0000 ifindex=131 mac=C2:36:A6:D2:9C:CE \
         nodemac=DA:22:1A:46:FE:6A",
    );
    assert_eq!(end["device"], "131: lxc0f9f206e5d0b@if130");
    says(&evidence, "MAC da:22:1a:46:fe:6a");
    let last = way["there"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["device"], &last["direction"]), (&"130: eth0@if131".into(), &"ingress".into()));
    says(
        &last["evidence"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>(),
        "MAC c2:36:a6:d2:9c:ce",
    );
    assert_eq!(rules(&way), Vec::<String>::new(), "{:#}", way["findings"]);
    assert_eq!(way["notes"].as_array().unwrap().len(), 0, "{}", way["notes"]);
}

#[test]
fn what_is_printed_is_what_ip_and_bpftool_print() {
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
    let state = || {
        let nodes = lab.nodes().iter().map(|node| node.netns().clone());
        let places: Vec<_> = nodes.chain(lab.pods().iter().map(|pod| pod.netns().clone())).collect();
        let mut all = String::new();
        for place in &places {
            for command in [&["-d", "link"][..], &["addr"], &["route"], &["-6", "route"], &["rule"]] {
                all.extend(run_in(place, "ip", command).lines().filter_map(settled));
            }
            // Their states change by themselves.
            let neighbours = run_in(place, "ip", &["neigh"]);
            all.extend(neighbours.lines().map(|line| format!("{}\n", line.rsplit_once(' ').unwrap().0)));
            all.push_str(&run_in(place, "bridge", &["fdb"]));
            all.push_str(&run_in(place, "tc", &["qdisc"]));
            all.push_str(&run_in(place, "nft", &["list", "ruleset"]));
            all.push_str(&run_in(place, "bpftool", &["net"]));
        }
        all
    };
    let before = state();

    path(&tracer, "svc/httpbin", &[]);

    let after = state();
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

/// What is done to a lab, and what must be said of it then.
struct Case {
    rule: &'static str,
    topology: Topology,
    break_it: fn(&Lab) -> Option<tracer_lab::ForeignProgram>,
}

fn far(lab: &Lab) -> Node {
    lab.node_of(&lab.pod("httpbin"))
}

fn near(lab: &Lab) -> Node {
    lab.node_of(&lab.pod("curl"))
}

fn in_pod(pod: &Pod, arguments: &[&str]) {
    run_in(pod.netns(), "ip", arguments);
}

#[test]
fn each_thing_that_looks_wrong_is_said_where_it_is_and_only_there() {
    let cases = [
        Case {
            rule: "no-route",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                in_pod(&lab.pod("httpbin"), &["route", "del", "default"]);
                None
            },
        },
        Case {
            rule: "neighbour-failed",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                in_pod(
                    &lab.pod("curl"),
                    &["neigh", "replace", "169.254.1.1", "dev", "eth0", "nud", "failed"],
                );
                None
            },
        },
        Case {
            rule: "device-down",
            topology: Topology::CiliumLegacyRouting,
            break_it: |lab| {
                ip(&far(lab), &["link", "set", lab.pod("httpbin").host_device(), "down"]);
                None
            },
        },
        Case {
            rule: "mtu",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                for node in lab.nodes() {
                    ip(node, &["link", "set", "eth0", "mtu", "1400"]);
                }
                None
            },
        },
        Case {
            rule: "wire-mtu",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                ip(&far(lab), &["link", "set", "eth0", "mtu", "1600"]);
                None
            },
        },
        Case {
            rule: "forwarding-off",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                near(lab).netns().set_sysctls(&[("net/ipv4/ip_forward", "0")]).unwrap();
                None
            },
        },
        Case {
            rule: "rp-filter",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                let node = far(lab);
                node.netns()
                    .set_sysctls(&[
                        ("net/ipv4/conf/all/rp_filter", "1"),
                        ("net/ipv4/conf/vxlan.calico/rp_filter", "1"),
                    ])
                    .unwrap();
                let gateway = near(lab).ipv4().to_string();
                ip(&node, &["route", "replace", "10.244.0.0/24", "via", &gateway, "dev", "eth0"]);
                None
            },
        },
        Case {
            rule: "tunnel-end-no-node",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                let node = near(lab);
                let fdb = run_in(node.netns(), "bridge", &["fdb", "show", "dev", "vxlan.calico"]);
                let mac = fdb.split_whitespace().next().unwrap().to_owned();
                let arguments = ["fdb", "replace", &mac, "dev", "vxlan.calico", "dst", "10.135.0.99"];
                run_in(node.netns(), "bridge", &arguments);
                None
            },
        },
        Case {
            rule: "stale-entry",
            topology: Topology::CiliumLegacyRouting,
            break_it: |lab| {
                let tracer = Tracer::new(lab).unwrap();
                let way = path(&tracer, "httpbin", &[]);
                let entries = way["near"]["entries"].as_array().unwrap();
                let entry = entries.iter().find(|entry| {
                    entry["map"] == "cilium_ipcache"
                        && entry["text"].as_str().unwrap().starts_with("10.244.1.246/32")
                });
                let id = entry.unwrap()["id"].to_string();
                // Prefix of 64 bits, family 1, address; identity 2735 behind 10.135.0.77.
                let update = format!(
                    "map update id {id} key hex 40 00 00 00 00 00 00 01 0a f4 01 f6 00 00 00 00 00 00 00 00 00 00 00 00 \
                     value hex af 0a 00 00 0a 87 00 4d 00 00 00 00"
                );
                run_in(near(lab).netns(), "bpftool", &update.split(' ').collect::<Vec<_>>());
                None
            },
        },
    ];
    for Case { rule, topology, break_it } in cases {
        let lab = lab(topology).unwrap();
        let tracer = Tracer::new(&lab).unwrap();
        talk(&lab);
        assert!(
            !rules(&path(&tracer, "httpbin", &[])).contains(&rule.to_owned()),
            "{rule} is said of a good way"
        );

        let _held = break_it(&lab);

        let way = path(&tracer, "httpbin", &[]);
        assert!(rules(&way).contains(&rule.to_owned()), "{rule}: {:#}\n{way:#}", way["findings"]);
    }
}

#[test]
fn programs_that_hide_packets_from_others_are_named() {
    // One filter has nobody behind it; without TCX there are no two kinds of programs either.
    let mut cases = vec![(vec![ForeignHook::Clsact], &[][..])];
    if has_tcx() {
        cases.push((vec![ForeignHook::TcxTail, ForeignHook::Clsact], &["legacy-behind-tcx"]));
        cases.push((vec![ForeignHook::TcxTail, ForeignHook::TcxTail], &["hidden-programs"]));
    }
    for (hooks, rule) in cases {
        let lab = lab(Topology::RoutedVxlan).unwrap();
        let tracer = Tracer::new(&lab).unwrap();
        let curl = lab.pod("curl");
        assert_eq!(rules(&path(&tracer, "httpbin", &[])), Vec::<String>::new());

        let held: Vec<_> = hooks
            .into_iter()
            .map(|hook| {
                let foreign = Foreign { hook, verdict: ForeignVerdict::Ok };
                lab.attach_foreign(near(&lab).name(), curl.host_device(), Direction::Ingress, &foreign)
                    .unwrap()
            })
            .collect();

        assert_eq!(rules(&path(&tracer, "httpbin", &[])), rule);
        drop(held);
    }
}

#[test]
fn a_service_without_ready_endpoints_is_said_to_have_none() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let inventory = fs::read_to_string(tracer.inventory()).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut list: Value = serde_saphyr::from_str(&inventory).unwrap();
        list["items"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .filter(|item| item["kind"] == "EndpointSlice")
            .for_each(change);
        fs::write(tracer.inventory(), list.to_string()).unwrap();
        rules(&path(&tracer, "svc/httpbin", &[]))
    };

    assert_eq!(with(|_| {}), Vec::<String>::new());
    let not_ready = with(|slice| slice["endpoints"][0]["conditions"] = serde_json::json!({ "ready": false }));
    assert_eq!(not_ready, ["endpoint-not-ready"]);
    assert_eq!(with(|slice| slice["endpoints"] = serde_json::json!([])), ["no-endpoints"]);
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
