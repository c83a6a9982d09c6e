use std::net::IpAddr;
use std::path::Path;

use super::{EndKind, Followed, Request, SelectError, Selection, Translated, select};
use crate::inventory::{Inventory, file};

/// Two nodes; `curl` and `httpbin` in "default", more in "shop", `twin` in both.
const CLUSTER: &str = "\
kind: List
apiVersion: v1
items:
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}}
- {apiVersion: v1, kind: Node, metadata: {name: node-2}, status: {addresses: [{type: InternalIP, address: 10.135.0.12}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: default, uid: u1}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIPs: [{ip: 10.244.0.153}, {ip: 'fd00::153'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: httpbin, namespace: default, uid: u2}, spec: {nodeName: node-2, containers: []},
   status: {phase: Running, podIPs: [{ip: 10.244.1.246}, {ip: 'fd00::246'}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: twin, namespace: default, uid: u3}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.3}}
- {apiVersion: v1, kind: Pod, metadata: {name: twin, namespace: shop, uid: u4}, spec: {nodeName: node-2, containers: []},
   status: {phase: Running, podIP: 10.244.1.4}}
- {apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, uid: u5}, spec: {nodeName: node-2, containers: []},
   status: {phase: Running, podIP: 10.244.1.5}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-5d4-aaaaa, namespace: shop, uid: w1, labels: {app: web, pod-template-hash: 5d4},
   ownerReferences: [{kind: ReplicaSet, name: web-5d4}]}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.21}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-5d4-bbbbb, namespace: shop, uid: w2, labels: {app: web, pod-template-hash: 5d4},
   ownerReferences: [{kind: ReplicaSet, name: web-5d4}]}, spec: {nodeName: node-2, containers: []},
   status: {phase: Running, podIP: 10.244.1.22}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-5d4-ccccc, namespace: shop, uid: w3, labels: {app: web, pod-template-hash: 5d4},
   ownerReferences: [{kind: ReplicaSet, name: web-5d4}]}, spec: {containers: []}, status: {phase: Pending}}
- {apiVersion: v1, kind: Pod, metadata: {name: late-0, namespace: shop, uid: w4, labels: {app: late},
   ownerReferences: [{kind: StatefulSet, name: late}]}, spec: {containers: []}, status: {phase: Pending}}
- {apiVersion: v1, kind: Pod, metadata: {name: waiting, namespace: default, uid: u6}, spec: {containers: []}, status: {phase: Pending}}
- {apiVersion: v1, kind: Pod, metadata: {name: proxy, namespace: default, uid: u7}, spec: {nodeName: node-1, hostNetwork: true, containers: []},
   status: {phase: Running, podIP: 10.135.0.11}}
- {apiVersion: v1, kind: Service, metadata: {name: httpbin, namespace: default},
   spec: {clusterIP: 10.96.5.5, clusterIPs: [10.96.5.5], selector: {a: b}, type: NodePort,
          ports: [{name: http, port: 80, targetPort: web, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, targetPort: 5353}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
   metadata: {name: httpbin-1, namespace: default, labels: {kubernetes.io/service-name: httpbin}},
   endpoints: [{addresses: [10.244.1.246]}], ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]}
- {apiVersion: v1, kind: Service, metadata: {name: empty, namespace: default},
   spec: {clusterIP: 10.96.5.6, selector: {a: b}, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: manual, namespace: default}, spec: {clusterIP: 10.96.5.7, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: headless, namespace: shop}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, selector: {a: b}, ports: [{port: 5432}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
   metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}},
   endpoints: [{addresses: [10.244.1.5]}], ports: [{port: 5432}]}
- {apiVersion: v1, kind: Service, metadata: {name: alias, namespace: default}, spec: {type: ExternalName, externalName: example.org}}
";

fn inventory() -> Inventory {
    let mut inventory = file::parse(Path::new("cluster.yaml"), CLUSTER).unwrap();
    inventory.add_node_address("node-1", address("10.244.0.0"));
    inventory
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| address(text)).collect()
}

fn request(pod: &str, to: &str) -> Request {
    Request {
        namespace: None,
        followed: Followed::Named(pod.to_owned()),
        to: Some(to.to_owned()).filter(|to| !to.is_empty()),
        ports: Vec::new(),
        protocol: None,
    }
}

