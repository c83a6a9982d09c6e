//! Which maps of CNI plugins are this node's, and what they have of the addresses of a question.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use super::facts::{CniDrop, Device, Entry, EntryKind, Question};
use super::look::mac;
use crate::cni::{Layout, calico, cilium, unknown_layout};
use crate::host::maps::{self, Map, MapAbout};

/// Entries that are read of a map that cannot be asked for one.
const MOST_ENTRIES: usize = 16_384;
/// Backends of a Service that are told.
pub(super) const MOST_BACKENDS: u16 = 64;

/// The maps of this machine that are known, and what was read of them.
pub(super) struct Cni {
    maps: Vec<MapAbout>,
    /// The node has Cilium's devices.
    is_ciliums: bool,
    /// Those that are this node's, by the name of their layout.
    chosen: BTreeMap<&'static str, MapAbout>,
    /// What the ipcache has of an address.
    ipcache: BTreeMap<IpAddr, cilium::IpcacheEntry>,
    routes: BTreeMap<IpAddr, calico::Route>,
}

impl Cni {
    /// Lists the maps of the machine.
    pub(super) fn find(is_ciliums: bool, problems: &mut Vec<String>) -> Self {
        let maps = maps::list().unwrap_or_else(|error| {
            problems.push(format!("BPF maps cannot be listed (needs CAP_SYS_ADMIN): {error}"));
            Vec::new()
        });
        if maps.len() == maps::MOST_MAPS {
            problems
                .push(format!("of the machine's BPF maps only the first {} were looked at", maps::MOST_MAPS));
        }
        Self { maps, is_ciliums, chosen: BTreeMap::new(), ipcache: BTreeMap::new(), routes: BTreeMap::new() }
    }

    /// Reads what there is about the addresses of the question. The programs on the pod's device tell whose maps are whose
    /// where several nodes are on one machine.
    pub(super) fn read(
        &mut self,
        question: &Question,
        device: Option<&Device>,
        entries: &mut Vec<Entry>,
        problems: &mut Vec<String>,
    ) {
        self.choose(device, problems);
        let mut addresses = vec![question.own, question.target];
        addresses.dedup();
        for address in addresses {
            entries.extend(self.endpoint(address));
            entries.extend(self.of_ipcache(address));
            entries.extend(self.of_calico(address));
        }
        entries.extend(self.connections(question));
    }

    /// The node that the target is behind, the map that says so, and the VNI that packets to there have.
    pub(super) fn tunnel_to(&self, target: IpAddr) -> Option<(IpAddr, &'static str, Option<u32>)> {
        if let Some(entry) = self.ipcache.get(&target)
            && let Some(remote) = entry.tunnel_endpoint.filter(|_| !entry.skips_tunnel)
        {
            // Cilium's VNI is the sender's identity.
            let own = self.ipcache.iter().find(|(address, _)| **address != target);
            return Some((remote, "cilium_ipcache", own.map(|(_, entry)| entry.identity)));
        }
        match self.routes.get(&target)? {
            calico::Route { flags, next: calico::NextHop::Node(node) } if flags & calico::TUNNELED != 0 => {
                Some((IpAddr::V4(*node), calico::ROUTES.name, None))
            }
            _ => None,
        }
    }

    /// Whether a device is the tunnel of the CNI whose maps these are.
    pub(super) fn owns_device(&self, name: &str) -> bool {
        match name {
            "cilium_vxlan" | "cilium_geneve" => !self.ipcache.is_empty(),
            "vxlan.calico" => !self.routes.is_empty(),
            _ => false,
        }
    }

