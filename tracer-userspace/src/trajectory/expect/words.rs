//! What is said about hops and their absence, for people.

use crate::trajectory::expect::{Absent, Why};
use crate::trajectory::model::{DeviceRole, Direction, ObservationPoint};
use crate::trajectory::order::Stage;

impl Absent {
    /// Device and direction, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.why == Why::NodeNotObserved {
            return format!("node {}", self.node);
        }
        if let Some(point) = &self.point {
            return describe(point);
        }
        let device = match self.stage.role {
            DeviceRole::Nic => "a NIC",
            DeviceRole::Tunnel => "a tunnel device",
            DeviceRole::Bridge => "a bridge",
            DeviceRole::PodInterface | DeviceRole::PodPeer | DeviceRole::Other => "a device",
        };
        format!("{device} of {} {}", self.node, direction(self.stage))
    }

    /// The reason, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.why {
            Why::PassedBy { mechanism, program, device } => {
                format!("passed by with {mechanism} ({program} on {device})")
            }
            Why::Hidden { program } => {
                format!("hidden by {program}, which runs before our program here and ends the chain")
            }
            Why::NotAttachedYet => "not observed yet when the packet passed".to_owned(),
            Why::NodeNotObserved => "nothing is observed on that node".to_owned(),
            Why::Encrypted { tunnel, opaque, other } => {
                let wire = match (other, self.stage.direction) {
                    (Some(other), Direction::Egress) => format!(" from {} to {other}", self.node),
                    (Some(other), Direction::Ingress) => format!(" from {other} to {}", self.node),
                    (None, _) => String::new(),
                };
                let verb = match tunnel.direction {
                    Direction::Egress => "sends",
                    Direction::Ingress => "gets",
                };
                format!(
                    "encrypted, not visible: {} on {} ({}) {verb} it as {}{wire}",
                    tunnel.device, tunnel.node, opaque.name, opaque.carrier
                )
            }
            Why::RecordsLost { records } => {
                format!("record lost? {} lost on {} meanwhile", records_were(*records), self.node)
            }
            Why::BeganLater => "the packet was first seen later on its way".to_owned(),
            Why::Unexplained => "not seen here though the packet went on; no record was lost".to_owned(),
            Why::SuspectedLoss => "suspected loss: seen neither here nor later, 0 records lost".to_owned(),
            Why::NotReached => "not reached".to_owned(),
        }
    }
}

pub(super) fn records_were(count: u64) -> String {
    if count == 1 { "1 record was".to_owned() } else { format!("{count} records were") }
}

fn direction(stage: Stage) -> &'static str {
    match stage.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Device, direction and where it is, for people.
#[must_use]
pub fn describe(point: &ObservationPoint) -> String {
    let direction = direction(Stage::of(point));
    match (&point.pod, point.role) {
        (Some(pod), DeviceRole::PodInterface) => {
            format!("{} {direction} in pod {}/{}", point.device, pod.namespace, pod.name)
        }
        _ => format!("{} {direction} on {}", point.device, point.node),
    }
}
