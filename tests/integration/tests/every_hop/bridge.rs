//! flannel's shape: bridge `cni0`, `flannel.1`. The node routes between bridge and tunnel, and rewrites Services' addresses
//! before the bridge device (br_netfilter).

use tracer_integration::{ECHO_WEB_AND_DNS, Trajectory, Watch, Way, lab};
use tracer_lab::Topology;

use crate::{DNS, WEB, ask_web_service, assert_every_way};

/// What br_netfilter translates to another port of the bridge stays on the bridge. Only while it does not know the
/// neighbour, the packet goes out by the bridge device, which it has not come in by.
#[test]
fn every_hop_to_pods_and_services_is_told() {
    let lab = lab(Topology::BridgeVxlan).unwrap();
    let web = lab.pod("httpbin-local").serve_http(80).unwrap();
    let watch = Watch::start(&lab, "curl", "svc/httpbin-local").unwrap();
    ask_web_service(&lab, "httpbin-local");
    drop(web);
    let first = watch.stop().unwrap();

    first.assert_told_is_true();
    let is_syn = |told: &&Trajectory| told.tcp.as_ref().is_some_and(|tcp| tcp.flags == ["syn"]);
    let first_syn = first.trajectories.iter().find(is_syn).unwrap();
    let path_of_first = [
        "default/curl eth0 egress curl > svc/httpbin-local ttl 64",
        "telekom-xwkb3 vethc8217514 ingress curl > svc/httpbin-local ttl 64",
        "telekom-xwkb3 cni0 egress curl > httpbin-local ttl 64",
        "telekom-xwkb3 veth30df2c1f egress curl > httpbin-local ttl 64",
        "default/httpbin-local eth0 ingress curl > httpbin-local ttl 64",
    ];
    assert_eq!(first.path(first_syn), path_of_first);
    assert_every_way(
        &lab,
        &[
            Way {
                to: "httpbin",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl     eth0          egress   curl > httpbin  ttl 64",
                    "telekom-xwkb3    vethc8217514  ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    cni0          ingress  curl > httpbin  ttl 64",
                    "telekom-xwkb3    flannel.1     egress   curl > httpbin  ttl 63",
                    "telekom-xwkb3    eth0          egress   curl > httpbin  ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0          ingress  curl > httpbin  ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    flannel.1     ingress  curl > httpbin  ttl 63",
                    "telekom-xwkb8    cni0          egress   curl > httpbin  ttl 62",
                    "telekom-xwkb8    veth64782955  egress   curl > httpbin  ttl 62",
                    "default/httpbin  eth0          ingress  curl > httpbin  ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0          egress   httpbin > curl  ttl 64",
                    "telekom-xwkb8    veth64782955  ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    cni0          ingress  httpbin > curl  ttl 64",
                    "telekom-xwkb8    flannel.1     egress   httpbin > curl  ttl 63",
                    "telekom-xwkb8    eth0          egress   httpbin > curl  ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0          ingress  httpbin > curl  ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    flannel.1     ingress  httpbin > curl  ttl 63",
                    "telekom-xwkb3    cni0          egress   httpbin > curl  ttl 62",
                    "telekom-xwkb3    vethc8217514  egress   httpbin > curl  ttl 62",
                    "default/curl     eth0          ingress  httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "httpbin-local",
                kinds: ECHO_WEB_AND_DNS,
                there: &[
                    "default/curl           eth0          egress   curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          vethc8217514  ingress  curl > httpbin-local  ttl 64",
                    "telekom-xwkb3          veth30df2c1f  egress   curl > httpbin-local  ttl 64",
                    "default/httpbin-local  eth0          ingress  curl > httpbin-local  ttl 64",
                ],
                back: &[
                    "default/httpbin-local  eth0          egress   httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          veth30df2c1f  ingress  httpbin-local > curl  ttl 64",
                    "telekom-xwkb3          vethc8217514  egress   httpbin-local > curl  ttl 64",
                    "default/curl           eth0          ingress  httpbin-local > curl  ttl 64",
                ],
            },
            Way {
                to: "svc/httpbin",
                kinds: WEB,
                there: &[
                    "default/curl     eth0          egress   curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    vethc8217514  ingress  curl > svc/httpbin  ttl 64",
                    "telekom-xwkb3    cni0          ingress  curl > httpbin      ttl 64",
                    "telekom-xwkb3    flannel.1     egress   curl > httpbin      ttl 63",
                    "telekom-xwkb3    eth0          egress   curl > httpbin      ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    eth0          ingress  curl > httpbin      ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8    flannel.1     ingress  curl > httpbin      ttl 63",
                    "telekom-xwkb8    cni0          egress   curl > httpbin      ttl 62",
                    "telekom-xwkb8    veth64782955  egress   curl > httpbin      ttl 62",
                    "default/httpbin  eth0          ingress  curl > httpbin      ttl 62",
                ],
                back: &[
                    "default/httpbin  eth0          egress   httpbin > curl      ttl 64",
                    "telekom-xwkb8    veth64782955  ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    cni0          ingress  httpbin > curl      ttl 64",
                    "telekom-xwkb8    flannel.1     egress   httpbin > curl      ttl 63",
                    "telekom-xwkb8    eth0          egress   httpbin > curl      ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    eth0          ingress  httpbin > curl      ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3    flannel.1     ingress  httpbin > curl      ttl 63",
                    "telekom-xwkb3    cni0          egress   svc/httpbin > curl  ttl 62",
                    "telekom-xwkb3    vethc8217514  egress   svc/httpbin > curl  ttl 62",
                    "default/curl     eth0          ingress  svc/httpbin > curl  ttl 62",
                ],
            },
            Way {
                to: "svc/httpbin-local",
                kinds: WEB,
                there: &[
                    "default/curl           eth0          egress   curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          vethc8217514  ingress  curl > svc/httpbin-local  ttl 64",
                    "telekom-xwkb3          veth30df2c1f  egress   curl > httpbin-local      ttl 64",
                    "default/httpbin-local  eth0          ingress  curl > httpbin-local      ttl 64",
                ],
                back: &[
                    "default/httpbin-local  eth0          egress   httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          veth30df2c1f  ingress  httpbin-local > curl      ttl 64",
                    "telekom-xwkb3          vethc8217514  egress   svc/httpbin-local > curl  ttl 64",
                    "default/curl           eth0          ingress  svc/httpbin-local > curl  ttl 64",
                ],
            },
            Way {
                to: "svc/kube-dns",
                kinds: DNS,
                there: &[
                    "default/curl         eth0          egress   curl > svc/kube-dns  ttl 64",
                    "telekom-xwkb3        vethc8217514  ingress  curl > svc/kube-dns  ttl 64",
                    "telekom-xwkb3        cni0          ingress  curl > coredns       ttl 64",
                    "telekom-xwkb3        flannel.1     egress   curl > coredns       ttl 63",
                    "telekom-xwkb3        eth0          egress   curl > coredns       ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8        eth0          ingress  curl > coredns       ttl 63  vxlan 1 telekom-xwkb3 > telekom-xwkb8",
                    "telekom-xwkb8        flannel.1     ingress  curl > coredns       ttl 63",
                    "telekom-xwkb8        cni0          egress   curl > coredns       ttl 62",
                    "telekom-xwkb8        veth24835d8c  egress   curl > coredns       ttl 62",
                    "kube-system/coredns  eth0          ingress  curl > coredns       ttl 62",
                ],
                back: &[
                    "kube-system/coredns  eth0          egress   coredns > curl       ttl 64",
                    "telekom-xwkb8        veth24835d8c  ingress  coredns > curl       ttl 64",
                    "telekom-xwkb8        cni0          ingress  coredns > curl       ttl 64",
                    "telekom-xwkb8        flannel.1     egress   coredns > curl       ttl 63",
                    "telekom-xwkb8        eth0          egress   coredns > curl       ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3        eth0          ingress  coredns > curl       ttl 63  vxlan 1 telekom-xwkb8 > telekom-xwkb3",
                    "telekom-xwkb3        flannel.1     ingress  coredns > curl       ttl 63",
                    "telekom-xwkb3        cni0          egress   svc/kube-dns > curl  ttl 62",
                    "telekom-xwkb3        vethc8217514  egress   svc/kube-dns > curl  ttl 62",
                    "default/curl         eth0          ingress  svc/kube-dns > curl  ttl 62",
                ],
            },
        ],
    );
}
