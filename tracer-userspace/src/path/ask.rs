//! What two nodes are asked about a way, from what a person asks for. Pure.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use super::facts::Question;
use super::ways::{End, Endpoint, ServiceEnd};
use crate::app::Failure;
use crate::cli::SelectionArgs;
use crate::follow::select::{self, EndKind, Selection};
use crate::follow::wanted::resolve;
use crate::inventory::{Inventory, PodEntry, ServiceEntry, ServicePort};

/// What is asked of two nodes.
#[derive(Debug)]
pub struct Asked {
    pub from: End,
    pub to: End,
    pub service: Option<ServiceEnd>,
    pub near: Question,
    pub far: Question,
    pub notes: Vec<String>,
}

/// The way to a Service that has no endpoints, which no follow can have; `None` where that is not what was asked for.
///
/// # Errors
/// Inside: the followed pod is not known.
#[must_use]
pub fn ask_of_nobody(inventory: &Inventory, asked: &SelectionArgs) -> Option<Result<Asked, Failure>> {
    let name = asked.to.as_deref()?.strip_prefix("svc/")?;
    let own = SelectionArgs { to: None, ports: Vec::new(), ..asked.clone() };
    let selection = match resolve(inventory, &own) {
        Ok(selection) => selection,
        Err(failure) => return Some(Err(failure)),
    };
    let pod = selection.a.pods.first().and_then(|pod| inventory.pods().find(|entry| entry.pod == *pod));
    let namespace =
        asked.namespace.as_deref().or(pod.map(|entry| entry.pod.namespace.as_str())).unwrap_or("default");
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    let entry = inventory.service(namespace, name)?;
    let port = entry.ports.first();
    let own = addresses(pod, &selection.a.addresses);
    let (own, ip) = own
        .into_iter()
        .find_map(|own| Some((own, entry.addresses().find(|ip| ip.is_ipv4() == own.is_ipv4())?)))?;
    let service = service_end(inventory, entry, port, ip);
    let near = Question { own, addressed: ip, target: ip, port: port.map(numbers) };
    let far = Question { own: ip, addressed: own, target: own, port: None };
    let to = End { ip, pod: None, node: None };
    Some(Ok(Asked { from: end_at(inventory, own), to, service: Some(service), near, far, notes: Vec::new() }))
}

/// One pod at each end, both by addresses of one family.
///
/// # Errors
/// They have no addresses of one family.
pub fn ask(inventory: &Inventory, selection: &Selection) -> Result<Asked, Failure> {
    let mut notes = selection.notes.clone();
    let b = selection.b.as_ref().ok_or_else(|| Failure::Usage("--to: whom to?".to_owned()))?;
    let mut one_of = |end: &select::End| {
        let pod = end.pods.first()?;
        if end.pods.len() > 1 && end.kind == EndKind::Pod {
            let (name, count) = (&pod.name, end.pods.len());
            notes.push(format!(
                "{} is {count} pods; this is the way of the first, {}/{name}",
                end.name, pod.namespace
            ));
        }
        inventory.pods().find(|entry| entry.pod == *pod)
    };
    let own = addresses(one_of(&selection.a), &selection.a.addresses);
    let service = service_of(inventory, b, selection);
    let target_pod = one_of(b).filter(|_| service.is_none());
    let family = |address: &IpAddr| address.is_ipv4();
    for own in own {
        let addressed = match &service {
            Some((entry, _)) => entry.addresses().find(|address| family(address) == family(&own)),
            None => addresses(target_pod, &b.addresses)
                .into_iter()
                .find(|address| family(address) == family(&own)),
        };
        let Some(addressed) = addressed else { continue };
        let port = service.as_ref().and_then(|(_, port)| *port).map(numbers);
        let service = service.as_ref().map(|(entry, port)| service_end(inventory, entry, *port, addressed));
        let chosen = service.as_ref().and_then(|service| service.endpoints.first());
        let target = chosen.map_or(addressed, |endpoint| endpoint.ip);
        if let Some(service) = service.as_ref().filter(|service| service.endpoints.len() > 1) {
            let count = service.endpoints.len();
            notes.push(format!(
                "{} has {count} endpoints; this is the way to the first, {target}",
                service.name
            ));
        }
        let near = Question { own, addressed, target, port };
        let far = Question { own: target, addressed: own, target: own, port: None };
        return Ok(Asked {
            from: end_at(inventory, own),
            to: end_at(inventory, target),
            service,
            near,
            far,
            notes,
        });
    }
    Err(Failure::Failed(format!(
        "{} and {} have no addresses of one family: the one has IPv4, the other IPv6",
        selection.a.name, b.name
    )))
}

