//! Captures of other programs: packets are parsed as the kernel side does it. A file says little of where it was taken, so
//! the user does ([`Place`]); which way a packet passed a device the file may say, else its addresses and the inventory
//! do.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tracer_common::packet::{DEFAULT_VXLAN_PORTS, Headers, Link, ParseError, SliceReader};
use tracer_common::record::HopRecord;
use tracer_pcap::link::{Begins, NoPacket, unframe};
use tracer_pcap::read::{Interface, Packet as FilePacket, Way};

use super::read::Book;
use crate::agent::decode;
use crate::trajectory::model::{
    DeviceRole, Direction, Directory, ObservationPoint, Owner, Packet, PodRef, PointId, Sighting,
};

const TCP: u8 = 6;
/// Longest IP packet that is one on the wire, bytes; a longer one is several that were captured before they were cut or
/// after they were merged.
const LONGEST: u32 = 1500;
/// Least payload of a segment (RFC 9293, 3.7.1): how many there may be at most.
const LEAST_SEGMENT: u32 = 536;

/// A file, and where it was taken: `[NODE/[NAMESPACE/POD/][DEVICE]=]FILE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: Option<String>,
    pub pod: Option<(String, String)>,
    pub device: Option<String>,
    pub path: PathBuf,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_path = |path: &str| Self { path: path.into(), ..Self::default() };
        let Some((place, path)) = text.split_once('=') else { return Ok(of_path(text)) };
        if Path::new(text).exists() {
            return Ok(of_path(text));
        }
        let parts: Vec<&str> = place.split('/').collect();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (node, pod, device) = match *parts.as_slice() {
            [node] => (node, None, ""),
            [node, device] => (node, None, device),
            [node, namespace, pod, device] if !namespace.is_empty() && !pod.is_empty() => {
                (node, Some((namespace.to_owned(), pod.to_owned())), device)
            }
            _ => {
                return Err(format!(
                    "'{place}' is no place: it is NODE, NODE/DEVICE or NODE/NAMESPACE/POD/DEVICE"
                ));
            }
        };
        if node.is_empty() || path.is_empty() {
            return Err(format!("'{text}' has no node or no file"));
        }
        Ok(Self { node: some(node), pod, device: some(device), path: path.into() })
    }
}

/// Why a packet gives no sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    Other,
    Truncated,
    Malformed,
    UnknownLink,
    TooManyPoints,
}

/// Which of an interface's points: the device's index where the interface stands for several, and whose it is.
type Hook = (u32, Direction, Option<Arc<PodRef>>);

/// An interface of such a file.
#[derive(Debug)]
pub struct Foreign {
    link_type: u16,
    node: Arc<str>,
    /// Names the clock: files of one node share it.
    clock: String,
    pod: Option<(String, String)>,
    device: String,
    points: HashMap<Hook, Arc<ObservationPoint>>,
}

impl Foreign {
    #[must_use]
    pub fn new(interface: &Interface, index: usize, place: &Place) -> Self {
        let stem = place.path.file_stem().unwrap_or_default().to_string_lossy();
        let named = place.device.clone().or_else(|| interface.name.clone());
        Self {
            link_type: interface.link_type,
            node: place.node.clone().unwrap_or_else(|| stem.to_string()).into(),
            clock: place.node.clone().map_or_else(|| format!("file {place}"), |node| format!("node {node}")),
            pod: place.pod.clone(),
            device: named
                .unwrap_or_else(|| if index == 0 { stem.to_string() } else { format!("{stem}-{index}") }),
            points: HashMap::new(),
        }
    }

    /// The point, whether it is new, and the packet there.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn sighting<D: Directory>(
        &mut self,
        packet: &FilePacket,
        time_ns: u64,
        book: &mut Book,
        names: &D,
    ) -> Result<(Arc<ObservationPoint>, bool, Sighting), Unusable> {
        let framed = unframe(self.link_type, &packet.bytes).map_err(|why| match why {
            NoPacket::Truncated => Unusable::Truncated,
            NoPacket::NotIp => Unusable::Other,
            NoPacket::UnknownLink => Unusable::UnknownLink,
        })?;
        let length = packet.length.saturating_sub(framed.taken_off);
        let link = match framed.begins {
            Begins::WithEthernet => Link::Ethernet,
            Begins::WithIp => Link::None,
        };
        let record = describe(framed.bytes, length, link, time_ns).map_err(|error| match error {
            ParseError::NotIp => Unusable::Other,
            ParseError::Truncated => Unusable::Truncated,
            ParseError::Malformed | ParseError::TooDeep => Unusable::Malformed,
        })?;
        let seen = decode::packet(&record);
        let ifindex = framed.ifindex.unwrap_or(0);
        let role = self.role();
        let ends = Ends::of(&seen, &self.node, names, time_ns);
        let way = packet.way.or(framed.way);
        let direction = way.map_or_else(|| ends.direction(role, self.pod.as_ref()), direction_of);
        let pod = self.pod(role, direction, &ends);
        let key = (ifindex, direction, pod.clone());
        let (point, is_new) = match self.points.get(&key) {
            Some(point) => (Arc::clone(point), false),
            None => {
                let point = self.point(key.clone(), role, link, book).ok_or(Unusable::TooManyPoints)?;
                self.points.insert(key, Arc::clone(&point.0));
                point
            }
        };
        let sighting = Sighting { point: Arc::clone(&point), time_ns, follows: 1, packet: seen, frame: None };
        Ok((point, is_new, sighting))
    }

    fn point(
        &self,
        (ifindex, direction, pod): Hook,
        role: DeviceRole,
        link: Link,
        book: &mut Book,
    ) -> Option<(Arc<ObservationPoint>, bool)> {
        let clock = book.clock(&self.clock);
        // `tcpdump -i any`: one interface for all devices.
        let device = if ifindex == 0 { self.device.clone() } else { format!("{}-{ifindex}", self.device) };
        book.point(ObservationPoint {
            id: PointId(0),
            node: Arc::clone(&self.node),
            clock,
            pod,
            device: device.into(),
            kind: kind_of(&self.device).into(),
            ifindex,
            has_ethernet_header: link == Link::Ethernet,
            direction,
            role,
            bridge: None,
            foreign_programs: Vec::new(),
            hidden_by: None,
        })
    }

    /// By what CNIs and people call their devices.
    fn role(&self) -> DeviceRole {
        let device = self.device.as_str();
        let begins = |names: &[&str]| names.iter().any(|name| device.starts_with(name));
        if self.pod.is_some() && !begins(PEERS) {
            DeviceRole::PodInterface
        } else if begins(PEERS) {
            DeviceRole::PodPeer
        } else if !kind_of(device).is_empty() && kind_of(device) != "bridge" {
            DeviceRole::Tunnel
        } else if kind_of(device) == "bridge" {
            DeviceRole::Bridge
        } else {
            DeviceRole::Nic
        }
    }

    /// Whose device it is, as far as the user or the packet says it.
    fn pod(&self, role: DeviceRole, direction: Direction, ends: &Ends) -> Option<Arc<PodRef>> {
        if let Some((namespace, name)) = &self.pod {
            let known = [&ends.source, &ends.destination].into_iter().flatten();
            let same = known.into_iter().find(|pod| pod.namespace == *namespace && pod.name == *name);
            return Some(same.cloned().unwrap_or_else(|| {
                let (namespace, name) = (namespace.clone(), name.clone());
                Arc::new(PodRef { namespace, name, uid: String::new() })
            }));
        }
        if role != DeviceRole::PodPeer {
            return None;
        }
        match direction {
            Direction::Ingress => ends.source.clone(),
            Direction::Egress => ends.destination.clone(),
        }
    }
}