fn labelled(labels: &str) -> Request {
    let followed = Followed::Labelled(labels.to_owned());
    Request { namespace: Some("shop".to_owned()), followed, ..request("", "") }
}

fn ask(request: &Request) -> Result<Selection, SelectError> {
    select(&inventory(), request)
}

/// The message of a refused request, and whether it is one of usage.
fn refusal(request: &Request) -> (String, bool) {
    let error = ask(request).unwrap_err();
    (error.to_string(), error.is_usage())
}

#[test]
fn between_two_pods_all_addresses_match_and_in_the_servers_place_its_services() {
    let selection = ask(&request("curl", "httpbin")).unwrap();

    assert_eq!(selection.a.name, "default/curl");
    assert_eq!(selection.a.addresses, addresses(&["10.244.0.153", "fd00::153"]));
    let b = selection.b.as_ref().unwrap();
    assert_eq!((b.name.as_str(), b.kind), ("default/httpbin", EndKind::Pod));
    assert_eq!(b.addresses, addresses(&["10.244.1.246", "fd00::246"]));
    let Translated { a, b, ports, .. } = &selection.translated;
    assert!(a.is_empty(), "between pods nothing is masqueraded, and no Service leads to curl");
    assert_eq!((b, ports.len()), (&addresses(&["10.96.5.5"]), 0));
    let nodes: Vec<String> = selection.scope().nodes.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["node-1", "node-2"]);
    assert_eq!(selection.scope().pods.unwrap().len(), 2);
}

#[test]
fn a_service_means_its_addresses_its_endpoints_and_the_ports_on_both_sides() {
    for to in [
        "svc/httpbin",
        "svc/default/httpbin",
        "default/svc/httpbin",
        "httpbin.default",
        "httpbin.default.svc.cluster.local",
        "10.96.5.5",
    ] {
        let asked = Request { ports: vec!["80".to_owned()], ..request("curl", to) };
        let selection = ask(&asked).unwrap();

        let b = selection.b.as_ref().unwrap();
        assert_eq!((b.name.as_str(), b.kind), ("svc/default/httpbin", EndKind::Service), "{to}");
        assert_eq!(b.addresses, addresses(&["10.96.5.5", "10.244.1.246"]));
        assert_eq!(selection.ports, [80, 8080], "the named target port is resolved by the EndpointSlice");
        assert_eq!(
            selection.translated.a,
            addresses(&["10.135.0.11", "10.244.0.0"]),
            "SNAT to the pod's node"
        );
        assert_eq!(selection.scope().nodes.unwrap().len(), 2);
    }
}

#[test]
fn a_services_port_may_be_given_by_name_by_node_port_or_as_target_port() {
    let ports = |port: &str, protocol: Option<&str>| {
        let protocol = protocol.map(ToOwned::to_owned);
        ask(&Request { ports: vec![port.to_owned()], protocol, ..request("curl", "svc/httpbin") })
            .map(|selection| selection.ports)
    };

    assert_eq!(ports("http", None).unwrap(), [80, 8080]);
    assert_eq!(ports("30080", None).unwrap(), [80, 8080, 30080]);
    assert_eq!(ports("8080", None).unwrap(), [8080]);
    assert_eq!(ports("dns", Some("udp")).unwrap(), [53, 5353]);
    assert_eq!(
        ports("81", None).unwrap_err().to_string(),
        "svc/default/httpbin has no port 81; its ports are 80/tcp (http), 53/udp (dns)"
    );
    assert_eq!(
        ports("80", Some("udp")).unwrap_err().to_string(),
        "svc/default/httpbin has no port 80/udp; its ports are 80/tcp (http), 53/udp (dns)"
    );
}

#[test]
fn an_address_outside_may_be_reached_through_any_node_and_under_the_nodes_address() {
    let selection = ask(&request("curl", "192.0.2.1")).unwrap();

    let b = selection.b.as_ref().unwrap();
    assert_eq!((b.name.as_str(), b.kind), ("192.0.2.1", EndKind::Address));
    assert_eq!(selection.translated.a, addresses(&["10.135.0.11", "10.244.0.0"]));
    assert!(selection.translated.masqueraded);
    assert_eq!(selection.scope().nodes, None);
}

