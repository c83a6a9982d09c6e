//! What `kubectl get pods,services,endpointslices,nodes -A -o yaml` would print about the lab.

use std::fmt::{self, Write};

use crate::lab::{Node, Pod};
use crate::plan::{Protocol, Service, uid};

/// A fixed past moment, so that the same lab always gives the same text.
const CREATED: &str = "2023-12-05T07:09:11Z";

pub(crate) fn yaml(nodes: &[Node], pods: &[Pod], services: &[Service]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_list(&mut out, nodes, pods, services);
    out
}

/// The same with the annotation by which tracer finds a node's or pod's namespace where addresses do not tell it:
/// two labs on one machine have the same ones.
pub(crate) fn annotated_yaml(nodes: &[Node], pods: &[Pod], services: &[Service]) -> String {
    let mut out = yaml(nodes, pods, services);
    let places = pods.iter().filter(|pod| pod.is_here()).map(|pod| (pod.uid().to_owned(), pod.netns()));
    let nodes_here = nodes.iter().filter(|node| node.is_here());
    let places = places.chain(nodes_here.map(|node| (uid(&["node", node.name()]), node.netns())));
    for (uid, netns) in places {
        // The annotations of an object may stand behind its uid as well as anywhere else in its metadata.
        let line = format!("    uid: {uid}\n  spec:");
        let annotated = format!(
            "    uid: {uid}\n    annotations:\n      tracer.dev/netns: {}\n  spec:",
            netns.path().display()
        );
        out = out.replacen(&line, &annotated, 1);
    }
    out
}

fn write_list(out: &mut String, nodes: &[Node], pods: &[Pod], services: &[Service]) -> fmt::Result {
    out.write_str("apiVersion: v1\nitems:\n")?;
    for pod in pods {
        write_pod(out, pod, nodes)?;
    }
    for service in services {
        write_service(out, service)?;
    }
    for service in services {
        for ipv6 in [false, true] {
            write_endpoint_slice(out, service, pods, nodes, ipv6)?;
        }
    }
    for node in nodes {
        write_node(out, node)?;
    }
    out.write_str("kind: List\nmetadata:\n  resourceVersion: \"\"\n")
}

fn write_pod(out: &mut String, pod: &Pod, nodes: &[Node]) -> fmt::Result {
    let node = &nodes[pod.plan.node];
    writeln!(
        out,
        "\
- apiVersion: v1
  kind: Pod
  metadata:
    creationTimestamp: \"{CREATED}\"
    labels:
      app: {name}
    name: {name}
    namespace: {namespace}
    resourceVersion: \"1\"
    uid: {uid}
  spec:
    containers:
    - image: docker.io/library/{name}:latest
      imagePullPolicy: IfNotPresent
      name: {name}
    dnsPolicy: ClusterFirst
    nodeName: {node_name}
    restartPolicy: Always
  status:
    hostIP: {host_ipv4}
    hostIPs:
    - ip: {host_ipv4}
    - ip: {host_ipv6}
    phase: Running
    podIP: {ipv4}
    podIPs:
    - ip: {ipv4}
    - ip: {ipv6}
    startTime: \"{CREATED}\"",
        name = pod.name(),
        namespace = pod.namespace(),
        uid = pod.uid(),
        node_name = node.name(),
        host_ipv4 = node.ipv4(),
        host_ipv6 = node.ipv6(),
        ipv4 = pod.ipv4(),
        ipv6 = pod.ipv6(),
    )
}

fn write_service(out: &mut String, service: &Service) -> fmt::Result {
    writeln!(
        out,
        "\
- apiVersion: v1
  kind: Service
  metadata:
    creationTimestamp: \"{CREATED}\"
    name: {name}
    namespace: {namespace}
    resourceVersion: \"1\"
    uid: {uid}
  spec:
    clusterIP: {ipv4}
    clusterIPs:
    - {ipv4}
    - {ipv6}
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    - IPv6
    ipFamilyPolicy: RequireDualStack
    ports:",
        name = service.name,
        namespace = service.namespace,
        uid = service.uid,
        ipv4 = service.cluster_ipv4,
        ipv6 = service.cluster_ipv6,
    )?;
    for port in &service.ports {
        writeln!(
            out,
            "    - name: {}\n      port: {}\n      protocol: {}\n      targetPort: {}",
            port.name,
            port.port,
            protocol(port.protocol),
            port.target_port
        )?;
    }
    writeln!(
        out,
        "    selector:\n      app: {}\n    sessionAffinity: None\n    type: ClusterIP\n  status:\n    loadBalancer: {{}}",
        service.endpoints.first().map_or(service.name.as_str(), |(_, pod)| pod)
    )
}

fn write_endpoint_slice(
    out: &mut String,
    service: &Service,
    pods: &[Pod],
    nodes: &[Node],
    ipv6: bool,
) -> fmt::Result {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let name = format!("{}-{}", service.name, family.to_lowercase());
    let backends: Vec<&Pod> = service
        .endpoints
        .iter()
        .filter_map(|(namespace, name)| {
            pods.iter().find(|pod| pod.namespace() == namespace && pod.name() == name)
        })
        .collect();
    writeln!(out, "- addressType: {family}\n  apiVersion: discovery.k8s.io/v1")?;
    // kubectl writes no items as an empty list.
    writeln!(out, "  endpoints:{}", if backends.is_empty() { " []" } else { "" })?;
    for pod in backends {
        writeln!(
            out,
            "  - addresses:
    - {ip}
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: {node}
    targetRef:
      kind: Pod
      name: {name}
      namespace: {namespace}
      uid: {uid}",
            ip = pod.ips()[usize::from(ipv6)],
            node = nodes[pod.plan.node].name(),
            name = pod.name(),
            namespace = pod.namespace(),
            uid = pod.uid(),
        )?;
    }
    writeln!(
        out,
        "  kind: EndpointSlice
  metadata:
    creationTimestamp: \"{CREATED}\"
    labels:
      kubernetes.io/service-name: {service_name}
    name: {name}
    namespace: {namespace}
    ownerReferences:
    - apiVersion: v1
      blockOwnerDeletion: true
      controller: true
      kind: Service
      name: {service_name}
      uid: {service_uid}
    resourceVersion: \"1\"
    uid: {uid}
  ports:",
        service_name = service.name,
        namespace = service.namespace,
        service_uid = service.uid,
        uid = uid(&["slice", &service.namespace, &name]),
    )?;
    for port in &service.ports {
        writeln!(
            out,
            "  - name: {}\n    port: {}\n    protocol: {}",
            port.name,
            port.target_port,
            protocol(port.protocol)
        )?;
    }
    Ok(())
}

fn write_node(out: &mut String, node: &Node) -> fmt::Result {
    let plan = &node.plan;
    writeln!(
        out,
        "\
- apiVersion: v1
  kind: Node
  metadata:
    creationTimestamp: \"{CREATED}\"
    labels:
      kubernetes.io/hostname: {name}
      kubernetes.io/os: linux
    name: {name}
    resourceVersion: \"1\"
    uid: {uid}
  spec:
    podCIDR: {net4}/24
    podCIDRs:
    - {net4}/24
    - {net6}/64
  status:
    addresses:
    - address: {ipv4}
      type: InternalIP
    - address: {ipv6}
      type: InternalIP
    - address: {name}
      type: Hostname",
        name = node.name(),
        uid = uid(&["node", node.name()]),
        net4 = plan.pod_net_ipv4(),
        net6 = plan.pod_net_ipv6(),
        ipv4 = node.ipv4(),
        ipv6 = node.ipv6(),
    )
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}
