//! Calico's shape: routed veth pairs and `vxlan.calico`; each node on the way takes one from the TTL.

use tracer_lab::Topology;

use crate::{assert_kube_dns_is_reached, assert_pod_is_reached, assert_web_service_is_reached};

const TOPOLOGY: Topology = Topology::RoutedVxlan;

#[test]
fn every_hop_to_a_pod_on_another_node_is_told() {
    assert_pod_is_reached(
        TOPOLOGY,
        "httpbin",
        &[
            "default/curl     eth0             egress   curl > httpbin  ttl 64",
            "telekom-xwkb3    cali2fec8217514  ingress  curl > httpbin  ttl 64",
            "telekom-xwkb3    vxlan.calico     egress   curl > httpbin  ttl 63",
            "telekom-xwkb3    eth0             egress   curl > httpbin  ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8    eth0             ingress  curl > httpbin  ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8    vxlan.calico     ingress  curl > httpbin  ttl 63",
            "telekom-xwkb8    calib5e64782955  egress   curl > httpbin  ttl 62",
            "default/httpbin  eth0             ingress  curl > httpbin  ttl 62",
        ],
        &[
            "default/httpbin  eth0             egress   httpbin > curl  ttl 64",
            "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl  ttl 64",
            "telekom-xwkb8    vxlan.calico     egress   httpbin > curl  ttl 63",
            "telekom-xwkb8    eth0             egress   httpbin > curl  ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3    eth0             ingress  httpbin > curl  ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3    vxlan.calico     ingress  httpbin > curl  ttl 63",
            "telekom-xwkb3    cali2fec8217514  egress   httpbin > curl  ttl 62",
            "default/curl     eth0             ingress  httpbin > curl  ttl 62",
        ],
    );
}

#[test]
fn every_hop_to_a_pod_on_the_same_node_is_told() {
    assert_pod_is_reached(
        TOPOLOGY,
        "httpbin-local",
        &[
            "default/curl           eth0             egress   curl > httpbin-local  ttl 64",
            "telekom-xwkb3          cali2fec8217514  ingress  curl > httpbin-local  ttl 64",
            "telekom-xwkb3          cali0c030df2c1f  egress   curl > httpbin-local  ttl 63",
            "default/httpbin-local  eth0             ingress  curl > httpbin-local  ttl 63",
        ],
        &[
            "default/httpbin-local  eth0             egress   httpbin-local > curl  ttl 64",
            "telekom-xwkb3          cali0c030df2c1f  ingress  httpbin-local > curl  ttl 64",
            "telekom-xwkb3          cali2fec8217514  egress   httpbin-local > curl  ttl 63",
            "default/curl           eth0             ingress  httpbin-local > curl  ttl 63",
        ],
    );
}

#[test]
fn every_hop_to_a_service_on_another_node_is_told() {
    assert_web_service_is_reached(
        TOPOLOGY,
        "httpbin",
        &[
            "default/curl     eth0             egress   curl > svc/httpbin  ttl 64",
            "telekom-xwkb3    cali2fec8217514  ingress  curl > svc/httpbin  ttl 64",
            "telekom-xwkb3    vxlan.calico     egress   curl > httpbin      ttl 63",
            "telekom-xwkb3    eth0             egress   curl > httpbin      ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8    eth0             ingress  curl > httpbin      ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8    vxlan.calico     ingress  curl > httpbin      ttl 63",
            "telekom-xwkb8    calib5e64782955  egress   curl > httpbin      ttl 62",
            "default/httpbin  eth0             ingress  curl > httpbin      ttl 62",
        ],
        &[
            "default/httpbin  eth0             egress   httpbin > curl      ttl 64",
            "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl      ttl 64",
            "telekom-xwkb8    vxlan.calico     egress   httpbin > curl      ttl 63",
            "telekom-xwkb8    eth0             egress   httpbin > curl      ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3    eth0             ingress  httpbin > curl      ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3    vxlan.calico     ingress  httpbin > curl      ttl 63",
            "telekom-xwkb3    cali2fec8217514  egress   svc/httpbin > curl  ttl 62",
            "default/curl     eth0             ingress  svc/httpbin > curl  ttl 62",
        ],
    );
}

#[test]
fn every_hop_to_a_service_on_the_same_node_is_told() {
    assert_web_service_is_reached(
        TOPOLOGY,
        "httpbin-local",
        &[
            "default/curl           eth0             egress   curl > svc/httpbin-local  ttl 64",
            "telekom-xwkb3          cali2fec8217514  ingress  curl > svc/httpbin-local  ttl 64",
            "telekom-xwkb3          cali0c030df2c1f  egress   curl > httpbin-local      ttl 63",
            "default/httpbin-local  eth0             ingress  curl > httpbin-local      ttl 63",
        ],
        &[
            "default/httpbin-local  eth0             egress   httpbin-local > curl      ttl 64",
            "telekom-xwkb3          cali0c030df2c1f  ingress  httpbin-local > curl      ttl 64",
            "telekom-xwkb3          cali2fec8217514  egress   svc/httpbin-local > curl  ttl 63",
            "default/curl           eth0             ingress  svc/httpbin-local > curl  ttl 63",
        ],
    );
}

#[test]
fn every_hop_to_kube_dns_is_told() {
    assert_kube_dns_is_reached(
        TOPOLOGY,
        &[
            "default/curl         eth0             egress   curl > svc/kube-dns  ttl 64",
            "telekom-xwkb3        cali2fec8217514  ingress  curl > svc/kube-dns  ttl 64",
            "telekom-xwkb3        vxlan.calico     egress   curl > coredns       ttl 63",
            "telekom-xwkb3        eth0             egress   curl > coredns       ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8        eth0             ingress  curl > coredns       ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
            "telekom-xwkb8        vxlan.calico     ingress  curl > coredns       ttl 63",
            "telekom-xwkb8        cali2b624835d8c  egress   curl > coredns       ttl 62",
            "kube-system/coredns  eth0             ingress  curl > coredns       ttl 62",
        ],
        &[
            "kube-system/coredns  eth0             egress   coredns > curl       ttl 64",
            "telekom-xwkb8        cali2b624835d8c  ingress  coredns > curl       ttl 64",
            "telekom-xwkb8        vxlan.calico     egress   coredns > curl       ttl 63",
            "telekom-xwkb8        eth0             egress   coredns > curl       ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3        eth0             ingress  coredns > curl       ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
            "telekom-xwkb3        vxlan.calico     ingress  coredns > curl       ttl 63",
            "telekom-xwkb3        cali2fec8217514  egress   svc/kube-dns > curl  ttl 62",
            "default/curl         eth0             ingress  svc/kube-dns > curl  ttl 62",
        ],
    );
}
