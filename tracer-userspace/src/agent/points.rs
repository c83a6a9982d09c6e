//! From (namespace, device, direction, time) to observation point. An ifindex is unique within its namespace
//! only, and is used again after its device is gone: the key has the namespace's number, the value its time.

use std::collections::HashMap;
use std::sync::Arc;

use tracer_common::measure::PointPlace;
use tracer_common::record::{DIRECTION_EGRESS, HopRecord};

use crate::trajectory::hash::FastState;
use crate::trajectory::model::{Direction, ObservationPoint, PointId};

/// What of a record names its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointKey {
    /// Number that [`super::programs::Programs`] gave the namespace.
    pub space: u32,
    pub ifindex: u32,
    pub direction: Direction,
}

impl PointKey {
    #[must_use]
    pub fn of(record: &HopRecord) -> Self {
        let HopRecord { space, ifindex, direction, .. } = *record;
        Self { space, ifindex, direction: direction_of(direction.into()) }
    }

    /// The kernel side's name of it.
    #[must_use]
    pub fn of_place(place: PointPlace) -> Self {
        let PointPlace { space, ifindex, direction } = place;
        Self { space, ifindex, direction: direction_of(direction) }
    }
}

fn direction_of(number: u32) -> Direction {
    if number == u32::from(DIRECTION_EGRESS) { Direction::Egress } else { Direction::Ingress }
}

/// All points of a run; points of devices that are gone stay, their records may still come.
#[derive(Debug, Default)]
pub struct Registry {
    points: Vec<Arc<ObservationPoint>>,
    by_key: HashMap<PointKey, Vec<(u64, Arc<ObservationPoint>)>, FastState>,
}

impl Registry {
    /// Registers a point that exists since `born_ns` (CLOCK_MONOTONIC). `make` gets its id.
    pub fn register(
        &mut self,
        key: PointKey,
        born_ns: u64,
        make: impl FnOnce(PointId) -> ObservationPoint,
    ) -> Arc<ObservationPoint> {
        let id = PointId(u32::try_from(self.points.len()).unwrap_or(u32::MAX));
        let point = Arc::new(make(id));
        self.points.push(Arc::clone(&point));
        self.by_key.entry(key).or_default().push((born_ns, Arc::clone(&point)));
        point
    }

    /// The point that had this key at a time: the youngest that was born by then; for a record that is older than
    /// all of them, the oldest.
    #[must_use]
    pub fn find(&self, key: PointKey, at_ns: u64) -> Option<&Arc<ObservationPoint>> {
        let generations = self.by_key.get(&key)?;
        let born = generations.iter().rev().find(|(born_ns, _)| *born_ns <= at_ns);
        born.or_else(|| generations.first()).map(|(_, point)| point)
    }

    #[must_use]
    pub fn all(&self) -> &[Arc<ObservationPoint>] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::model::{ClockId, DeviceRole};

    fn point(registry: &mut Registry, space: u32, ifindex: u32, born_ns: u64, device: &str) {
        let key = PointKey { space, ifindex, direction: Direction::Ingress };
        registry.register(key, born_ns, |id| ObservationPoint {
            id,
            node: "node-1".into(),
            clock: ClockId(0),
            pod: None,
            device: device.into(),
            kind: "veth".into(),
            ifindex,
            has_ethernet_header: true,
            direction: Direction::Ingress,
            role: DeviceRole::PodInterface,
            bridge: None,
            foreign_programs: Vec::new(),
            hidden_by: None,
        });
    }

    fn device(registry: &Registry, space: u32, ifindex: u32, at_ns: u64) -> Option<String> {
        let key = PointKey { space, ifindex, direction: Direction::Ingress };
        registry.find(key, at_ns).map(|point| point.device.to_string())
    }

    #[test]
    fn the_same_ifindex_in_two_namespaces_is_two_points() {
        let mut registry = Registry::default();
        point(&mut registry, 1, 2, 0, "eth0 of a");
        point(&mut registry, 2, 2, 0, "eth0 of b");
        assert_eq!(device(&registry, 1, 2, 5).unwrap(), "eth0 of a");
        assert_eq!(device(&registry, 2, 2, 5).unwrap(), "eth0 of b");
        assert_eq!(device(&registry, 3, 2, 5), None);
    }

    #[test]
    fn a_record_belongs_to_the_device_that_had_the_ifindex_at_its_time() {
        let mut registry = Registry::default();
        point(&mut registry, 1, 7, 100, "old");
        point(&mut registry, 1, 7, 200, "new");
        assert_eq!(device(&registry, 1, 7, 199).unwrap(), "old");
        assert_eq!(device(&registry, 1, 7, 200).unwrap(), "new");
        assert_eq!(device(&registry, 1, 7, 50).unwrap(), "old");
    }
}
