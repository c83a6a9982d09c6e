//! Reading one node's half of the way. Nothing is changed: netlink questions, bpf(2) queries and /proc.

use std::io;
use std::net::IpAddr;

use super::cni::Cni;
use super::facts::{
    Answer, Arrival, Device, Half, Incoming, Neighbour, Outgoing, PodSide, Program, Question, Route,
    TunnelHop,
};
use super::services;
use crate::host::links::{self, Link, Snapshot};
use crate::host::netns::Netns;
use crate::host::plan;
use crate::host::programs::{self, DevicePrograms, HookProgram, Mechanism};
use crate::host::routes::{
    FdbEntry, NeighbourEntry, RouteKind, RouteQuestion, Routing, neighbour_state, table_name,
};
use crate::host::settings;
use crate::host::survey::{LocalNode, LocalPod, Survey};
use crate::host::tunnels;
use crate::host::wireguard;

/// Devices by which packets may come, that are looked at.
const MOST_ARRIVALS: usize = 16;
/// NUD states in which a neighbour's MAC address is of use.
const USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

/// Why there is no half.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("no node and no pod of this machine has the address {0}")]
    NotHere(IpAddr),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the half of whoever has [`Question::own`].
///
/// # Errors
/// It is nobody here, or a network namespace cannot be read. What else cannot be read is in [`Half::problems`].
pub fn look(survey: &Survey, kernel: &str, question: &Question) -> Result<Half, LookError> {
    let pod = survey.pods.iter().find(|pod| {
        !pod.host_network && pod.interface.as_ref().is_some_and(|link| link.addresses.contains(&question.own))
    });
    let node = match pod {
        Some(pod) => survey.node(&pod.node),
        None => survey.nodes.iter().find(|node| holds(&node.snapshot, question.own)),
    };
    let node = node.ok_or(LookError::NotHere(question.own))?;
    let mut looker = Looker::open(node, question)?;
    looker.half.kernel = kernel.to_owned();
    if let Some(pod) = pod {
        looker.look_into_pod(pod)?;
    }
    looker.look_out();
    looker.look_in();
    looker.look_at_services();
    looker.look_at_settings()?;
    Ok(looker.half)
}

fn holds(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot.links.iter().any(|link| link.addresses.contains(&address))
}

struct Looker<'a> {
    question: &'a Question,
    netns: Netns,
    /// As it is now: the survey's may be older.
    snapshot: Snapshot,
    routing: Routing,
    neighbours: Vec<NeighbourEntry>,
    fdb: Vec<FdbEntry>,
    cni: Cni,
    half: Half,
}

impl<'a> Looker<'a> {
    fn open(node: &LocalNode, question: &'a Question) -> io::Result<Self> {
        let netns = node.netns.clone();
        let snapshot = links::dump(&netns)?;
        let mut routing = Routing::open(&netns)?;
        let neighbours = routing.neighbours()?;
        let mut half = Half { node: node.name.to_string(), ..Half::default() };
        let fdb = routing.forwarding_database().unwrap_or_else(|error| {
            half.problems.push(format!("the bridges' MAC addresses cannot be read: {error}"));
            Vec::new()
        });
        half.addresses = snapshot
            .links
            .iter()
            .filter(|link| !link.loopback)
            .flat_map(|link| link.addresses.iter().copied())
            .collect();
        half.rules = routing.rules(question.target)?;
        let is_ciliums = snapshot.links.iter().any(|link| &*link.name == "cilium_host");
        let cni = Cni::find(is_ciliums, &mut half.problems);
        Ok(Self { question, netns, snapshot, routing, neighbours, fdb, cni, half })
    }

