//! Calico's shape: routed veth pairs and `vxlan.calico`; each node on the way takes one from the TTL.

use tracer_integration::{ECHO_WEB_AND_DNS, Way, lab};
use tracer_lab::Topology;

use crate::{DNS, WEB, assert_every_way};

#[test]
fn every_hop_to_pods_and_services_is_told() {
    assert_every_way(
        &lab(Topology::RoutedVxlan).unwrap(),
        &[
            Way {
                to: "httpbin",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl     eth0             egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    vxlan.calico     egress   curl > httpbin  ttl 63",
                    "telekom-xwkb3    eth0             egress   curl > httpbin  ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin  ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    vxlan.calico     ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    vxlan.calico     egress   httpbin > curl  ttl 63",
                    "telekom-xwkb8    eth0             egress   httpbin > curl  ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl  ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    vxlan.calico     ingress  httpbin > curl  ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  httpbin > curl  ttl 62",
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
                to: "svc/httpbin",
                kinds: WEB,
                there: &[
                    "default/curl     eth0             egress   curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    cali2fec8217514  ingress  curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    vxlan.calico     egress   curl > httpbin      ttl 63",
                    "telekom-xwkb3    eth0             egress   curl > httpbin      ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0             ingress  curl > httpbin      ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    vxlan.calico     ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    vxlan.calico     egress   httpbin > curl      ttl 63",
                    "telekom-xwkb8    eth0             egress   httpbin > curl      ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0             ingress  httpbin > curl      ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    vxlan.calico     ingress  httpbin > curl      ttl 63",
                    "telekom-xwkb3    cali2fec8217514  egress   svc/httpbin > curl  ttl 62",
                    "default/curl     eth0             ingress  svc/httpbin > curl  ttl 62",
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
            Way {
                to: "svc/kube-dns",
                kinds: DNS,
                there: &[
                    "default/curl         eth0             egress   curl > svc/kube-dns  ttl 64",
                    "telekom-xwkb3        cali2fec8217514  ingress  curl > svc/kube-dns  ttl 64",
                    "telekom-xwkb3        vxlan.calico     egress   curl > coredns       ttl 63",
                    "telekom-xwkb3        eth0             egress   curl > coredns       ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8        eth0             ingress  curl > coredns       ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8        vxlan.calico     ingress  curl > coredns       ttl 63",
                    "telekom-xwkb8        cali2b624835d8c  egress   curl > coredns       ttl 62",
                    "kube-system/coredns  eth0             ingress  curl > coredns       ttl 62",
                ],
                back: &[
                    "kube-system/coredns  eth0             egress   coredns > curl       ttl 64",
                    "telekom-xwkb8        cali2b624835d8c  ingress  coredns > curl       ttl 64",
                    "telekom-xwkb8        vxlan.calico     egress   coredns > curl       ttl 63",
                    "telekom-xwkb8        eth0             egress   coredns > curl       ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3        eth0             ingress  coredns > curl       ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3        vxlan.calico     ingress  coredns > curl       ttl 63",
                    "telekom-xwkb3        cali2fec8217514  egress   svc/kube-dns > curl  ttl 62",
                    "default/curl         eth0             ingress  svc/kube-dns > curl  ttl 62",
                ],
            },
        ],
    );
}
