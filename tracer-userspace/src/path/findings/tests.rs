//! Rules that a lab cannot break: the rest is proven in `tests/integration/tests/path`.

use super::*;
use crate::host::tunnels::Tunnel;
use crate::node::site::Names;
use crate::path::facts::TunnelHop;

const NODES: &str = "
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-2}, status: {addresses: [{type: InternalIP, address: 10.135.0.12}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-3}, status: {addresses: [{type: InternalIP, address: 10.135.0.13}]}}
";

fn end(ip: &str, pod: &str, node: &str) -> End {
    End { ip: ip.parse().unwrap(), pod: Some(pod.to_owned()), node: Some(node.to_owned()) }
}

/// What is said of a way from node-1 to node-2 whose first half is this.
fn rules(near: Half) -> Vec<&'static str> {
    let list = format!("apiVersion: v1\nkind: List\nitems:{NODES}");
    let names = Names::none();
    names.add(&list, 0).unwrap();
    let (from, to) =
        (end("10.244.0.153", "default/curl", "node-1"), end("10.244.1.246", "default/httpbin", "node-2"));
    let path = Path::of(from, to, None, Some(near), None, Vec::new());
    names.with(|inventory| findings(&path, inventory)).iter().map(|finding| finding.rule).collect()
}

fn through_tunnel(remote: Option<&str>) -> Half {
    let device = Device {
        name: "flannel.1".to_owned(),
        kind: "vxlan".to_owned(),
        up: true,
        tunnel: Some(Tunnel::default()),
        ..Device::default()
    };
    let mut half = Half { node: "node-1".to_owned(), ..Half::default() };
    half.outgoing.tunnel = Some(TunnelHop {
        device,
        remote: remote.map(|remote| remote.parse().unwrap()),
        told_by: "bridge fdb".to_owned(),
        identifier: Some(1),
        route: None,
        nic: None,
        next_hop: None,
    });
    half
}

#[test]
fn a_tunnel_ends_at_the_node_that_the_pod_is_on() {
    assert_eq!(rules(through_tunnel(Some("10.135.0.12"))), Vec::<&str>::new());
    assert_eq!(rules(through_tunnel(Some("10.135.0.13"))), ["tunnel-end-wrong"]);
    assert_eq!(rules(through_tunnel(Some("10.135.0.99"))), ["tunnel-end-no-node"]);
    assert_eq!(rules(through_tunnel(None)), ["tunnel-end-unknown"]);
}

#[test]
fn connection_tracking_is_full_from_nine_tenths_on() {
    let with = |count| {
        let mut half = Half { node: "node-1".to_owned(), ..Half::default() };
        half.settings.conntrack = Some((count, 262_144));
        rules(half)
    };
    assert_eq!(with(235_000), Vec::<&str>::new());
    assert_eq!(with(236_000), ["conntrack-full"]);
}