/// Of the one pod, else of whatever it is; IPv4 first.
fn addresses(pod: Option<&PodEntry>, all: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses = pod.map_or_else(|| all.to_vec(), |entry| entry.addresses.clone());
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

fn end_at(inventory: &Inventory, ip: IpAddr) -> End {
    if let Some(entry) = inventory.pod_at(ip).filter(|entry| !entry.host_network) {
        let pod = Some(format!("{}/{}", entry.pod.namespace, entry.pod.name));
        return End { ip, pod, node: Some(entry.node.to_string()) };
    }
    let node = inventory.nodes().find(|node| inventory.node_addresses(&node.name).contains(&ip));
    End { ip, pod: None, node: node.map(|node| node.name.to_string()) }
}

/// The Service that is addressed, and its port.
fn service_of<'a>(
    inventory: &'a Inventory,
    end: &select::End,
    selection: &Selection,
) -> Option<(&'a ServiceEntry, Option<&'a ServicePort>)> {
    let entry = match end.kind {
        EndKind::Service => {
            let (namespace, name) = end.name.strip_prefix("svc/")?.split_once('/')?;
            inventory.service(namespace, name)
        }
        EndKind::Address => end.addresses.first().and_then(|address| inventory.service_at(*address)),
        EndKind::Pod | EndKind::Node => None,
    }?;
    // What was asked for, else its only or first port.
    let asked = entry.ports.iter().find(|port| selection.ports.contains(&port.port));
    let port = asked.or(entry.ports.first());
    // A headless one has no address of its own: DNS gives its endpoints'.
    entry.addresses().next().map(|_| (entry, port))
}

fn numbers(port: &ServicePort) -> (u16, u8) {
    (port.port, port.protocol)
}

fn service_end(
    inventory: &Inventory,
    entry: &ServiceEntry,
    port: Option<&ServicePort>,
    ip: IpAddr,
) -> ServiceEnd {
    let mut endpoints = Vec::new();
    for slice in inventory.slices(&entry.service) {
        let target = slice
            .ports
            .iter()
            .find(|target| Some(&target.name) == port.map(|port| &port.name))
            .map(|target| target.port);
        for address in slice.addresses.iter().filter(|address| address.is_ipv4() == ip.is_ipv4()) {
            let ready = !slice.not_ready.contains(address);
            endpoints.push(Endpoint { ip: *address, port: target, ready });
        }
    }
    endpoints.sort_by_key(|endpoint| !endpoint.ready);
    let name = format!("{}/{}", entry.service.namespace, entry.service.name);
    ServiceEnd { name, ip, port: port.map(|port| port.port), endpoints }
}

/// Of each two nodes between which packets of a follow go, one pod of the one and one of the other, by addresses of one
/// family; at most `most`.
#[must_use]
pub fn between_nodes(inventory: &Inventory, selection: &Selection, most: usize) -> Vec<Asked> {
    let ends = |end: &select::End| -> Vec<End> {
        let wanted: HashSet<_> = end.pods.iter().collect();
        let pods = inventory.pods().filter(|entry| wanted.contains(&entry.pod));
        let of_pods: Vec<End> =
            pods.flat_map(|entry| &entry.addresses).map(|address| end_at(inventory, *address)).collect();
        if of_pods.is_empty() {
            return end.addresses.iter().map(|address| end_at(inventory, *address)).collect();
        }
        of_pods
    };
    let Some(b) = &selection.b else { return Vec::new() };
    let (others, mut known, mut all) = (ends(b), BTreeSet::new(), Vec::new());
    for from in ends(&selection.a) {
        for to in &others {
            let (Some(one), Some(other)) = (&from.node, &to.node) else { continue };
            let is_new = one != other
                && from.ip.is_ipv4() == to.ip.is_ipv4()
                && known.insert((one.clone(), other.clone()));
            if is_new && all.len() < most {
                let near = Question { own: from.ip, addressed: to.ip, target: to.ip, port: None };
                let far = Question { own: to.ip, addressed: from.ip, target: from.ip, port: None };
                let (from, to) = (from.clone(), to.clone());
                all.push(Asked { from, to, service: None, near, far, notes: Vec::new() });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::site::Names;

    const CLUSTER: &str = "apiVersion: v1\nkind: List\nitems:
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: default, uid: u1}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.153}}
- {apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: default, uid: u2}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.33}}
- {apiVersion: v1, kind: Service, metadata: {name: dns, namespace: default}, spec: {clusterIP: 10.96.0.10,
   ports: [{name: udp, protocol: UDP, port: 53}, {name: tcp, protocol: TCP, port: 9153}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
   metadata: {name: dns-1, namespace: default, labels: {kubernetes.io/service-name: dns}},
   endpoints: [{addresses: [10.244.0.33]}], ports: [{name: udp, protocol: UDP, port: 1053}, {name: tcp, protocol: TCP, port: 9153}]}
";

    fn asked(port: Option<&str>) -> Asked {
        let names = Names::none();
        names.add(CLUSTER, 0).unwrap();
        let selection = SelectionArgs {
            pod: Some("curl".to_owned()),
            selector: None,
            to: Some("svc/dns".to_owned()),
            namespace: None,
            ports: port.map(str::to_owned).into_iter().collect(),
            protocol: None,
        };
        names.with(|inventory| ask(inventory, &resolve(inventory, &selection).unwrap()).unwrap())
    }

    #[test]
    fn a_service_is_asked_for_by_its_ports_number_and_protocol() {
        let first = asked(None);
        assert_eq!(first.near.port, Some((53, 17)));
        assert_eq!(first.service.unwrap().endpoints[0].port, Some(1053));
        assert_eq!(asked(Some("9153")).near.port, Some((9153, 6)));
    }
}