    /// The pod's device, route and next hop, and the node's end of its pair.
    fn look_into_pod(&mut self, pod: &LocalPod) -> io::Result<()> {
        let Some(interface) = &pod.interface else { return Ok(()) };
        let inside = links::dump(&pod.netns)?;
        let interface =
            inside.links.iter().find(|link| link.ifindex == interface.ifindex).unwrap_or(interface);
        let mut routing = Routing::open(&pod.netns)?;
        // Without a source: that it takes this address is part of the answer.
        let question = RouteQuestion::to(self.question.addressed, None);
        let route = answer(&mut routing, &question, &inside);
        let neighbours = routing.neighbours()?;
        let next_hop =
            route.route().map(|route| next_hop(route, self.question.addressed, &neighbours, &inside));
        let device = device(&pod.netns, interface, &mut self.half.problems);
        self.half.pod = Some(PodSide {
            pod: format!("{}/{}", pod.pod.namespace, pod.pod.name),
            found: pod.evidence.clone(),
            device,
            route,
            next_hop,
        });
        self.half.device = pod.peer.and_then(|ifindex| self.device(ifindex));
        let bridge = self.half.device.as_ref().and_then(|device| device.master);
        self.half.bridge = bridge.and_then(|ifindex| self.device(ifindex));
        Ok(())
    }

    /// What the node does with what the pod sends to the target.
    fn look_out(&mut self) {
        let (own, target) = (self.question.own, self.question.target);
        // By the bridge, where the pod's device is a port of one: there packets enter the node's stack.
        let enters = self.half.bridge.as_ref().or(self.half.device.as_ref());
        let question = RouteQuestion {
            destination: target,
            source: Some(own),
            from_device: enters.map(|device| device.ifindex),
            mark: 0,
        };
        let route = answer(&mut self.routing, &question, &self.snapshot);
        let mut outgoing = Outgoing { route: Some(route.clone()), ..Outgoing::default() };
        let programs = self.half.device.as_ref();
        self.cni.read(self.question, programs, &mut self.half.entries, &mut self.half.problems);
        self.half.cni_drops = self.cni.drops();
        if let Some(route) = route.route().filter(|route| route.kind == "unicast") {
            outgoing.next_hop = Some(next_hop(route, target, &self.neighbours, &self.snapshot));
            outgoing.device = self.device(route.ifindex);
        }
        outgoing.tunnel = self.tunnel_of_cni(target).or_else(|| self.tunnel_of_route(&outgoing, target));
        self.half.outgoing = outgoing;
    }

    /// The tunnel that the CNI's programs put such packets into, as its own map says.
    fn tunnel_of_cni(&mut self, target: IpAddr) -> Option<TunnelHop> {
        let (remote, map, identifier) = self.cni.tunnel_to(target)?;
        let tunnels = self.snapshot.links.iter().filter(|link| self.cni.owns_device(&link.name));
        let ifindex = tunnels.map(|link| link.ifindex).next()?;
        let device = self.device(ifindex)?;
        Some(self.tunnel(device, Some(remote), map, identifier))
    }

    /// The tunnel that the route leads into.
    fn tunnel_of_route(&mut self, outgoing: &Outgoing, target: IpAddr) -> Option<TunnelHop> {
        let device = outgoing.device.clone()?;
        let kind = device.tunnel.clone()?;
        let identifier = kind.identifier;
        if let Some(remote) = kind.remote {
            return Some(self.tunnel(device, Some(remote), "device", identifier));
        }
        if device.kind == "wireguard" {
            return Some(self.tunnel_of_wireguard(device, target));
        }
        let hop = outgoing.next_hop.as_ref()?;
        if matches!(device.kind.as_str(), "ipip" | "sit" | "gre" | "ip6tnl") {
            // Without a far end of its own, the next hop is it (route `via NODE dev tunl0 onlink`).
            let remote = outgoing
                .route
                .as_ref()
                .and_then(Answer::route)
                .and_then(|route| route.gateway)
                .or(Some(target));
            return Some(self.tunnel(device, remote, "route", identifier));
        }
        let entry = self.fdb.iter().find(|entry| {
            entry.device == device.ifindex
                && !hop.mac.is_empty()
                && mac(&entry.mac) == hop.mac
                && entry.remote.is_some()
        });
        // Where no entry has the MAC, the one of all zeros takes everything.
        let default = || {
            self.fdb.iter().find(|entry| {
                entry.device == device.ifindex
                    && entry.mac.iter().all(|byte| *byte == 0)
                    && entry.remote.is_some()
            })
        };
        let remote = entry.or_else(default).and_then(|entry| entry.remote);
        Some(self.tunnel(device, remote, "bridge fdb", identifier))
    }

