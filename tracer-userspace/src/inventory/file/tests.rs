use std::net::IpAddr;
use std::path::Path;

use super::{InventoryError, load, parse};
use crate::inventory::Inventory;
use crate::trajectory::model::{Directory, Owner};

/// What kubectl prints, shortened.
const CLUSTER: &str = "\
apiVersion: v1
items:
- apiVersion: v1
  kind: Pod
  metadata:
    annotations:
      kubectl.kubernetes.io/restartedAt: \"2026-11-01T08:00:00Z\"
    creationTimestamp: \"2026-11-01T08:00:00Z\"
    name: curl
    namespace: default
    uid: 0c7d1c5e-2f3d-4c8e-9a3f-111111111111
  spec:
    containers:
    - image: curlimages/curl
      name: curl
      resources:
        requests:
          cpu: 100m
          memory: 64Mi
    nodeName: node-1
  status:
    phase: Running
    podIP: 10.244.0.153
    podIPs:
    - ip: 10.244.0.153
    - ip: fd00:10:244::99
- apiVersion: v1
  kind: Service
  metadata:
    name: httpbin
    namespace: default
  spec:
    clusterIP: 10.96.5.5
    clusterIPs:
    - 10.96.5.5
    ports:
    - name: http
      nodePort: 30080
      port: 80
      protocol: TCP
      targetPort: web
    selector:
      app: httpbin
    type: NodePort
  status:
    loadBalancer: {}
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints: null
  kind: EndpointSlice
  metadata:
    labels:
      kubernetes.io/service-name: httpbin
    name: httpbin-empty
    namespace: default
  ports: null
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses:
    - 10.244.1.246
    conditions:
      ready: true
  kind: EndpointSlice
  metadata:
    labels:
      kubernetes.io/service-name: httpbin
    name: httpbin-abcde
    namespace: default
  ports:
  - name: http
    port: 8080
    protocol: TCP
- apiVersion: v1
  kind: Node
  metadata:
    name: node-1
  spec:
    podCIDR: 10.244.0.0/24
  status:
    addresses:
    - address: 10.135.0.11
      type: InternalIP
    - address: node-1
      type: Hostname
- apiVersion: v1
  kind: ConfigMap
  metadata:
    name: not-ours
    namespace: default
kind: List
metadata:
  resourceVersion: \"\"
";

fn read(text: &str) -> Result<Inventory, String> {
    parse(Path::new("cluster.yaml"), text).map_err(|error| error.to_string())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_is_the_cluster(inventory: &Inventory) {
    let pod = inventory.pod("default", "curl").unwrap();
    assert_eq!(pod.pod.uid, "0c7d1c5e-2f3d-4c8e-9a3f-111111111111");
    assert_eq!((&*pod.node, pod.phase.as_str()), ("node-1", "Running"));
    assert_eq!(pod.addresses, [address("10.244.0.153"), address("fd00:10:244::99")]);
    let from = (address("10.96.5.5"), 80);
    assert!(inventory.is_service_translation(6, from, (address("10.244.1.246"), 8080)));
    assert_eq!(inventory.owner(address("10.135.0.11"), 0), Owner::Node("node-1".into()));
    assert_eq!(inventory.ignored().get("ConfigMap"), Some(&1));
}

#[test]
fn what_kubectl_prints_as_yaml_is_understood() {
    assert_is_the_cluster(&read(CLUSTER).unwrap());
}

#[test]
fn what_kubectl_prints_as_json_is_understood() {
    let value: serde_json::Value = serde_saphyr::from_str(CLUSTER).unwrap();

    assert_is_the_cluster(&read(&serde_json::to_string_pretty(&value).unwrap()).unwrap());
    assert_is_the_cluster(&read(&serde_json::to_string(&value).unwrap()).unwrap());
    // `jq --tab` indents with tabs.
    assert_is_the_cluster(&read(&serde_json::to_string_pretty(&value).unwrap().replace("  ", "\t")).unwrap());
}

#[test]
fn documents_of_single_objects_and_typed_lists_are_understood() {
    let inventory = read(
        "\
# made by hand
---
apiVersion: v1
kind: NodeList
items:
- metadata: {name: node-1}
  status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: shop}
spec: {nodeName: node-1, containers: []}
status: {phase: Running, podIP: 10.244.0.153}
---
---
# nothing here
",
    )
    .unwrap();

    assert_eq!(&*inventory.pod("shop", "curl").unwrap().node, "node-1");
    assert_eq!(inventory.node("node-1").unwrap().internal_addresses, [address("10.135.0.11")]);
}

