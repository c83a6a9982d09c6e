//! From what two nodes say to the way there and the way back. Pure.

use std::net::IpAddr;

use serde::Serialize;

use self::words::{decides, hook, neighbour, of_maps, owner_of, translation, tunnel_words};
pub use self::words::{link, words};
use super::facts::{Answer, Arrival, Device, Half};
use crate::trajectory::model::Direction;

mod words;

/// Who is at one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    pub ip: IpAddr,
    /// `namespace/name`.
    pub pod: Option<String>,
    pub node: Option<String>,
}

/// The Service by which the other end is addressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceEnd {
    /// `namespace/name`.
    pub name: String,
    pub ip: IpAddr,
    pub port: Option<u16>,
    /// Its endpoints, those that get connections first.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: Option<u16>,
    pub ready: bool,
}

/// Everything about the way between two ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Path {
    pub from: End,
    pub to: End,
    pub service: Option<ServiceEnd>,
    pub near: Option<Half>,
    pub far: Option<Half>,
    pub there: Vec<Step>,
    pub back: Vec<Step>,
    /// Halves that are not there, and what could not be read.
    pub notes: Vec<String>,
}

/// A place that packets pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub node: String,
    /// Inside this pod.
    pub pod: Option<String>,
    /// As `ip link` begins its line: `257: lxced3096cb2cb1@if256`.
    pub device: String,
    pub name: String,
    pub ifindex: u32,
    /// What leaves a pod is ingress on the node's end of its pair.
    pub direction: Direction,
    /// What it is, and what becomes of the packet there.
    pub what: String,
    /// What says so.
    pub evidence: Vec<String>,
    /// A hook of this device that no packet of this way passes, and why not.
    pub unseen: Option<String>,
}

impl Path {
    /// Puts the two halves together.
    #[must_use]
    pub fn of(
        from: End,
        to: End,
        service: Option<ServiceEnd>,
        near: Option<Half>,
        far: Option<Half>,
        notes: Vec<String>,
    ) -> Self {
        let there = way(near.as_ref(), far.as_ref(), &to);
        let back = way(far.as_ref(), near.as_ref(), &from);
        Self { from, to, service, near, far, there, back, notes }
    }

    /// Both halves that there are.
    pub fn halves(&self) -> impl Iterator<Item = &Half> {
        self.near.iter().chain(&self.far)
    }
}

/// From the sender's pod to the receiver's. A half that is missing leaves out its part.
fn way(sender: Option<&Half>, receiver: Option<&Half>, to: &End) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_one_node = sender.zip(receiver).is_some_and(|(one, other)| one.node == other.node);
    let is_switched = is_one_node && bridge_of(sender).is_some() && bridge_of(sender) == bridge_of(receiver);
    if let Some(half) = sender {
        steps.extend(leave(half, is_switched));
    }
    if !is_one_node {
        if let Some(half) = sender {
            steps.extend(send(half, to));
        }
        if let Some(half) = receiver {
            steps.extend(receive(half, sender));
        }
    }
    if let Some(half) = receiver {
        steps.extend(deliver(half, sender, is_one_node, is_switched));
    }
    steps
}

fn bridge_of(half: Option<&Half>) -> Option<u32> {
    half?.bridge.as_ref().map(|bridge| bridge.ifindex)
}

/// Out of the pod and into its node. What is switched between two ports of a bridge does not come to the bridge itself.
fn leave(half: &Half, is_switched: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(pod) = &half.pod {
        let mut evidence = vec![format!("found: the pod {}", pod.found), format!("route: {}", pod.route)];
        if let Some(hop) = &pod.next_hop {
            evidence.push(format!("next hop: {}", neighbour(hop)));
            evidence.extend(owner_of(hop, half));
        }
        evidence.extend(hook(&pod.device, Direction::Egress));
        let what = match pod.route.route() {
            Some(route) => match route.gateway {
                Some(gateway) => format!("sends to next hop {gateway}"),
                None => "sends to its own network".to_owned(),
            },
            None => "has no way to send".to_owned(),
        };
        steps.push(step(half, Some(&pod.pod), &pod.device, Direction::Egress, what, evidence));
    }
    if let Some(device) = &half.device {
        let mut evidence = hook(device, Direction::Ingress);
        evidence.extend(device.netkit_peer.iter().map(|program| format!("netkit peer: {}", words(program))));
        let what = decides(&device.ingress)
            .or_else(|| decides(&device.netkit_peer))
            .unwrap_or_else(|| "enters the node".to_owned());
        let mut enters = step(half, None, device, Direction::Ingress, what, evidence);
        // It runs when the pod sends into the pair, before the node's end receives.
        enters.unseen = device.netkit_peer.iter().find(|program| !program.ours).map(|program| {
            format!("{} runs before this hook and may redirect, and then nothing passes here", program.name)
        });
        steps.push(enters);
    }
    if let Some(bridge) = half.bridge.as_ref().filter(|_| !is_switched) {
        let evidence = hook(bridge, Direction::Ingress);
        steps.push(step(half, None, bridge, Direction::Ingress, "is the pods' bridge".to_owned(), evidence));
    }
    steps
}