#[test]
fn a_pods_address_means_that_address_and_the_pods_devices() {
    let selection = ask(&request("curl", "10.244.1.246")).unwrap();

    let b = selection.b.as_ref().unwrap();
    assert_eq!((b.kind, b.addresses.as_slice()), (EndKind::Pod, &addresses(&["10.244.1.246"])[..]));
    assert_eq!(b.pods[0].name, "httpbin");
    assert!(selection.translated.a.is_empty());
}

#[test]
fn a_pods_port_is_recorded_under_the_ports_of_its_services_too() {
    let translated = |port: &str, protocol: Option<&str>| {
        let protocol = protocol.map(ToOwned::to_owned);
        let asked = Request { ports: vec![port.to_owned()], protocol, ..request("curl", "httpbin") };
        let selection = ask(&asked).unwrap();
        assert_eq!(selection.ports.len(), 1, "what is told is what was asked for");
        selection.translated.ports
    };

    assert_eq!(translated("8080", None), [80]);
    assert_eq!(translated("5353", None), [53]);
    assert_eq!(translated("5353", Some("tcp")), [0u16; 0]);
    assert_eq!(translated("22", None), [0u16; 0]);
}

#[test]
fn a_server_is_followed_under_its_services_addresses_whoever_the_client_is() {
    for to in ["", "curl"] {
        let selection = ask(&request("httpbin", to)).unwrap();

        assert_eq!(selection.a.addresses, addresses(&["10.244.1.246", "fd00::246"]));
        assert_eq!(selection.translated.a, addresses(&["10.96.5.5"]));
        assert!(!selection.translated.masqueraded, "its Services' addresses are not its node's");
        assert_eq!(selection.translated.services_of_a.len(), 1);
    }
}

#[test]
fn a_node_port_leads_to_the_endpoints() {
    for to in ["node/node-2", "10.135.0.12"] {
        let selection = ask(&Request { ports: vec!["30080".to_owned()], ..request("curl", to) }).unwrap();

        let b = selection.b.as_ref().unwrap();
        assert_eq!(b.kind, EndKind::Node);
        assert_eq!(b.addresses, addresses(&["10.135.0.12", "10.244.1.246"]), "{to}");
        assert_eq!(selection.ports, [8080, 30080]);
    }
}

#[test]
fn without_a_target_any_peer_matches_but_only_the_pods_own_addresses() {
    let selection = ask(&request("curl", "")).unwrap();

    assert_eq!(selection.b, None);
    assert!(selection.translated.a.is_empty(), "they would select all packets of the node");
}

#[test]
fn a_pod_on_the_hosts_network_is_followed_with_a_warning() {
    let selection = ask(&request("proxy", "httpbin")).unwrap();

    assert_eq!(selection.a.addresses, addresses(&["10.135.0.11"]));
    assert!(selection.notes[0].contains("every process of node node-1"), "{:?}", selection.notes);
}

#[test]
fn a_headless_service_is_its_endpoints() {
    let selection =
        ask(&Request { ports: vec!["5432".to_owned()], ..request("curl", "svc/shop/db") }).unwrap();

    assert_eq!(selection.b.unwrap().addresses, addresses(&["10.244.1.5"]));
    assert_eq!(selection.ports, [5432]);
    assert!(selection.notes[0].contains("headless"));
}

#[test]
fn the_target_is_looked_up_in_the_namespace_that_was_said_for_the_pod() {
    let selection = ask(&request("shop/cart", "twin")).unwrap();
    assert_eq!(selection.b.unwrap().name, "shop/twin");

    let in_shop = Request { namespace: Some("shop".to_owned()), ..request("cart", "twin") };
    assert_eq!(ask(&in_shop).unwrap().b.unwrap().name, "shop/twin");
}