    /// By the peer that has the target's network.
    fn tunnel_of_wireguard(&mut self, device: Device, target: IpAddr) -> TunnelHop {
        let found = match wireguard::read(&self.netns, device.ifindex) {
            Ok(found) => found,
            Err(error) => {
                self.half.problems.push(format!("the peers of {} cannot be read: {error}", device.name));
                return self.tunnel(device, None, "route", None);
            }
        };
        match found.peer_for(target) {
            Some((peer, (network, bits))) => {
                let told_by = format!("wireguard peer {} with allowed ips {network}/{bits}", peer.public_key);
                self.marked_tunnel(device, peer.endpoint, &told_by, None, found.mark)
            }
            None => self.tunnel(device, None, "wireguard: no peer has its network", None),
        }
    }

    /// With the way of the tunnel's own packets.
    fn tunnel(
        &mut self,
        device: Device,
        remote: Option<IpAddr>,
        told_by: &str,
        identifier: Option<u32>,
    ) -> TunnelHop {
        self.marked_tunnel(device, remote, told_by, identifier, 0)
    }

    /// As [`Looker::tunnel`], where the tunnel's own packets have a mark, by which rules may choose their way.
    fn marked_tunnel(
        &mut self,
        device: Device,
        remote: Option<IpAddr>,
        told_by: &str,
        identifier: Option<u32>,
        mark: u32,
    ) -> TunnelHop {
        let mut hop = TunnelHop {
            device,
            remote,
            told_by: told_by.to_owned(),
            identifier,
            route: None,
            nic: None,
            next_hop: None,
        };
        let Some(remote) = remote else { return hop };
        let local = hop.device.tunnel.as_ref().and_then(|tunnel| tunnel.local);
        let question = RouteQuestion { mark, ..RouteQuestion::to(remote, local) };
        let route = answer(&mut self.routing, &question, &self.snapshot);
        if let Some(route) = route.route().filter(|route| route.kind == "unicast") {
            hop.next_hop = Some(next_hop(route, remote, &self.neighbours, &self.snapshot));
            hop.nic = self.device(route.ifindex);
        }
        hop.route = Some(route);
        hop
    }

    /// What the node does with what the target sends to the pod.
    fn look_in(&mut self) {
        let (own, target) = (self.question.own, self.question.target);
        let mut incoming = Incoming::default();
        let route = answer(&mut self.routing, &RouteQuestion::to(own, None), &self.snapshot);
        if let Some(route) = route.route().filter(|route| route.kind == "unicast") {
            let neighbour = next_hop(route, own, &self.neighbours, &self.snapshot);
            let port = self.fdb.iter().find(|entry| {
                entry.bridge == Some(route.ifindex)
                    && !neighbour.mac.is_empty()
                    && mac(&entry.mac) == neighbour.mac
            });
            incoming.bridge_port = port.map(|entry| self.name(entry.device));
            incoming.neighbour = Some(neighbour);
            incoming.device = self.device(route.ifindex);
        }
        incoming.route = Some(route);
        for ifindex in self.arrivals() {
            let Some(device) = self.device(ifindex) else { continue };
            let question =
                RouteQuestion { destination: own, source: Some(target), from_device: Some(ifindex), mark: 0 };
            let accepted = answer(&mut self.routing, &question, &self.snapshot);
            incoming.arrivals.push(Arrival { device, accepted });
        }
        self.half.incoming = incoming;
    }