    /// Packets that Cilium's programs have thrown away, most first.
    pub(super) fn drops(&self) -> Vec<CniDrop> {
        let Some(map) = self.open(&cilium::METRICS) else { return Vec::new() };
        let entries = map.entries(MOST_ENTRIES).unwrap_or_default();
        let mut counted = BTreeMap::<(u8, u8), u64>::new();
        for metric in entries.iter().filter_map(|(key, value)| cilium::Metric::decode(key, value)) {
            if metric.is_drop() && metric.packets > 0 {
                *counted.entry((metric.reason, metric.direction)).or_default() += metric.packets;
            }
        }
        let mut drops: Vec<CniDrop> = counted
            .into_iter()
            .map(|((reason, direction), packets)| CniDrop {
                reason: cilium::drop_reason(reason),
                direction: if direction == 1 { "ingress" } else { "egress" }.to_owned(),
                packets,
            })
            .collect();
        drops.sort_unstable_by_key(|drop| std::cmp::Reverse(drop.packets));
        drops
    }

    /// To whom Cilium's maps lead a Service.
    pub(super) fn cilium_service(&self, service: SocketAddrV4, protocol: u8) -> Option<Vec<SocketAddr>> {
        let (services, backends) = (self.open(&cilium::SERVICES)?, self.open(&cilium::BACKENDS)?);
        // Older versions have one entry for all protocols.
        let (head, protocol) = [protocol, 0].into_iter().find_map(|protocol| {
            let value = services.get(&cilium::service_key(service, 0, protocol)).ok()??;
            Some((cilium::ServiceEntry::decode(&value)?, protocol))
        })?;
        let mut found = Vec::new();
        for slot in 1..=head.count.min(MOST_BACKENDS) {
            let value = services.get(&cilium::service_key(service, slot, protocol)).ok().flatten();
            let entry = value.and_then(|value| cilium::ServiceEntry::decode(&value));
            let value = entry.and_then(|entry| backends.get(&entry.backend.to_le_bytes()).ok().flatten());
            found.extend(value.and_then(|value| cilium::backend(&value)).map(SocketAddr::V4));
        }
        Some(found)
    }

    /// To whom Calico's maps lead a Service.
    pub(super) fn calico_service(
        &self,
        service: SocketAddrV4,
        protocol: u8,
        client: IpAddr,
    ) -> Option<Vec<SocketAddr>> {
        let IpAddr::V4(client) = client else { return None };
        let (frontends, backends) = (self.open(&calico::FRONTENDS)?, self.open(&calico::BACKENDS)?);
        let value = frontends.get(&calico::frontend_key(service, protocol, client)).ok()??;
        let frontend = calico::Frontend::decode(&value)?;
        let mut found = Vec::new();
        for number in 0..frontend.count.min(u32::from(MOST_BACKENDS)) {
            let value = backends.get(&calico::backend_key(frontend, number)).ok().flatten();
            found.extend(value.and_then(|value| calico::backend(&value)).map(SocketAddr::V4));
        }
        Some(found)
    }

    /// The maps of the programs that are on the device; else those that there is one of.
    fn choose(&mut self, device: Option<&Device>, problems: &mut Vec<String>) {
        let used: Vec<u32> = device
            .into_iter()
            .flat_map(Device::programs)
            .flat_map(|program| program.map_ids.iter().copied())
            .collect();
        // Maps are the machine's; those of a CNI that this node does not have are another node's.
        let is_calicos =
            device.into_iter().flat_map(Device::programs).any(|program| program.name.starts_with("cali_"));
        let is_here = |name: &str| if name.starts_with("cilium_") { self.is_ciliums } else { is_calicos };
        problems.extend(self.maps.iter().filter(|about| is_here(&about.name)).filter_map(unknown_layout));
        for layout in cilium::LAYOUTS.iter().chain(calico::LAYOUTS).filter(|layout| is_here(layout.name)) {
            let candidates: Vec<&MapAbout> = self.maps.iter().filter(|about| layout.is_of(about)).collect();
            let of_programs = candidates.iter().find(|about| used.contains(&about.id));
            match (of_programs, &candidates[..]) {
                (Some(about), _) | (None, [about]) => drop(self.chosen.insert(layout.name, (*about).clone())),
                (None, []) => {}
                (None, several) => {
                    let ids: Vec<_> = several.iter().map(|about| about.id.to_string()).collect();
                    problems.push(format!(
                        "{} maps of this machine are called {} (ids {}), and no program on the pod's device uses one of \
                         them: they are not read",
                        several.len(),
                        layout.name,
                        ids.join(", ")
                    ));
                }
            }
        }
    }

