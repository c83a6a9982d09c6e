//! Calico's IPIP: `tunl0`, whose packets have no Ethernet header, carries IPv4; IPv6 goes bare from node to node.

use tracer_integration::{ECHO_WEB_AND_DNS, Way, lab};
use tracer_lab::Topology;

use crate::{WEB, assert_every_way, can_build};

#[test]
fn every_hop_to_pods_and_services_is_told() {
    if !can_build(Topology::CalicoIpip, "ipip local 10.0.0.1 remote 10.0.0.2") {
        return;
    }
    assert_every_way(
        &lab(Topology::CalicoIpip).unwrap(),
        &[
            Way {
                to: "httpbin",
                kinds: &["icmp IPv4", "tcp IPv4", "udp IPv4"],
                there: &[
                    "default/curl     eth0             egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    tunl0            egress   curl > httpbin  ttl 63",
                    "telekom-xwkb3    eth0             egress   curl > httpbin  ttl 63  ipip telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin  ttl 63  ipip telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    tunl0            ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    tunl0            egress   httpbin > curl  ttl 63",
                    "telekom-xwkb8    eth0             egress   httpbin > curl  ttl 63  ipip telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl  ttl 63  ipip telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    tunl0            ingress  httpbin > curl  ttl 63",
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
                    "telekom-xwkb3    eth0             egress   curl > httpbin  ttl 63",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    eth0             egress   httpbin > curl  ttl 63",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl  ttl 63",
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
                    "telekom-xwkb3    tunl0            egress   curl > httpbin      ttl 63",
                    "telekom-xwkb3    eth0             egress   curl > httpbin      ttl 63  ipip telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin      ttl 63  ipip telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    tunl0            ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    tunl0            egress   httpbin > curl      ttl 63",
                    "telekom-xwkb8    eth0             egress   httpbin > curl      ttl 63  ipip telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl      ttl 63  ipip telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    tunl0            ingress  httpbin > curl      ttl 63",
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
                    "telekom-xwkb3    eth0             egress   curl > httpbin      ttl 63",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    eth0             egress   httpbin > curl      ttl 63",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl      ttl 63",
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
}