    /// Tunnels, and the devices by which the node reaches others: how the other node sends, this one does not know.
    fn arrivals(&mut self) -> Vec<u32> {
        let outgoing = &self.half.outgoing;
        let of_way = [
            outgoing.tunnel.as_ref().map(|tunnel| tunnel.device.ifindex),
            outgoing.tunnel.as_ref().and_then(|tunnel| tunnel.nic.as_ref()).map(|nic| nic.ifindex),
            outgoing.device.as_ref().map(|device| device.ifindex),
        ];
        let tunnels =
            self.snapshot.links.iter().filter(|link| plan::is_tunnel(&link.kind)).map(|link| link.ifindex);
        let mut found: Vec<u32> = of_way.into_iter().flatten().chain(tunnels).collect();
        found.extend(&self.snapshot.default_route_devices);
        let own = [self.half.device.as_ref(), self.half.bridge.as_ref()];
        found.retain(|ifindex| !own.iter().flatten().any(|device| device.ifindex == *ifindex));
        let mut known = std::collections::BTreeSet::new();
        found.retain(|ifindex| known.insert(*ifindex));
        if let Some(more) = found.len().checked_sub(MOST_ARRIVALS).filter(|more| *more > 0) {
            self.half
                .problems
                .push(format!("{more} more devices by which packets may come are not looked at"));
        }
        found.truncate(MOST_ARRIVALS);
        found
    }

    fn look_at_services(&mut self) {
        if self.question.addressed == self.question.target && self.question.port.is_none() {
            return;
        }
        match settings::translators(&self.netns) {
            Ok(found) => {
                self.half.services = services::translations(self.question, &found, &self.cni);
                self.half.problems.extend(found.problems);
            }
            Err(error) => self.half.problems.push(format!("who translates Services cannot be read: {error}")),
        }
    }

    fn look_at_settings(&mut self) -> io::Result<()> {
        self.half.settings = settings::settings(&self.netns)?;
        Ok(())
    }

    /// A device of the node.
    fn device(&mut self, ifindex: u32) -> Option<Device> {
        let link = self.snapshot.links.iter().find(|link| link.ifindex == ifindex)?;
        Some(device(&self.netns, link, &mut self.half.problems))
    }

    fn name(&self, ifindex: u32) -> String {
        name(&self.snapshot, ifindex)
    }
}

fn name(snapshot: &Snapshot, ifindex: u32) -> String {
    let link = snapshot.links.iter().find(|link| link.ifindex == ifindex);
    link.map_or_else(|| format!("ifindex {ifindex}"), |link| link.name.to_string())
}

fn answer(routing: &mut Routing, question: &RouteQuestion, snapshot: &Snapshot) -> Answer {
    match routing.route(question) {
        Ok(answer) => {
            let ifindex = answer.device.unwrap_or_default();
            Answer::Route(Route {
                destination: Some(question.destination),
                kind: match answer.kind {
                    RouteKind::Unicast => "unicast".to_owned(),
                    RouteKind::Local => "local".to_owned(),
                    RouteKind::Other(kind) => other_kind(kind),
                },
                gateway: answer.gateway,
                device: name(snapshot, ifindex),
                ifindex,
                source: answer.source,
                table: table_name(answer.table),
                mtu: answer.mtu,
            })
        }
        Err(error) => Answer::Refused {
            why: refusal(&error, question),
            errno: error.raw_os_error().unwrap_or_default(),
        },
    }
}

/// `rtm_type` as `ip route` calls it.
fn other_kind(kind: u8) -> String {
    match kind {
        3 => "broadcast",
        5 => "multicast",
        6 => "blackhole",
        7 => "unreachable",
        8 => "prohibit",
        9 => "throw",
        other => return format!("type {other}"),
    }
    .to_owned()
}

fn refusal(error: &io::Error, question: &RouteQuestion) -> String {
    let to = question.destination;
    let from = question.source.map(|source| format!(" from {source}")).unwrap_or_default();
    match error.raw_os_error() {
        Some(libc::ENETUNREACH) => format!("no route to {to}{from}"),
        Some(libc::EHOSTUNREACH) => {
            format!("{to}{from} is unreachable, as a route or rule says, or forwarding is off")
        }
        Some(libc::EACCES) => format!("{to}{from} is prohibited by a route or rule"),
        Some(libc::EXDEV | libc::EINVAL) if question.from_device.is_some() => {
            format!(
                "packets to {to}{from} are refused on this device: the way back is another one (rp_filter), or such an \
                 address none may have"
            )
        }
        Some(libc::EINVAL) => {
            format!("packets to {to}{from} are thrown away (blackhole, or an address that none may have)")
        }
        _ => format!("no answer about {to}{from}: {error}"),
    }
}