/// From the node to the wire.
fn send(half: &Half, to: &End) -> Vec<Step> {
    let mut steps = Vec::new();
    let outgoing = &half.outgoing;
    let mut evidence: Vec<String> = half.services.iter().map(translation).collect();
    evidence.extend(outgoing.route.iter().map(|route| format!("route on the node: {route}")));
    evidence.extend(half.rules.iter().map(|rule| format!("rule {}: {}", rule.priority, rule.text)));
    if let Some(tunnel) = &outgoing.tunnel {
        evidence.extend(of_maps(half, to.ip));
        evidence.extend(tunnel_words(tunnel, outgoing.next_hop.as_ref(), to));
        evidence.extend(hook(&tunnel.device, Direction::Egress));
        let far = tunnel.remote.map_or_else(|| "nobody knows whom".to_owned(), |remote| remote.to_string());
        let what = format!("packs it for {far}");
        steps.push(step(half, None, &tunnel.device, Direction::Egress, what, std::mem::take(&mut evidence)));
        if let Some(nic) = &tunnel.nic {
            evidence.extend(tunnel.route.iter().map(|route| format!("route of the tunnel: {route}")));
            evidence.extend(tunnel.next_hop.iter().map(|hop| format!("next hop: {}", neighbour(hop))));
            evidence.extend(hook(nic, Direction::Egress));
            let what = "leaves the node, packed".to_owned();
            let mut packed = step(half, None, nic, Direction::Egress, what, evidence);
            packed.unseen = encrypted(&tunnel.device);
            steps.push(packed);
        }
        return steps;
    }
    if let Some(device) = &outgoing.device {
        evidence.extend(of_maps(half, to.ip));
        evidence.extend(outgoing.next_hop.iter().map(|hop| format!("next hop: {}", neighbour(hop))));
        evidence.extend(hook(device, Direction::Egress));
        steps.push(step(
            half,
            None,
            device,
            Direction::Egress,
            "leaves the node as it is".to_owned(),
            evidence,
        ));
    }
    steps
}

/// By which tunnel and which NIC packets come to a node: as the sender sends them, where its half is known, else as this
/// node would send them back.
#[must_use]
pub fn arrival<'a>(half: &'a Half, sender: Option<&Half>) -> (Option<&'a Arrival>, Option<&'a Device>) {
    let arrivals = &half.incoming.arrivals;
    let at = |ifindex: u32| arrivals.iter().find(|arrival| arrival.device.ifindex == ifindex);
    let own = half.outgoing.tunnel.as_ref();
    let nic = own.and_then(|tunnel| tunnel.nic.as_ref());
    let sent = match sender {
        Some(sender) => sender.outgoing.tunnel.as_ref().map(|tunnel| &tunnel.device),
        None => own.map(|tunnel| &tunnel.device),
    };
    let Some(sent) = sent else {
        // Unpacked, by the NIC.
        let nic = nic.or(half.outgoing.device.as_ref().filter(|device| device.tunnel.is_none()));
        let nic = nic.or_else(|| {
            arrivals.iter().map(|arrival| &arrival.device).find(|device| device.tunnel.is_none())
        });
        return (nic.and_then(|nic| at(nic.ifindex)), None);
    };
    let is_its_like = |device: &Device| {
        let of = |device: &Device| {
            let tunnel = device.tunnel.clone().unwrap_or_default();
            (device.kind.clone(), tunnel.identifier, tunnel.port)
        };
        of(device) == of(sent)
    };
    let by = arrivals.iter().find(|arrival| is_its_like(&arrival.device));
    let nic =
        nic.or_else(|| arrivals.iter().map(|arrival| &arrival.device).find(|device| device.tunnel.is_none()));
    (by, nic)
}

