//! The part of the inventory that belongs to the packets of a capture: whose their addresses are, so that names can be told
//! where there is no cluster. What no packet has to do with stays out of the file.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::inventory::{Inventory, ServiceEntry};
use crate::trajectory::model::{Directory as _, Owner, PodRef, ServiceRef, Trajectory};

/// Most endpoints of one object, as Kubernetes has it by default: what is written at once must not be too long.
const ENDPOINTS: usize = 100;

/// What a file has not been told yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Kubernetes objects.
    pub objects: Vec<Value>,
    pub names: Vec<(IpAddr, String)>,
}

/// What a file has been told. Bounded by the inventory.
#[derive(Debug, Default)]
pub struct Objects {
    told: HashSet<String>,
    named: HashSet<(IpAddr, String)>,
}

impl Objects {
    /// What the inventory has about the addresses of a trajectory and was not given before.
    pub fn news(&mut self, inventory: &Inventory, trajectory: &Trajectory) -> News {
        let mut news = News::default();
        for hop in &trajectory.hops {
            let packet = &hop.packet;
            let outer = packet.encapsulation.iter().flat_map(|outer| [outer.source, outer.destination]);
            let quoted = packet.quote.iter().map(|quote| quote.destination);
            for address in [packet.source, packet.destination].into_iter().chain(outer).chain(quoted) {
                self.learn(inventory, address, hop.time_ns, &mut news);
            }
            if let Some(pod) = &hop.point.pod {
                self.learn_pod(inventory, pod, &hop.point.node, None, &mut news);
            }
            self.learn_node(inventory, &hop.point.node, &mut news);
        }
        news
    }

    fn learn(&mut self, inventory: &Inventory, address: IpAddr, at_ns: u64, news: &mut News) {
        let name = match inventory.owner(address, at_ns) {
            Owner::Pod { pod, node } => {
                self.learn_pod(inventory, &pod, &node, Some(address), news);
                self.learn_node(inventory, &node, news);
                format!("{}.{}", pod.name, pod.namespace)
            }
            Owner::Service(service) => {
                self.learn_service(inventory, &service, news);
                format!("{}.{}.svc", service.name, service.namespace)
            }
            Owner::Node(node) => {
                self.learn_node(inventory, &node, news);
                node.to_string()
            }
            Owner::Unknown => return,
        };
        if self.named.insert((address, name.clone())) {
            news.names.push((address, name));
        }
    }

    /// `address`: one that it had then, whatever it has now.
    fn learn_pod(
        &mut self,
        inventory: &Inventory,
        pod: &PodRef,
        node: &str,
        address: Option<IpAddr>,
        news: &mut News,
    ) {
        let entry = inventory.pod(&pod.namespace, &pod.name).filter(|entry| entry.pod.is_same(pod));
        let PodRef { namespace, name, uid } = entry.map_or(pod, |entry| &entry.pod);
        if !self.told.insert(format!("pod {namespace}/{name} {uid}")) {
            return;
        }
        let mut addresses: Vec<_> = entry.map_or_else(Vec::new, |entry| entry.addresses.clone());
        addresses.extend(address.filter(|address| !addresses.contains(address)));
        let ips: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        news.objects.push(json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": { "namespace": namespace, "name": name, "uid": uid },
            "spec": { "nodeName": node, "hostNetwork": entry.is_some_and(|entry| entry.host_network) },
            "status": { "phase": "Running", "podIPs": ips },
        }));
    }

    fn learn_node(&mut self, inventory: &Inventory, name: &str, news: &mut News) {
        if !self.told.insert(format!("node {name}")) {
            return;
        }
        let addresses: Vec<_> = inventory
            .node_addresses(name)
            .iter()
            .map(|address| json!({ "type": "InternalIP", "address": address }))
            .collect();
        news.objects.push(json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": { "name": name },
            "status": { "addresses": addresses },
        }));
    }

    fn learn_service(&mut self, inventory: &Inventory, service: &ServiceRef, news: &mut News) {
        let ServiceRef { namespace, name } = service;
        if !self.told.insert(format!("service {namespace}/{name}")) {
            return;
        }
        let Some(entry) = inventory.service(namespace, name) else { return };
        news.objects.push(service_object(entry));
        for (number, slice) in inventory.slices(service).enumerate() {
            for is_v4 in [true, false] {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                let addresses: Vec<_> =
                    slice.addresses.iter().filter(|address| address.is_ipv4() == is_v4).collect();
                let ports: Vec<_> = slice
                    .ports
                    .iter()
                    .map(|port| json!({ "name": port.name, "protocol": protocol(port.protocol), "port": port.port }))
                    .collect();
                for (part, part_of_them) in addresses.chunks(ENDPOINTS).enumerate() {
                    news.objects.push(json!({
                    "kind": "EndpointSlice",
                    "apiVersion": "discovery.k8s.io/v1",
                    "metadata": {
                        "namespace": namespace,
                        "name": format!("{name}-{number}-{}-{part}", family.to_lowercase()),
                        "labels": { "kubernetes.io/service-name": name },
                    },
                    "addressType": family,
                    "endpoints": part_of_them.iter().map(|address| json!({ "addresses": [address] })).collect::<Vec<_>>(),
                    "ports": ports,
                }));
                }
            }
        }
    }
}

fn service_object(entry: &ServiceEntry) -> Value {
    let ports: Vec<_> = entry
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name,
                "protocol": protocol(port.protocol),
                "port": port.port,
                "nodePort": port.node_port.unwrap_or_default(),
            })
        })
        .collect();
    json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": { "namespace": entry.service.namespace, "name": entry.service.name },
        "spec": {
            "type": entry.kind,
            "clusterIPs": entry.cluster_addresses,
            "externalIPs": entry.other_addresses,
            "ports": ports,
        },
    })
}

const fn protocol(number: u8) -> &'static str {
    match number {
        17 => "UDP",
        132 => "SCTP",
        _ => "TCP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::site::Names;

    #[test]
    fn a_service_with_many_endpoints_is_told_in_parts_that_are_read_as_one() {
        let addresses: Vec<_> =
            (0..250).map(|number| format!("10.244.{}.{}", number / 200, number % 200 + 1)).collect();
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        let cluster = json!({ "kind": "List", "apiVersion": "v1", "items": [
            { "kind": "Service", "apiVersion": "v1", "metadata": { "namespace": "default", "name": "web" },
              "spec": { "clusterIP": "10.96.0.23", "ports": [{ "name": "http", "port": 80 }] } },
            { "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
              "metadata": { "namespace": "default", "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
              "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080 }] },
        ] });
        let names = Names::none();
        names.add(&cluster.to_string(), 0).unwrap();
        let service = ServiceRef { namespace: "default".to_owned(), name: "web".to_owned() };

        let mut news = News::default();
        names.with(|inventory| Objects::default().learn_service(inventory, &service, &mut news));

        assert_eq!(news.objects.len(), 1 + 3);
        let again = Names::none();
        let list = json!({ "kind": "List", "apiVersion": "v1", "items": news.objects });
        again.add(&list.to_string(), 0).unwrap();
        let from = ("10.96.0.23".parse().unwrap(), 80);
        for address in addresses {
            let to = (address.parse().unwrap(), 8080);
            assert!(again.with(|inventory| inventory.is_service_translation(6, from, to)), "{address}");
        }
    }
}