/// Who gets the frames of a route.
fn next_hop(route: &Route, target: IpAddr, neighbours: &[NeighbourEntry], snapshot: &Snapshot) -> Neighbour {
    let address = route.gateway.unwrap_or(target);
    let entry = neighbours.iter().find(|entry| entry.device == route.ifindex && entry.address == address);
    let device = name(snapshot, route.ifindex);
    match entry {
        Some(entry) => Neighbour {
            address: Some(address),
            device,
            mac: if entry.state & USABLE != 0 { mac(&entry.mac) } else { String::new() },
            state: neighbour_state(entry.state).to_owned(),
        },
        None => Neighbour { address: Some(address), device, mac: String::new(), state: "absent".to_owned() },
    }
}

/// What a link is, with what is on it. What cannot be read is a problem.
fn device(netns: &Netns, link: &Link, problems: &mut Vec<String>) -> Device {
    let mut problem = |what: &str, error: &dyn std::fmt::Display| {
        problems.push(format!("{what} of {} cannot be read: {error}", link.name));
    };
    let details = tunnels::details(netns, link.ifindex).unwrap_or_else(|error| {
        problem("the details", &error);
        tunnels::Details::default()
    });
    let on_hooks = programs::of_device(netns, link.ifindex).unwrap_or_else(|error| {
        problem("the programs", &error);
        DevicePrograms::default()
    });
    let xdp = details.xdp.and_then(|id| match programs::of_id(id, Mechanism::Xdp) {
        Ok(program) => Some(self::program(&program)),
        Err(error) => {
            problem("the XDP program", &error);
            None
        }
    });
    let all = |programs: &[HookProgram]| programs.iter().map(program).collect();
    Device {
        ifindex: link.ifindex,
        name: link.name.to_string(),
        kind: link.kind.to_string(),
        mac: if link.has_ethernet_header { mac(&link.mac) } else { String::new() },
        mtu: link.mtu,
        up: link.up,
        peer: link.peer_ifindex.filter(|_| link.is_pair()),
        master: link.master,
        addresses: link.addresses.clone(),
        tunnel: details.tunnel,
        rp_filter: settings::reverse_path_filter(netns, &link.name).ok().flatten(),
        ingress: all(&on_hooks.ingress),
        egress: all(&on_hooks.egress),
        netkit_peer: all(&on_hooks.netkit_peer),
        xdp,
    }
}

fn program(on_hook: &HookProgram) -> Program {
    let (attached, priority, handle) = match on_hook.mechanism {
        Mechanism::Tcx => ("tcx", None, None),
        Mechanism::Clsact { priority, handle, .. } => ("clsact", Some(priority), Some(handle)),
        Mechanism::NetkitPrimary | Mechanism::NetkitPeer => ("netkit", None, None),
        Mechanism::Xdp => ("xdp", None, None),
    };
    let load = on_hook.load.clone().unwrap_or_default();
    let tag = on_hook.tag.map(|tag| tag.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let loaded_at = on_hook.loaded_at.and_then(|time| jiff::Timestamp::try_from(time).ok());
    Program {
        name: on_hook.name.clone(),
        id: on_hook.id,
        tag: tag.unwrap_or_default(),
        attached: attached.to_owned(),
        priority,
        handle,
        loaded_at: loaded_at.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default(),
        uid: load.user,
        gpl: load.gpl_compatible,
        xlated: load.translated_bytes,
        jited: load.machine_code_bytes,
        memlock: load.locked_bytes,
        map_ids: load.map_ids,
        btf_id: load.btf_id,
        ours: on_hook.is_ours(),
    }
}

/// As `ip link` prints it; empty for what has no Ethernet address.
pub(super) fn mac(bytes: &[u8]) -> String {
    if bytes.len() != 6 {
        return String::new();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
