//! Ports as the user names them, and those that they lead to.

use std::collections::BTreeSet;

use super::SelectError;
use super::parse::{PortName, protocol_name};
use crate::inventory::{Inventory, ServiceEntry, ServicePort};

/// The ports asked for and, behind each, the target ports of the endpoints. A headless Service translates nothing:
/// its clients use the target ports.
pub(super) fn service_ports(
    inventory: &Inventory,
    service: &ServiceEntry,
    asked: &[PortName],
    protocol: Option<u8>,
) -> Result<BTreeSet<u16>, SelectError> {
    let mut numbers = BTreeSet::new();
    for ask in asked {
        let fits = |port: &&ServicePort| {
            protocol.is_none_or(|protocol| protocol == port.protocol)
                && match ask {
                    PortName::Number(number) => port.port == *number || port.node_port == Some(*number),
                    PortName::Name(name) => port.name == *name,
                }
        };
        let ports: Vec<&ServicePort> = service.ports.iter().filter(fits).collect();
        let targets = target_ports(inventory, service, &ports);
        if ports.is_empty() {
            // The user may also know the endpoints' port.
            let all: Vec<&ServicePort> = service.ports.iter().collect();
            match ask.number().filter(|number| target_ports(inventory, service, &all).contains(number)) {
                Some(number) => numbers.insert(number),
                None => return Err(no_such_port(service, ask, protocol)),
            };
        }
        numbers.extend(ports.iter().map(|port| port.port));
        numbers.extend(
            ports.iter().filter_map(|port| port.node_port).filter(|number| ask.number() == Some(*number)),
        );
        numbers.extend(targets);
    }
    Ok(numbers)
}

/// What these ports lead to.
pub(super) fn target_ports(
    inventory: &Inventory,
    service: &ServiceEntry,
    ports: &[&ServicePort],
) -> BTreeSet<u16> {
    inventory
        .slices(&service.service)
        .flat_map(|slice| &slice.ports)
        .filter(|target| {
            ports.iter().any(|port| port.name == target.name && port.protocol == target.protocol)
        })
        .map(|target| target.port)
        .collect()
}

fn no_such_port(service: &ServiceEntry, ask: &PortName, protocol: Option<u8>) -> SelectError {
    let describe = |port: &ServicePort| {
        let name = if port.name.is_empty() { String::new() } else { format!(" ({})", port.name) };
        format!("{}/{}{name}", port.port, protocol_name(port.protocol))
    };
    SelectError::UnknownPort {
        service: format!("svc/{}/{}", service.service.namespace, service.service.name),
        port: ask.to_string(),
        protocol: protocol.map(protocol_name),
        ports: service.ports.iter().map(describe).collect(),
    }
}

/// Target ports behind node ports.
pub(super) fn node_port_targets(
    inventory: &Inventory,
    numbers: &BTreeSet<u16>,
    protocol: Option<u8>,
) -> BTreeSet<u16> {
    let of_number = |number: &u16| inventory.services_by_node_port(*number);
    numbers
        .iter()
        .flat_map(of_number)
        .filter(|(_, port)| protocol.is_none_or(|protocol| protocol == port.protocol))
        .flat_map(|(service, port)| target_ports(inventory, service, &[port]))
        .collect()
}

/// The ports as numbers; a name means something for a Service only.
pub(super) fn numbers(ports: &[PortName], target: Option<&str>) -> Result<BTreeSet<u16>, SelectError> {
    ports
        .iter()
        .map(|port| {
            port.number().ok_or_else(|| SelectError::NamedPort {
                port: port.to_string(),
                target: target.map(ToOwned::to_owned),
            })
        })
        .collect()
}