#[test]
fn what_the_cluster_does_not_have_is_a_failure_that_says_what_to_type() {
    let with_namespace = |namespace: &str, pod: &str| Request {
        namespace: Some(namespace.to_owned()),
        ..request(pod, "httpbin")
    };
    for (asked, expected) in [
        (request("crul", "httpbin"), "no pod `crul` in namespace default; did you mean curl?"),
        (request("nothing-like-it", "httpbin"), "no pod `nothing-like-it` in namespace default"),
        (
            request("twin", "httpbin"),
            "pod `twin` is in 2 namespaces (default, shop); type `--pod default/twin` or `--pod shop/twin`",
        ),
        (
            request("curl", "twin"),
            "pod `twin` is in 2 namespaces (default, shop); type `--to default/twin` or `--to shop/twin`",
        ),
        (
            request("cart", "httpbin"),
            "pod `cart` is not in namespace default but in shop; type `--pod shop/cart`",
        ),
        (
            with_namespace("default", "cart"),
            "pod `cart` is not in namespace default but in shop; type `--pod shop/cart`",
        ),
        (with_namespace("shpo", "cart"), "no namespace `shpo` in the inventory; did you mean shop?"),
        (
            with_namespace("elsewhere", "cart"),
            "no namespace `elsewhere` in the inventory (it has 2: kubectl get namespaces lists those of the cluster)",
        ),
        (request("shop/crat", "httpbin"), "no pod `crat` in namespace shop; did you mean cart?"),
        (
            request("waiting", "httpbin"),
            "pod default/waiting is Pending, not Running: it sends no packets (kubectl describe pod shows why)",
        ),
        (
            request("curl", "svc/htpbin"),
            "no Service `htpbin` in namespace default; did you mean svc/default/httpbin?",
        ),
        (
            request("curl", "svc/db"),
            "no Service `db` in namespace default; in another namespace: --to svc/shop/db",
        ),
        (
            request("curl", "empty"),
            "no pod `empty` in namespace default\n  there is a Service of that name: --to svc/default/empty",
        ),
        (request("curl", "cat.shop"), "no pod `cat` in namespace shop; did you mean cart?"),
        (request("curl", "node/node-3"), "no node `node-3`; did you mean node-1, node-2?"),
        (
            request("curl", "svc/empty"),
            "svc/default/empty has no endpoints, so that nobody would answer: no pod matches its selector (kubectl get endpointslices, kubectl get pods --show-labels), or the inventory was made without endpointslices",
        ),
        (
            request("curl", "svc/manual"),
            "svc/default/manual has no endpoints, so that nobody would answer: it has no selector either, so its EndpointSlices must be made by hand or by another controller",
        ),
        (
            request("curl", "svc/shop/headless"),
            "svc/shop/headless is headless (it has no ClusterIP) and has no endpoints: no pod matches its selector (kubectl get endpointslices, kubectl get pods --show-labels), or the inventory was made without endpointslices",
        ),
        (
            request("curl", "svc/alias"),
            "svc/default/alias is an alias (ExternalName) of the DNS name example.org and has no address of its own: use --to with an IP address of example.org",
        ),
    ] {
        assert_eq!(refusal(&asked), (expected.to_owned(), false), "{asked:?}");
    }
}

#[test]
fn wrong_typing_is_a_usage_error_that_shows_the_right_form() {
    let with_port = |port: &str| Request { ports: vec![port.to_owned()], ..request("curl", "httpbin") };
    let with_protocol =
        |protocol: &str| Request { protocol: Some(protocol.to_owned()), ..request("curl", "httpbin") };
    for (asked, expected) in [
        (request("", "httpbin"), "--pod ``: should be a pod"),
        (request("a/b/c", "httpbin"), "--pod `a/b/c`: should be a pod"),
        (request("10.244.1", "curl"), "--pod `10.244.1`: not an IPv4 or IPv6 address"),
        (request("Curl", "httpbin"), "--pod `Curl`: should be a pod"),
        (request("ing/curl", "httpbin"), "`ing/...` cannot be followed"),
        (labelled("app in web"), "--selector `app in web`: should be labels"),
        (request("curl", "10.244.1"), "--to `10.244.1`: not an IPv4 or IPv6 address"),
        (
            request("curl", "10.244.1.2:80"),
            "--to `10.244.1.2:80`: not an IPv4 or IPv6 address (give a port with --port)",
        ),
        (request("curl", "a/b/c/d"), "--to `a/b/c/d`: should be a pod"),
        (request("curl", "svc/"), "--to `svc/`: should be a pod"),
        (with_port("0"), "--port `0`: should be a number from 1 to 65535"),
        (with_port("65536"), "--port `65536`: should be a number"),
        (with_port("80;81"), "--port `80;81`: should be a number"),
        (with_port(""), "--port ``: should be a number"),
        (with_port("http"), "--port http: ports have names only in Services, and default/httpbin is none"),
        (with_protocol("tpc"), "--protocol `tpc`: should be tcp, udp, icmp, icmpv6, sctp, or a number"),
        (with_protocol("256"), "--protocol `256`: should be"),
        (
            Request { protocol: Some("icmp".to_owned()), ..with_port("80") },
            "--port and --protocol icmp: this protocol has no ports",
        ),
    ] {
        let (message, is_usage) = refusal(&asked);
        assert!(message.starts_with(expected), "{asked:?}: {message}");
        assert!(is_usage, "{asked:?}: {message}");
    }
}

