//! Kinds of points. Legs are told from kind to kind, so that their number is bounded however many pods there are.

use tracer_common::measure::{MAX_KINDS, POINT_BEGINS, POINT_ENDS, PointInfo};

use crate::trajectory::model::{DeviceRole, Direction};

const ROLES: [(DeviceRole, &str); 6] = [
    (DeviceRole::PodInterface, "pod_interface"),
    (DeviceRole::PodPeer, "pod_peer"),
    (DeviceRole::Bridge, "bridge"),
    (DeviceRole::Tunnel, "tunnel"),
    (DeviceRole::Nic, "nic"),
    (DeviceRole::Other, "other"),
];
const _: () = assert!(ROLES.len() * 2 <= MAX_KINDS as usize);

/// The label of a device's role.
#[must_use]
pub fn role_name(role: DeviceRole) -> &'static str {
    ROLES.iter().find(|(other, _)| *other == role).map_or("other", |(_, name)| name)
}

/// The label of a direction.
#[must_use]
pub const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The label of a kind, such as `nic_egress`; `None` for a number that no kind has.
#[must_use]
pub fn kind_name(kind: u32) -> Option<String> {
    let (_, role) = ROLES.get(kind as usize / 2)?;
    Some(format!("{role}_{}", if kind.is_multiple_of(2) { "ingress" } else { "egress" }))
}

/// What the kernel side must know of a point. Packets come to a node from its pods and through its NICs, and leave it
/// the other way round; where a pod's own interface is not observed, its packets are missed at their first point.
#[must_use]
pub fn point_info(role: DeviceRole, direction: Direction) -> PointInfo {
    let role_number = ROLES.iter().position(|(other, _)| *other == role).unwrap_or(ROLES.len() - 1);
    let flags = match (role, direction) {
        (DeviceRole::PodInterface, Direction::Egress) | (DeviceRole::Nic, Direction::Ingress) => POINT_BEGINS,
        (DeviceRole::PodInterface, Direction::Ingress) | (DeviceRole::Nic, Direction::Egress) => POINT_ENDS,
        _ => 0,
    };
    let kind = role_number as u16 * 2 + u16::from(direction == Direction::Egress);
    PointInfo { kind, group: 0, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_its_role_and_direction() {
        let kind = |role, direction| kind_name(point_info(role, direction).kind.into()).unwrap();
        assert_eq!(kind(DeviceRole::PodInterface, Direction::Egress), "pod_interface_egress");
        assert_eq!(kind(DeviceRole::Tunnel, Direction::Ingress), "tunnel_ingress");
        assert_eq!(kind(DeviceRole::Other, Direction::Egress), "other_egress");
        assert_eq!(kind_name(12), None);
    }

    #[test]
    fn a_journey_is_from_a_pod_or_nic_to_a_pod_or_nic() {
        let flags = |role, direction| point_info(role, direction).flags;
        assert_eq!(flags(DeviceRole::PodInterface, Direction::Egress), POINT_BEGINS);
        assert_eq!(flags(DeviceRole::PodInterface, Direction::Ingress), POINT_ENDS);
        assert_eq!(flags(DeviceRole::Nic, Direction::Ingress), POINT_BEGINS);
        assert_eq!(flags(DeviceRole::Nic, Direction::Egress), POINT_ENDS);
        assert_eq!(flags(DeviceRole::PodPeer, Direction::Ingress), 0);
    }
}