    fn open(&self, layout: &Layout) -> Option<Map> {
        Map::open(self.chosen.get(layout.name)?.id).ok()
    }

    fn endpoint(&self, address: IpAddr) -> Option<Entry> {
        let map = self.open(&cilium::ENDPOINTS)?;
        let value = map.get(&cilium::endpoint_key(address)).ok()??;
        let endpoint = cilium::Endpoint::decode(address, &value)?;
        let (text, what) = (
            endpoint.to_string(),
            EntryKind::Endpoint {
                address,
                ifindex: endpoint.ifindex,
                mac: mac(&endpoint.mac),
                node_mac: mac(&endpoint.node_mac),
            },
        );
        Some(entry(&map, text, what))
    }

    fn of_ipcache(&mut self, address: IpAddr) -> Option<Entry> {
        let (map, is_second) = match self.open(&cilium::IPCACHE_V2) {
            Some(map) => (map, true),
            None => (self.open(&cilium::IPCACHE)?, false),
        };
        let value = map.get(&cilium::ipcache_key(address)).ok()??;
        let found = if is_second {
            cilium::IpcacheEntry::decode_v2(&value)?
        } else {
            cilium::IpcacheEntry::decode(&value)?
        };
        // A lookup does not tell how long the prefix is that has answered.
        let entries = map.entries(MOST_ENTRIES).unwrap_or_default();
        let prefix = entries.iter().filter_map(|(key, _)| cilium::ipcache_prefix(key, address)).max();
        let text = found.shown(address, prefix.filter(|_| entries.len() < MOST_ENTRIES));
        let what = EntryKind::Behind { address, node: found.tunnel_endpoint };
        self.ipcache.insert(address, found);
        Some(entry(&map, text, what))
    }

    fn of_calico(&mut self, address: IpAddr) -> Option<Entry> {
        let IpAddr::V4(ipv4) = address else { return None };
        let map = self.open(&calico::ROUTES)?;
        let route = calico::Route::decode(&map.get(&calico::route_key(ipv4)).ok()??)?;
        self.routes.insert(address, route);
        let device = match route.next {
            calico::NextHop::Device(ifindex) => self.interface(ifindex).map(|name| format!(" ({name})")),
            _ => None,
        };
        let text = format!("{address} {route}{}", device.unwrap_or_default());
        let what = match route.next {
            calico::NextHop::Node(node) => EntryKind::Behind { address, node: Some(node.into()) },
            calico::NextHop::Device(_) => EntryKind::Behind { address, node: None },
            calico::NextHop::Nowhere => return None,
        };
        Some(entry(&map, text, what))
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        let map = self.open(&calico::INTERFACES).or_else(|| self.open(&calico::INTERFACES_2))?;
        calico::interface_name(&map.get(&ifindex.to_le_bytes()).ok()??)
    }

    /// Calico's connections between the two.
    fn connections(&self, question: &Question) -> Option<Entry> {
        let map = self.open(&calico::CONNECTIONS_4).or_else(|| self.open(&calico::CONNECTIONS_3))?;
        let between = |key: &[u8]| {
            calico::connection(key).is_some_and(|(_, one, other)| {
                let ends = [IpAddr::V4(*one.ip()), IpAddr::V4(*other.ip())];
                ends.contains(&question.own) && ends.contains(&question.target)
            })
        };
        let entries = map.entries(MOST_ENTRIES).ok()?;
        let count = entries.iter().filter(|(key, _)| between(key)).count();
        let at_least = if entries.len() == MOST_ENTRIES { "at least " } else { "" };
        let text = format!("{at_least}{count} connections between {} and {}", question.own, question.target);
        Some(entry(&map, text, EntryKind::Other))
    }
}

fn entry(map: &Map, text: String, what: EntryKind) -> Entry {
    let about = map.about();
    Entry { map: about.name.clone(), id: about.id, text, what }
}
