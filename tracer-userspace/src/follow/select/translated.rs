//! What NAT puts in the place of the ends' own addresses and ports on a part of the way. The kernel records it as well,
//! or hops would be missing; packets that turn out to be others' are not told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::ports::target_ports;
use super::{End, EndKind, Selection};
use crate::inventory::{Inventory, ServiceEntry};
use crate::trajectory::model::ServiceRef;

/// Nothing in it is an end's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// In A's place: its nodes' addresses after SNAT, and those of the Services that lead to A.
    pub a: Vec<IpAddr>,
    /// In B's place: addresses of the Services that lead to B.
    pub b: Vec<IpAddr>,
    /// The ports of these Services that lead to the ports asked for.
    pub ports: Vec<u16>,
    /// The Services that lead to A.
    pub services_of_a: Vec<Arc<ServiceRef>>,
    /// Whether addresses of A's nodes are among those in A's place.
    pub masqueraded: bool,
}

impl Translated {
    /// For a selection that is complete but for this.
    pub(super) fn of(inventory: &Inventory, selection: &Selection) -> Self {
        let b = selection.b.as_ref();
        let mut ports = BTreeSet::new();
        let mut by_services = |end: &End| by_services(inventory, selection, end, &mut ports);
        let (mut a, services_of_a) = by_services(&selection.a);
        let mut in_place_of_b = b.map(&mut by_services).unwrap_or_default().0;
        let of_node = after_snat(inventory, &selection.a, b);
        let masqueraded = !of_node.is_empty();
        a.extend(of_node);
        let own: Vec<IpAddr> = selection
            .a
            .addresses
            .iter()
            .chain(b.into_iter().flat_map(|end| &end.addresses))
            .copied()
            .collect();
        a.retain(|address| !own.contains(address));
        in_place_of_b.retain(|address| !own.contains(address));
        ports.retain(|port| !selection.ports.contains(port));
        Self { a, b: in_place_of_b, ports: ports.into_iter().collect(), services_of_a, masqueraded }
    }
}

/// Addresses of the Services that lead to a pod. A client that talks to one has it as its peer until DNAT, and again
/// behind the reversal of that.
fn by_services(
    inventory: &Inventory,
    selection: &Selection,
    end: &End,
    ports: &mut BTreeSet<u16>,
) -> (Vec<IpAddr>, Vec<Arc<ServiceRef>>) {
    if end.kind != EndKind::Pod {
        // A Service's own are the end's, and it has the addresses and ports on both sides.
        return (Vec::new(), Vec::new());
    }
    let (mut addresses, mut services) = (BTreeSet::new(), Vec::new());
    for service in inventory.services() {
        let slices = || inventory.slices(&service.service);
        let leads_here = slices().flat_map(|slice| &slice.addresses).any(|to| end.addresses.contains(to));
        if leads_here && service.addresses().next().is_some() {
            addresses.extend(service.addresses());
            services.push(Arc::clone(&service.service));
            ports.extend(ports_leading_to(inventory, service, selection));
        }
    }
    (addresses.into_iter().collect(), services)
}

/// Ports of a Service behind which is one that was asked for.
fn ports_leading_to<'a>(
    inventory: &'a Inventory,
    service: &'a ServiceEntry,
    selection: &'a Selection,
) -> impl Iterator<Item = u16> + 'a {
    let wanted = service.ports.iter().filter(move |port| {
        selection.protocol.is_none_or(|protocol| protocol == port.protocol)
            && target_ports(inventory, service, &[port]).iter().any(|to| selection.ports.contains(to))
    });
    wanted.map(|port| port.port)
}

/// Addresses that SNAT may put in A's place. Between two pods nothing is masqueraded; without a target they would
/// select all packets of the node.
fn after_snat(inventory: &Inventory, a: &End, b: Option<&End>) -> Vec<IpAddr> {
    let is_pod = |end: &End| {
        // hostNetwork endpoints have the node's address, to which pods' traffic is often masqueraded.
        end.kind == EndKind::Pod && end.addresses.iter().all(|address| inventory.pod_at(*address).is_some())
    };
    match b {
        Some(b) if !is_pod(b) => a.nodes.iter().flat_map(|node| inventory.node_addresses(node)).collect(),
        _ => Vec::new(),
    }
}
