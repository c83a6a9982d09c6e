//! Cilium with netkit pairs: the program that takes packets from a pod is the pair's own.

use tracer_integration::{ECHO_WEB_AND_DNS, Way, lab};
use tracer_lab::Topology;

use crate::{WEB, assert_every_way, can_build};

#[test]
fn every_hop_to_pods_and_services_is_told() {
    if !can_build(Topology::CiliumNetkit, "netkit") {
        return;
    }
    let lab = lab(Topology::CiliumNetkit).unwrap();
    // Otherwise we stay out of the pairs: tests/netkit.rs.
    lab.let_netkit_pass().unwrap();
    assert_every_way(
        &lab,
        &[
            Way {
                to: "httpbin",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl     eth0             egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    lxced3096cb2cb1  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    cilium_vxlan     egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    eth0             egress   curl > httpbin  ttl 64  vxlan 2735 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin  ttl 64  vxlan 2735 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    cilium_vxlan     ingress  curl > httpbin  ttl 64",
                    "(lxc0f9f206e5d0b egress on telekom-xwkb8)",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 63",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    lxc0f9f206e5d0b  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    cilium_vxlan     egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    eth0             egress   httpbin > curl  ttl 64  vxlan 2735 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl  ttl 64  vxlan 2735 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    cilium_vxlan     ingress  httpbin > curl  ttl 64",
                    "(lxced3096cb2cb1 egress on telekom-xwkb3)",
                    "default/curl     eth0             ingress  httpbin > curl  ttl 63",
                ],
            },
            Way {
                to: "httpbin-local",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl           eth0             egress   curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          lxced3096cb2cb1  ingress  curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          lxc5b7d0e42a91c  egress   curl > httpbin-local  ttl 63",
                    "default/httpbin-local  eth0             ingress  curl > httpbin-local  ttl 63",
                ],
                back: &[
                    "default/httpbin-local  eth0             egress   httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          lxc5b7d0e42a91c  ingress  httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          lxced3096cb2cb1  egress   httpbin-local > curl  ttl 63",
                    "default/curl           eth0             ingress  httpbin-local > curl  ttl 63",
                ],
            },
            Way {
                to: "svc/httpbin",
                kinds: WEB,
                there: &[
                    "default/curl     eth0             egress   curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    lxced3096cb2cb1  ingress  curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    cilium_host      egress   curl > httpbin      ttl 63",
                    "telekom-xwkb3    cilium_vxlan     egress   curl > httpbin      ttl 63",
                    "telekom-xwkb3    eth0             egress   curl > httpbin      ttl 63  vxlan 2735 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin      ttl 63  vxlan 2735 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    cilium_vxlan     ingress  curl > httpbin      ttl 63",
                    "(lxc0f9f206e5d0b egress on telekom-xwkb8)",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    lxc0f9f206e5d0b  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    cilium_vxlan     egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    eth0             egress   httpbin > curl      ttl 64  vxlan 2735 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl      ttl 64  vxlan 2735 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    cilium_vxlan     ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb3    cilium_host      egress   svc/httpbin > curl  ttl 63",
                    "telekom-xwkb3    lxced3096cb2cb1  egress   svc/httpbin > curl  ttl 63",
                    "default/curl     eth0             ingress  svc/httpbin > curl  ttl 63",
                ],
            },
            Way {
                to: "svc/httpbin-local",
                kinds: WEB,
                there: &[
                    "default/curl           eth0             egress   curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          lxced3096cb2cb1  ingress  curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          cilium_host      egress   curl > httpbin-local      ttl 63",
                    "telekom-xwkb3          lxc5b7d0e42a91c  egress   curl > httpbin-local      ttl 63",
                    "default/httpbin-local  eth0             ingress  curl > httpbin-local      ttl 63",
                ],
                back: &[
                    "default/httpbin-local  eth0             egress   httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          lxc5b7d0e42a91c  ingress  httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          cilium_host      egress   svc/httpbin-local > curl  ttl 63",
                    "telekom-xwkb3          lxced3096cb2cb1  egress   svc/httpbin-local > curl  ttl 63",
                    "default/curl           eth0             ingress  svc/httpbin-local > curl  ttl 63",
                ],
            },
        ],
    );
}
