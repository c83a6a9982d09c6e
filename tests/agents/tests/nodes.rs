//! Addresses that are a node's: of pods in its network, and of what is masqueraded to it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;
use tracer_agents::{Installed, SOON};
use tracer_integration::{Trajectory, run_to_its_end};

fn delivered<'a>(told: &'a [Trajectory], from: &str) -> impl Iterator<Item = &'a Trajectory> {
    let from = from.to_owned();
    told.iter().filter(move |told| {
        told.protocol == "icmp" && told.is_complete() && told.src.name().as_deref() == Some(&from)
    })
}

#[test]
fn a_pod_in_its_nodes_network_can_be_the_other_end_and_cannot_be_followed() {
    let installed = Installed::new().unwrap();
    let curl = installed.lab.pod("curl");
    let node = installed.lab.nodes().iter().find(|node| node.name() != installed.lab.node_of(&curl).name());
    let node = node.unwrap();
    let address = node.ipv4().to_string();
    installed
        .cluster
        .api
        .put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "exporter", "namespace": "default", "uid": "of-the-exporter" },
            "spec": { "nodeName": node.name(), "hostNetwork": true, "containers": [{ "name": "it", "image": "it" }] },
            "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
        }))
        .unwrap();
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "exporter"]).unwrap();

    assert_eq!(curl.ping(node.ipv4().into(), 3).unwrap().received, 3);

    let told =
        follow.eventually(SOON, "packets to the node", |told| delivered(told, "default/curl").count() >= 3);
    for told in delivered(&told, "default/curl") {
        // Whether it was the pod or the node itself that had it, an address does not tell.
        assert_eq!((told.dst.node.as_deref(), told.dst.name()), (Some(node.name()), None), "{told}");
        assert_eq!(told.hops.last().unwrap().node, node.name(), "{told}");
    }
    assert!(follow.stop().unwrap().exit.success());

    let mut refused = installed.command("ann", "follow", &["--pod", "exporter"]).unwrap();
    let output = run_to_its_end(&mut refused).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("exporter") && stderr.contains("network"), "{stderr}");
    assert_eq!(installed.names("packettraces.tracer.dev"), []);
}

#[test]
fn packets_that_are_masqueraded_to_the_nodes_address_are_followed_on_under_it() {
    let installed = Installed::new().unwrap();
    let curl = installed.lab.pod("curl");
    let own = installed.lab.node_of(&curl);
    let other = installed.lab.nodes().iter().find(|node| node.name() != own.name()).unwrap();
    // As CNI plugins do for what leaves the cluster's networks.
    let rules = format!(
        "table ip cni {{ chain postrouting {{ type nat hook postrouting priority srcnat; \
         ip saddr {} ip daddr {} masquerade; }}; }}",
        curl.ipv4(),
        other.ipv4()
    );
    let mut nft = own.netns().command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    let follow =
        installed.follow("ann", &["--pod", "curl", "--to", &format!("node/{}", other.name())]).unwrap();

    assert_eq!(curl.ping(other.ipv4().into(), 3).unwrap().received, 3);

    let told =
        follow.eventually(SOON, "packets to the node", |told| delivered(told, "default/curl").count() >= 3);
    for told in delivered(&told, "default/curl") {
        let sources: Vec<_> = told.hops.iter().map(|hop| hop.src.ip).collect();
        assert_eq!(sources.first(), Some(&curl.ipv4().into()), "{told}");
        assert_eq!(sources.last(), Some(&own.ipv4().into()), "{told}");
        assert_eq!(told.hops.last().unwrap().node, other.name(), "{told}");
    }
    assert!(follow.stop().unwrap().exit.success());
}
