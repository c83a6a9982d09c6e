//! What looks wrong, provoked, and silence where all is well.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use serde_json::Value;
use tracer_integration::{Tracer, has_tcx, lab};
use tracer_lab::{Direction, Foreign, ForeignHook, ForeignVerdict, Lab, Pod, Topology};

use crate::{far, ip, near, path, rules, run_in, talk};

/// What is done to a lab, and what must be said of it then.
struct Case {
    rule: &'static str,
    topology: Topology,
    break_it: fn(&Lab) -> Option<tracer_lab::ForeignProgram>,
}

fn in_pod(pod: &Pod, arguments: &[&str]) {
    run_in(pod.netns(), "ip", arguments);
}

/// Lets the far pods' tunnel end elsewhere, or nowhere.
fn tunnel_to(lab: &Lab, end: &[&str]) {
    let bridge = |arguments: &[&str]| run_in(near(lab).netns(), "bridge", arguments);
    let fdb = bridge(&["fdb", "show", "dev", "vxlan.calico"]);
    let mac = fdb.split_whitespace().next().unwrap();
    bridge(&["fdb", "del", mac, "dev", "vxlan.calico"]);
    if !end.is_empty() {
        bridge(&[&["fdb", "add", mac, "dev", "vxlan.calico"], end].concat());
    }
}

/// So many connections, each of one packet, that the near node has this part of what it can keep. Each namespace has a
/// table of its own.
fn fill_connection_tracking(lab: &Lab, percent: u32) {
    let most =
        near(lab).netns().run(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")).unwrap();
    let wanted = most.unwrap().trim().parse::<u32>().unwrap() / 100 * percent;
    let network = lab.pod("httpbin").ipv4().octets();
    let socket = lab.pod("curl").netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for number in 0..wanted {
        let host = 2 + u8::try_from(number / 60_000).unwrap();
        let port = 1 + u16::try_from(number % 60_000).unwrap();
        let to = Ipv4Addr::new(network[0], network[1], network[2], host);
        // Nobody listens, and refusals come back: the error of an earlier one.
        let _ = socket.send_to(b"x", (to, port));
    }
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
                tunnel_to(lab, &["dst", "10.135.0.99"]);
                None
            },
        },
        Case {
            rule: "tunnel-end-wrong",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                tunnel_to(lab, &["dst", &near(lab).ipv4().to_string()]);
                None
            },
        },
        Case {
            rule: "tunnel-end-unknown",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                tunnel_to(lab, &[]);
                None
            },
        },
        Case {
            rule: "conntrack-full",
            topology: Topology::RoutedVxlan,
            break_it: |lab| {
                fill_connection_tracking(lab, 92);
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