#[test]
fn a_service_of_another_api_group_is_not_taken_for_a_kubernetes_service() {
    let other = CLUSTER.to_owned()
        + "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: kn}\nspec: {template: {}}\n";

    let inventory = read(&other).unwrap();

    assert_eq!(inventory.services().count(), 1);
    assert_eq!(inventory.ignored().get("Service"), Some(&1));
}

#[test]
fn a_wrong_address_is_reported_with_its_line_and_object() {
    let text = CLUSTER.replace("    podIP: 10.244.0.153\n", "    podIP: 10.244.0.1530\n");

    let message = read(&text).unwrap_err();

    let line = 1 + text.lines().position(|line| line.contains("10.244.0.1530")).unwrap();
    assert_eq!(
        message.lines().next().unwrap(),
        format!(
            "cluster.yaml:{line}:12: Pod default/curl: status.podIP: `10.244.0.1530` is not an IPv4 or IPv6 address"
        )
    );
    assert!(message.contains("kubectl get pods,services,endpointslices,nodes -A -o yaml"), "{message}");
}

#[test]
fn a_value_of_the_wrong_type_is_reported_with_its_line_and_object() {
    let text = CLUSTER.replace("      port: 80\n", "      port: http\n");

    let message = read(&text).unwrap_err();

    let line = 1 + text.lines().position(|line| line.trim() == "port: http").unwrap();
    assert!(
        message.starts_with(&format!("cluster.yaml:{line}:13: Service default/httpbin: ")),
        "line {line} expected: {message}"
    );
}

#[test]
fn lines_are_counted_through_all_documents() {
    let text = CLUSTER.to_owned() + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec: {}\n";

    let message = read(&text).unwrap_err();

    let line = 2 + CLUSTER.lines().count();
    assert!(
        message.starts_with(&format!(
            "cluster.yaml:{line}:1: Pod late: status: missing; this looks like a manifest"
        )),
        "{message}"
    );
}

#[test]
fn broken_yaml_is_reported_with_its_line() {
    let text = CLUSTER.replace("  kind: Service\n", "  kind: Service\n bad indent: [\n");

    let message = read(&text).unwrap_err();

    let line: usize = message.split(':').nth(1).unwrap().parse().unwrap();
    let broken = 1 + text.lines().position(|line| line.contains("bad indent")).unwrap();
    assert!((broken - 1..=broken + 1).contains(&line), "line {line}, not about {broken}: {message}");
}

#[test]
fn broken_json_is_reported_as_json_with_its_line() {
    let message = read("{\n  \"kind\": \"List\",\n  \"items\": [\n    {\"kind\": }\n  ]\n}\n").unwrap_err();

    assert!(message.starts_with("cluster.yaml:4:14: expected value"), "{message}");
}

#[test]
fn an_inventory_without_pods_or_nodes_says_what_it_has() {
    let services = CLUSTER.replace("kind: Pod\n", "kind: Pet\n").replace("kind: Node\n", "kind: Nude\n");

    let message = read(&services).unwrap_err();

    assert!(
        message.starts_with("cluster.yaml: no pods and no nodes in it (0 pods, 0 nodes, 1 Services"),
        "{message}"
    );
    assert!(message.contains("1 of kind Pet, not used"), "{message}");
    assert!(read("").unwrap_err().contains("no pods and no nodes"));
}

#[test]
fn text_that_is_no_kubernetes_object_is_refused() {
    for text in ["a: 1\n", "- a\n- b\n", "just words\n", "kind: List\nitems: 5\n", "kind: List\nitems: [5]\n"]
    {
        let message = read(text).unwrap_err();
        assert!(message.starts_with("cluster.yaml:"), "{text:?}: {message}");
        assert!(message.contains("kubectl get"), "{text:?}: {message}");
    }
}

#[test]
fn a_file_that_cannot_be_read_names_itself_and_the_cause() {
    let error = load(Path::new("/does/not/exist.yaml")).unwrap_err();

    assert!(matches!(error, InventoryError::Read { .. }));
    assert!(
        error.to_string().starts_with("cannot read the inventory /does/not/exist.yaml: No such file"),
        "{error}"
    );
}
