//! The two reference walks, value by value.

use serde_json::Value;
use tracer_integration::{Tracer, lab};
use tracer_lab::{Node, Topology};

use crate::{evidence_of, far, near, path, rules, says, step, talk};

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
    let evidence = evidence_of(pod);
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
    says(&evidence_of(last), "MAC c2:36:a6:d2:9c:ce");
    assert_eq!(rules(&way), Vec::<String>::new(), "{:#}", way["findings"]);
    assert_eq!(way["notes"].as_array().unwrap().len(), 0, "{}", way["notes"]);
}

/// Walk 2: where the kernel has no IPIP, Calico's other overlay.
#[test]
fn every_value_of_walk_2_is_found_by_one_command() {
    let (topology, tunnel, kind) = match Topology::CalicoIpip.lacking().unwrap() {
        None => (Topology::CalicoIpip, "tunl0", "ipip"),
        Some(_) => (Topology::RoutedVxlan, "vxlan.calico", "vxlan"),
    };
    let lab = lab(topology).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    talk(&lab);
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let (node, other) = (near(&lab), far(&lab));

    let way = path(&tracer, "httpbin", &[]);
    let by_service = path(&tracer, "svc/httpbin", &[]);

    // Calico's pods have a next hop that nobody has: the node's end of the pair answers for it.
    let evidence = evidence_of(&way["there"][0]);
    says(&evidence, &format!("{} via 169.254.1.1 dev eth0 src {}", httpbin.ipv4(), curl.ipv4()));
    says(&evidence, "169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee");
    says(
        &evidence,
        &format!("ee:ee:ee:ee:ee:ee is 257: {}@if256: the node's end of the pod's pair", curl.host_device()),
    );
    // Lab 2: at cali* of both nodes the packet itself.
    for (pod, node, direction) in [(&curl, &node, "ingress"), (&httpbin, &other, "egress")] {
        let (end, evidence) = step(&way, "there", pod.host_device(), direction);
        assert!(pod.host_device().starts_with("cali") && end["node"] == node.name(), "{end}");
        says(&evidence, "MAC ee:ee:ee:ee:ee:ee");
    }
    // Lab 1: then in the tunnel, whose outer addresses are the nodes', and on eth0 packed.
    let (packs, evidence) = step(&way, "there", tunnel, "egress");
    assert_eq!(packs["what"], format!("packs it for {}", other.ipv4()));
    says(&evidence, &format!("tunnel: {kind}"));
    says(&evidence, &format!("far end {}", other.ipv4()));
    let on_wire = |way: &Value, node: &Node, direction: &str| {
        let mut steps = way["there"].as_array().unwrap().iter();
        let is_it = |step: &&Value| {
            (&step["node"], &step["name"], &step["direction"], &step["pod"])
                == (&node.name().into(), &"eth0".into(), &direction.into(), &Value::Null)
        };
        steps.find(is_it).unwrap()["what"].as_str().unwrap().to_owned()
    };
    assert_eq!(on_wire(&way, &node, "egress"), "leaves the node, packed");
    assert_eq!(on_wire(&way, &other, "ingress"), "comes to the node, packed");
    assert_eq!(step(&way, "there", tunnel, "ingress").0["what"], "unpacks it");
    // Lab 3: the pod sends to the Service's address, its node to the endpoint's, and back the other way round.
    let service = lab.service("httpbin").cluster_ipv4;
    says(&evidence_of(&by_service["there"][0]), &format!("{service} via 169.254.1.1 dev eth0"));
    let (_, evidence) = step(&by_service, "there", tunnel, "egress");
    says(&evidence, "Service: nftables translates it");
    says(&evidence, &format!("route on the node: {} via", httpbin.ipv4()));
    let (_, evidence) = step(&by_service, "back", curl.host_device(), "egress");
    says(&evidence, "Service: as the answer to a connection that nftables has translated");
    for way in [&way, &by_service] {
        assert_eq!(rules(way), Vec::<String>::new(), "{:#}", way["findings"]);
    }
}
