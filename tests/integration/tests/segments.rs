//! Packets that are cut, merged or sent in pieces: a packet that its sender sent is one trajectory.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;

use tracer_integration::{Hop, Verdict, Watch, lab};
use tracer_lab::{Flood, Topology};

/// Bytes that the overlay's MTU lets through.
const LARGEST_FRAGMENT: u64 = 1450;

/// Many times the largest packet that the stack makes, so that all of it is used.
const BULK: usize = 300_000;

#[test]
fn a_packet_that_the_wire_cuts_is_one_trajectory_with_all_its_bytes() {
    Topology::EVERYWHERE.into_iter().for_each(assert_cut_packets_are_one);
}

#[test]
fn a_packet_that_is_cut_in_ipip_geneve_wireguard_or_behind_netkit_is_one_trajectory_with_all_its_bytes() {
    // What this kernel cannot do is asserted in every_hop.
    let can_build = |topology: &Topology| topology.lacking().unwrap().is_none();
    let others = Topology::ALL.into_iter().filter(|topology| !Topology::EVERYWHERE.contains(topology));
    others.filter(can_build).for_each(assert_cut_packets_are_one);
}

#[track_caller]
fn assert_cut_packets_are_one(topology: Topology) {
    let lab = lab(topology).unwrap();
    let (curl, server) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = server.serve_http(80).unwrap();
    let watch = Watch::start(&lab, "curl", "httpbin").unwrap();

    for ip in server.ips() {
        let answer = curl.curl(&format!("http://{}/bytes/{BULK}", SocketAddr::new(ip, 80))).unwrap();
        assert_eq!(answer.body.len(), BULK);
    }
    drop(web);

    let watched = watch.stop().unwrap();
    watched.assert_every_byte_is_told();
    // The NICs, or where these show nothing, the tunnel device behind them.
    let is_cut = |hop: &Hop| ["nic", "tunnel"].contains(&&*hop.role) && hop.segments > 1;
    let cut = watched.trajectories.iter().filter(|told| told.hops.iter().any(is_cut)).count();
    // How many is the kernel's affair: a slow receiver makes the sender send little at a time. Behind WireGuard's device,
    // where the cut is, nobody can look: there one shows only if the receiver has not merged it.
    assert!(
        cut > 0 || topology == Topology::CalicoWireguard,
        "{topology}: none of {} packets was cut",
        watched.trajectories.len()
    );
}

#[test]
fn every_fragment_of_a_datagram_is_followed_as_itself() {
    for topology in Topology::EVERYWHERE {
        let lab = lab(topology).unwrap();
        let (curl, server) = (lab.pod("curl"), lab.pod("httpbin"));
        let _sink = server.udp_sink(9000).unwrap();
        let watch = Watch::start(&lab, "curl", "httpbin").unwrap();

        // Three fragments each; the overlay's MTU is 1450.
        let flood = Flood { packets: 4, payload: 4000, rate: Some(1000) };
        assert_eq!(curl.udp_flood(SocketAddr::new(server.ipv4().into(), 9000), flood).unwrap(), 4);

        let watched = watch.stop().unwrap();
        let fragments: Vec<_> =
            watched.trajectories.iter().filter(|told| told.payload_length < LARGEST_FRAGMENT).collect();
        assert_eq!(fragments.len(), 3 * 4, "{topology}");
        assert!(fragments.iter().all(|told| told.verdict == Verdict::Delivered), "{topology}");
        if topology == Topology::BridgeVxlan {
            // Conntrack on a bridge puts fragments together for the bridge device: the datagram is a hop of each.
            for told in &fragments {
                assert!(told.is_complete(), "{told}");
                assert_eq!(told.hops.iter().filter(|hop| hop.role == "bridge").count(), 2, "{told}");
            }
            assert_eq!(watched.trajectories.len(), fragments.len());
        } else {
            watched.assert_told_is_true();
        }
    }
}
