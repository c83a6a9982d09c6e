//! Calico's WireGuard: what the NICs show is UDP between the nodes. The packet is one all the same, and both NICs say
//! why they do not show it.

use std::collections::BTreeSet;

use tracer_integration::{ECHO_WEB_AND_DNS, Seen, Way, lab};
use tracer_lab::Topology;

use crate::{WEB, assert_every_way, can_build};

/// IP's numbers for them.
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

#[test]
fn every_hop_to_pods_and_services_is_told() {
    if !can_build(Topology::CalicoWireguard, "wireguard") {
        return;
    }
    let lab = lab(Topology::CalicoWireguard).unwrap();
    let [remote, _] = assert_every_way(
        &lab,
        &[
            Way {
                to: "httpbin",
                kinds: &["icmp IPv4", "tcp IPv4", "udp IPv4"],
                there: &[
                    "default/curl     eth0             egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    wireguard.cali   egress   curl > httpbin  ttl 63",
                    "(eth0 egress on telekom-xwkb3)",
                    "(eth0 ingress on telekom-xwkb8)",
                    "telekom-xwkb8    wireguard.cali   ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    wireguard.cali   egress   httpbin > curl  ttl 63",
                    "(eth0 egress on telekom-xwkb8)",
                    "(eth0 ingress on telekom-xwkb3)",
                    "telekom-xwkb3    wireguard.cali   ingress  httpbin > curl  ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "httpbin",
                kinds: &["icmpv6 IPv6", "tcp IPv6", "udp IPv6"],
                there: &[
                    "default/curl     eth0             egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    wg-v6.cali       egress   curl > httpbin  ttl 63",
                    "(eth0 egress on telekom-xwkb3)",
                    "(eth0 ingress on telekom-xwkb8)",
                    "telekom-xwkb8    wg-v6.cali       ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    wg-v6.cali       egress   httpbin > curl  ttl 63",
                    "(eth0 egress on telekom-xwkb8)",
                    "(eth0 ingress on telekom-xwkb3)",
                    "telekom-xwkb3    wg-v6.cali       ingress  httpbin > curl  ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "svc/httpbin",
                kinds: &["tcp IPv4"],
                there: &[
                    "default/curl     eth0             egress   curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    wireguard.cali   egress   curl > httpbin      ttl 63",
                    "(eth0 egress on telekom-xwkb3)",
                    "(eth0 ingress on telekom-xwkb8)",
                    "telekom-xwkb8    wireguard.cali   ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    wireguard.cali   egress   httpbin > curl      ttl 63",
                    "(eth0 egress on telekom-xwkb8)",
                    "(eth0 ingress on telekom-xwkb3)",
                    "telekom-xwkb3    wireguard.cali   ingress  httpbin > curl      ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   svc/httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  svc/httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "svc/httpbin",
                kinds: &["tcp IPv6"],
                there: &[
                    "default/curl     eth0             egress   curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    wg-v6.cali       egress   curl > httpbin      ttl 63",
                    "(eth0 egress on telekom-xwkb3)",
                    "(eth0 ingress on telekom-xwkb8)",
                    "telekom-xwkb8    wg-v6.cali       ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    wg-v6.cali       egress   httpbin > curl      ttl 63",
                    "(eth0 egress on telekom-xwkb8)",
                    "(eth0 ingress on telekom-xwkb3)",
                    "telekom-xwkb3    wg-v6.cali       ingress  httpbin > curl      ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   svc/httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  svc/httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "httpbin-local",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl           eth0             egress   curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          cali2fec8217514  ingress  curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          cali0c030df2c1f  egress   curl > httpbin-local  ttl 63",
                    "default/httpbin-local  eth0             ingress  curl > httpbin-local  ttl 63",
                ],
                back: &[
                    "default/httpbin-local  eth0             egress   httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          cali0c030df2c1f  ingress  httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          cali2fec8217514  egress   httpbin-local > curl  ttl 63",
                    "default/curl           eth0             ingress  httpbin-local > curl  ttl 63",
                ],
            },
            Way {
                to: "svc/httpbin-local",
                kinds: WEB,
                there: &[
                    "default/curl           eth0             egress   curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          cali2fec8217514  ingress  curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          cali0c030df2c1f  egress   curl > httpbin-local      ttl 63",
                    "default/httpbin-local  eth0             ingress  curl > httpbin-local      ttl 63",
                ],
                back: &[
                    "default/httpbin-local  eth0             egress   httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          cali0c030df2c1f  ingress  httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          cali2fec8217514  egress   svc/httpbin-local > curl  ttl 63",
                    "default/curl           eth0             ingress  svc/httpbin-local > curl  ttl 63",
                ],
            },
        ],
    );

    let at_nic = |seen: &&Seen| seen.device == "eth0" && seen.place.starts_with("telekom");
    assert_eq!(remote.captured.iter().filter(at_nic).count(), 0, "the wire shows a packet");
    // The nodes' neighbour discovery is nobody's packet.
    let on_the_wire = remote.opaque.iter().filter(|seen| seen.protocol != ICMPV6);
    let ports: BTreeSet<_> = on_the_wire.map(|seen| (seen.protocol, seen.dst.port)).collect();
    assert_eq!(ports, [(UDP, Some(51820)), (UDP, Some(51821))].into(), "what the wire shows");
    let missing = remote.trajectories.iter().flat_map(|told| &told.missing);
    let missing = missing.map(|hop| (hop.point.clone(), hop.reason.clone(), hop.explained));
    let why = |device: &str, from: &str, to: &str| {
        let reason = |place, verb| {
            format!(
                "encrypted, not visible: {device} on {place} (WireGuard) {verb} it as UDP from {from} to {to}"
            )
        };
        [
            (format!("eth0 egress on {from}"), reason(from, "sends"), true),
            (format!("eth0 ingress on {to}"), reason(to, "gets"), true),
        ]
    };
    let (a, b) = ("telekom-xwkb3", "telekom-xwkb8");
    let expected =
        ["wireguard.cali", "wg-v6.cali"].map(|device| [why(device, a, b), why(device, b, a)].concat());
    assert_eq!(missing.collect::<BTreeSet<_>>(), expected.concat().into_iter().collect());
}