/// Why the wire's devices do not show the packet.
fn encrypted(tunnel: &Device) -> Option<String> {
    (tunnel.kind == "wireguard").then(|| format!("{} encrypts it: here it is not recognised", tunnel.name))
}

/// From the wire into the node.
fn receive(half: &Half, sender: Option<&Half>) -> Vec<Step> {
    let mut steps = Vec::new();
    let (by, nic) = arrival(half, sender);
    if let Some(nic) = nic {
        let evidence = hook(nic, Direction::Ingress);
        let what = "comes to the node, packed".to_owned();
        let mut packed = step(half, None, nic, Direction::Ingress, what, evidence);
        packed.unseen = by.and_then(|arrival| encrypted(&arrival.device));
        steps.push(packed);
    }
    if let Some(Arrival { device, accepted }) = by {
        let mut evidence = vec![format!("as it comes from there: {accepted}")];
        evidence.extend(hook(device, Direction::Ingress));
        let what = match device.tunnel {
            Some(_) => decides(&device.ingress).unwrap_or_else(|| "unpacks it".to_owned()),
            None => decides(&device.ingress).unwrap_or_else(|| "comes to the node".to_owned()),
        };
        steps.push(step(half, None, device, Direction::Ingress, what, evidence));
    }
    steps
}

/// From the node into the pod.
fn deliver(half: &Half, sender: Option<&Half>, is_one_node: bool, is_switched: bool) -> Vec<Step> {
    let beside = sender.filter(|_| is_one_node);
    let mut steps = Vec::new();
    let Some(pod) = &half.pod else { return steps };
    let incoming = &half.incoming;
    let mut evidence: Vec<String> =
        beside.into_iter().flat_map(|sender| sender.services.iter().map(translation)).collect();
    // The Service's own client gets the answer.
    evidence.extend(half.services.iter().map(|service| {
        format!("Service: as the answer to a connection that {} has translated it gets the Service's address again", service.by)
    }));
    evidence.extend(incoming.route.iter().map(|route| format!("route on the node: {route}")));
    evidence.extend(incoming.neighbour.iter().map(|hop| format!("the pod: {}", neighbour(hop))));
    if let Some(device) = &half.device {
        if let Some(bridge) = &half.bridge {
            evidence.extend(
                incoming.bridge_port.iter().map(|port| format!("the bridge has the pod's MAC at {port}")),
            );
            if !is_switched {
                let mut on_bridge = std::mem::take(&mut evidence);
                on_bridge.extend(hook(bridge, Direction::Egress));
                let what = "is the pods' bridge".to_owned();
                steps.push(step(half, None, bridge, Direction::Egress, what, on_bridge));
            }
        }
        evidence.extend(own_of(half).into_iter().flat_map(|own| of_maps(half, own)));
        evidence.extend(hook(device, Direction::Egress));
        let what = "hands it to the pod".to_owned();
        let mut last = step(half, None, device, Direction::Egress, what, evidence);
        last.unseen = may_skip(half, sender, is_one_node);
        steps.push(last);
    }
    let evidence = hook(&pod.device, Direction::Ingress);
    steps.push(step(half, Some(&pod.pod), &pod.device, Direction::Ingress, "arrives".to_owned(), evidence));
    steps
}

/// Why the last device before the pod may see nothing: a program that redirects straight into the pod.
fn may_skip(half: &Half, sender: Option<&Half>, is_one_node: bool) -> Option<String> {
    let before = match sender {
        Some(sender) if is_one_node => sender.device.as_ref(),
        _ => arrival(half, sender).0.map(|arrival| &arrival.device),
    }?;
    let program = before.ingress.iter().find(|program| redirects_to_pods(&program.name))?;
    Some(format!(
        "{} on {} may redirect straight into the pod (bpf_redirect_peer), and then nothing passes here",
        program.name, before.name
    ))
}

fn redirects_to_pods(name: &str) -> bool {
    name.starts_with("cil_from_") || name.starts_with("cali_tc_")
}

fn step(
    half: &Half,
    pod: Option<&String>,
    device: &Device,
    direction: Direction,
    what: String,
    evidence: Vec<String>,
) -> Step {
    Step {
        node: half.node.clone(),
        pod: pod.cloned(),
        device: link(device),
        name: device.name.clone(),
        ifindex: device.ifindex,
        direction,
        what,
        evidence,
        unseen: None,
    }
}

/// The pod's address, as the question had it.
fn own_of(half: &Half) -> Option<IpAddr> {
    half.incoming.route.as_ref().and_then(Answer::route).and_then(|route| route.destination)
}