/// Beginnings of the names that CNIs give to the nodes' ends of pods' devices.
const PEERS: &[&str] = &["cali", "lxc", "veth", "azv", "eni", "gke", "nk"];

/// The kernel's link kind, by the device's name.
fn kind_of(device: &str) -> &'static str {
    let begins = |names: &[&str]| names.iter().any(|name| device.starts_with(name));
    match () {
        () if begins(PEERS) => "veth",
        () if begins(&["vxlan", "flannel", "cilium_vxlan"]) => "vxlan",
        () if begins(&["geneve", "cilium_geneve", "genev_sys"]) => "geneve",
        () if begins(&["tunl"]) => "ipip",
        () if begins(&["wg", "wireguard", "cilium_wg"]) => "wireguard",
        () if begins(&["gre"]) => "gre",
        () if begins(&["cni", "docker", "br-", "virbr"]) || device == "br0" => "bridge",
        () => "",
    }
}

/// Which pods of the capture's node a packet is between.
struct Ends {
    source: Option<Arc<PodRef>>,
    destination: Option<Arc<PodRef>>,
    from_here: bool,
    to_here: bool,
}

impl Ends {
    fn of<D: Directory>(packet: &Packet, node: &str, names: &D, at_ns: u64) -> Self {
        let look = |address: IpAddr| match names.owner(address, at_ns) {
            Owner::Pod { pod, node: of_pod } => (&*of_pod == node, (&*of_pod == node).then_some(pod)),
            Owner::Node(name) => (&*name == node, None),
            Owner::Service(_) | Owner::Unknown => (false, None),
        };
        let (mut from_here, source) = look(packet.source);
        let (mut to_here, destination) = look(packet.destination);
        // Where the inner addresses do not tell the node, those of the tunnel do.
        if from_here == to_here
            && let Some(outer) = packet.encapsulation.first()
        {
            (from_here, to_here) = (look(outer.source).0, look(outer.destination).0);
        }
        Self { source, destination, from_here, to_here }
    }

    fn direction(&self, role: DeviceRole, pod: Option<&(String, String)>) -> Direction {
        let is_pods = |end: &Option<Arc<PodRef>>| match (end, pod) {
            (Some(end), Some((namespace, name))) => end.namespace == *namespace && end.name == *name,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let leaves = match role {
            DeviceRole::PodInterface | DeviceRole::PodPeer => is_pods(&self.source),
            _ => self.from_here && !self.to_here,
        };
        // The node's end of a pair, and a bridge, receive what a pod sends.
        match (role, leaves) {
            (DeviceRole::PodPeer | DeviceRole::Bridge, true) => Direction::Ingress,
            (DeviceRole::PodPeer | DeviceRole::Bridge, false) => Direction::Egress,
            (_, true) => Direction::Egress,
            (_, false) => Direction::Ingress,
        }
    }
}

const fn direction_of(way: Way) -> Direction {
    match way {
        Way::In => Direction::Ingress,
        Way::Out => Direction::Egress,
    }
}

fn describe(bytes: &[u8], length: u32, link: Link, time_ns: u64) -> Result<HopRecord, ParseError> {
    let reader = SliceReader::with_length(bytes, length);
    let mut headers = Headers::default();
    headers.parse(&reader, link, &DEFAULT_VXLAN_PORTS)?;
    let mut record = HopRecord { time_ns, length, follows: 1, ..HopRecord::default() };
    headers.describe(&reader, &mut record)?;
    if record.protocol == TCP && headers.end.saturating_sub(headers.network) > LONGEST {
        // How many it stands for is not in a capture; as many as it can be.
        record.gso_segments =
            u16::try_from(record.payload_length.div_ceil(LEAST_SEGMENT)).unwrap_or(u16::MAX);
    }
    Ok(record)
}