#[test]
fn protocols_are_known_by_name_and_number() {
    for (text, expected) in
        [("tcp", 6), ("UDP", 17), ("icmp", 1), ("icmp6", 58), ("icmpv6", 58), ("sctp", 132), ("47", 47)]
    {
        let asked = Request { protocol: Some(text.to_owned()), ..request("curl", "httpbin") };
        assert_eq!(ask(&asked).unwrap().protocol, Some(expected), "{text}");
    }
}

#[test]
fn a_workload_and_labels_mean_all_their_running_pods_wherever_they_are() {
    let named =
        |pod: &str, namespace: &str| Request { namespace: Some(namespace.to_owned()), ..request(pod, "") };
    for asked in [
        named("deploy/web", "shop"),
        named("rs/web-5d4", "shop"),
        request("deployment/shop/web", ""),
        labelled("app=web"),
        labelled("app in (web,api),pod-template-hash"),
    ] {
        let selection = ask(&asked).unwrap();
        assert_eq!(selection.a.addresses, addresses(&["10.244.0.21", "10.244.1.22"]), "{asked:?}");
        assert_eq!((selection.a.kind, selection.a.nodes.len()), (EndKind::Pod, 2));
    }
    let other_end = ask(&request("curl", "deploy/shop/web")).unwrap().b.unwrap();
    assert_eq!((other_end.name.as_str(), other_end.pods.len()), ("deploy/shop/web", 2));
}

#[test]
fn followed_may_be_the_pods_behind_a_service_a_node_and_whoever_has_an_address() {
    let name =
        |pod: &str| ask(&request(pod, "10.1.2.3")).map(|selection| (selection.a.name, selection.a.kind));
    for service in ["svc/httpbin", "10.96.5.5"] {
        let (name, kind) = name(service).unwrap();
        assert_eq!((name.as_str(), kind), ("svc/default/httpbin", EndKind::Pod));
    }
    let behind = ask(&request("svc/httpbin", "")).unwrap();
    assert_eq!(behind.a.addresses, addresses(&["10.244.1.246", "fd00::246"]));
    assert_eq!(
        behind.translated.a,
        addresses(&["10.96.5.5"]),
        "its own address stands for them on a part of the way"
    );
    assert_eq!(name("node/node-1").unwrap(), ("node/node-1".to_owned(), EndKind::Node));
    assert_eq!(name("10.244.0.153").unwrap().1, EndKind::Pod);
    assert!(name("192.0.2.9").unwrap_err().to_string().contains("--to 192.0.2.9"));
}

#[test]
fn a_workload_without_running_pods_says_so_and_an_unknown_one_what_there_is() {
    let said = |asked: &Request| refusal(asked).0;
    assert!(said(&labelled("app=late")).contains("no pod of it is running; 1 are not"));
    assert!(said(&request("sts/shop/late", "")).contains("sts/shop/late: no pod of it is running"));
    let unknown = said(&request("deploy/shop/wbe", ""));
    assert!(unknown.contains("no pod of deploy/wbe in namespace shop; did you mean deploy/web"), "{unknown}");
    let elsewhere = said(&request("deploy/web", ""));
    assert!(elsewhere.contains("--pod deploy/shop/web"), "{elsewhere}");
}
