//! The devices of a follow, kept as the machine is: attach to what is wanted and there, let go of the rest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::event::Event;
use super::site::monotonic_ns;
use crate::agent::attach::{AttachError, clsact};
use crate::agent::observer::Observer;
use crate::app::notice;
use crate::host::links::{LinkEvent, LinkWatch, watch};
use crate::host::netns::{Netns, NetnsId};
use crate::host::plan::PlannedDevice;
use crate::host::survey::Survey;

/// Link events that may wait; more are a resync.
const LINK_EVENTS: usize = 1024;

/// See the module.
pub struct Devices {
    sender: mpsc::Sender<LinkEvent>,
    watches: HashMap<NetnsId, LinkWatch>,
    /// The pods' ends behind devices of nodes: the namespaces of pods are not watched, but both ends go together.
    other_ends: HashMap<(NetnsId, u32), (NetnsId, u32)>,
    /// Could not be attached to: complained about once.
    refused: HashSet<(NetnsId, u32)>,
    known_points: usize,
}

impl Devices {
    /// Second come the events of the nodes that are watched.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<LinkEvent>) {
        let (sender, events) = mpsc::channel(LINK_EVENTS);
        let devices = Self {
            sender,
            watches: HashMap::new(),
            other_ends: HashMap::new(),
            refused: HashSet::new(),
            known_points: 0,
        };
        (devices, events)
    }

    /// Watches the links of the nodes that are here.
    pub fn watch_nodes(&mut self, survey: &Survey) {
        self.watches.retain(|netns, _| survey.nodes.iter().any(|node| node.netns.id() == *netns));
        for node in &survey.nodes {
            if self.watches.contains_key(&node.netns.id()) {
                continue;
            }
            match watch(&node.netns, self.sender.clone()) {
                Ok(watch) => drop(self.watches.insert(node.netns.id(), watch)),
                Err(error) => notice(&format!(
                    "warning: pods that start on node {} will not be seen at once: {error}",
                    node.name
                )),
            }
        }
    }

    /// Attaches to what is planned and not held yet, and lets go of what is held and not planned: it is gone, or
    /// nobody asks for it any more.
    pub fn follow_plan(
        &mut self,
        plan: &[PlannedDevice],
        survey: &Survey,
        observer: &mut Observer,
        emit: &mut impl FnMut(Event),
    ) {
        let planned: HashSet<_> = plan.iter().map(PlannedDevice::key).collect();
        for device in observer.devices() {
            if !planned.contains(&device) {
                self.release(device, observer, emit);
            }
        }
        self.refused.retain(|device| planned.contains(device));
        self.remember_pairs(survey);
        for device in plan {
            if observer.observes(device) {
                continue;
            }
            match observer.observe(device, monotonic_ns()) {
                Ok(()) => {}
                // It went between the look and the attach; the link watch tells the rest.
                Err(AttachError::DeviceGone) => {}
                Err(error) => self.complain(device, &error),
            }
        }
        for point in &observer.points()[self.known_points..] {
            emit(Event::Point { point: Arc::clone(point), since_ns: monotonic_ns() });
        }
        self.known_points = observer.points().len();
    }

    /// A device of a node is gone, and with it its other end in a pod.
    pub fn gone(&mut self, device: (NetnsId, u32), observer: &mut Observer, emit: &mut impl FnMut(Event)) {
        if let Some(other_end) = self.other_ends.remove(&device) {
            self.release(other_end, observer, emit);
        }
        self.release(device, observer, emit);
    }

    /// Ends the watches.
    pub fn stop(&mut self) {
        self.watches.clear();
    }

    /// Lets go of a device. The next [`Devices::follow_plan`] attaches to it again if it is still wanted.
    pub fn release(&mut self, device: (NetnsId, u32), observer: &mut Observer, emit: &mut impl FnMut(Event)) {
        for point in observer.release(device.0, device.1) {
            emit(Event::PointGone(point));
        }
        self.refused.remove(&device);
    }

    fn remember_pairs(&mut self, survey: &Survey) {
        self.other_ends = survey
            .pods
            .iter()
            .filter_map(|pod| {
                let node = survey.node(&pod.node)?.netns.id();
                Some(((node, pod.peer?), (pod.netns.id(), pod.interface.as_ref()?.ifindex)))
            })
            .collect();
    }

    fn complain(&mut self, device: &PlannedDevice, error: &AttachError) {
        if self.refused.insert(device.key()) {
            notice(&format!(
                "warning: {} on node {} is not observed: {error}",
                device.link.name, device.node
            ));
        }
    }
}

/// Removes the legacy filters that a killed tracer left on any device of the nodes and pods that are here.
pub fn sweep(survey: &Survey) {
    let nodes = survey
        .nodes
        .iter()
        .map(|node| (&node.netns, node.snapshot.links.iter().map(|link| link.ifindex).collect::<Vec<_>>()));
    let pods = survey.pods.iter().filter_map(|pod| Some((&pod.netns, vec![pod.interface.as_ref()?.ifindex])));
    for (netns, ifindexes) in nodes.chain(pods) {
        sweep_namespace(netns, &ifindexes);
    }
}

fn sweep_namespace(netns: &Netns, ifindexes: &[u32]) {
    match clsact::sweep(netns, ifindexes) {
        Ok(0) => {}
        Ok(count) => notice(&format!(
            "note: removed {count} filters that a killed tracer had left in {}",
            netns.label()
        )),
        Err(error) if error.is_device_gone() => {}
        Err(error) => notice(&format!("warning: cannot look for leftovers in {}: {error}", netns.label())),
    }
}
