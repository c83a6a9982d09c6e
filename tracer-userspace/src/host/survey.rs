//! Which network namespace of this machine is which node, which is which pod, and how that was found.
//!
//! A machine usually is one node: the namespace that has the node's InternalIP. Several nodes may also be namespaces
//! of one machine (a lab, kind without containers): then each is found by its own InternalIP. The annotation
//! `tracer.dev/netns: /run/netns/NAME` on a Node or Pod overrules every search.
//!
//! A pod's namespace is found by, in this order:
//! 1. the annotation;
//! 2. the pod's IP on a device in it;
//! 3. the cgroup of a process in it, which names the pod's UID (cgroup v1 and v2, systemd and cgroupfs drivers).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::links::{Link, Reader, Snapshot};
use super::netns::{self, Netns, NetnsId};
use crate::inventory::{Inventory, NETNS_ANNOTATION, NodeEntry, PodEntry};
use crate::trajectory::model::PodRef;

mod cgroup;
#[cfg(test)]
mod tests;

/// The place of this process's own namespace: the first that is found.
const OWN: usize = 0;
/// Most namespaces that a message about an ambiguity names.
const MOST_NAMED: usize = 3;

/// What a machine has of the inventory.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// By name.
    pub nodes: Vec<LocalNode>,
    /// By namespace and name.
    pub pods: Vec<LocalPod>,
    pub problems: Vec<Problem>,
}

/// A node that is this machine, or a namespace of it.
#[derive(Clone, Debug)]
pub struct LocalNode {
    pub name: Arc<str>,
    pub netns: Netns,
    pub snapshot: Snapshot,
    /// `status.addresses` of the Node.
    pub addresses: Vec<IpAddr>,
    /// How its namespace was found, as a clause: "holds the node's InternalIP 10.0.0.1 on eth0".
    pub evidence: String,
}

/// A pod whose namespace is on this machine.
#[derive(Clone, Debug)]
pub struct LocalPod {
    pub pod: Arc<PodRef>,
    pub node: Arc<str>,
    /// The node's for a pod with `hostNetwork`.
    pub netns: Netns,
    pub host_network: bool,
    /// The link that has the pod's address; `None` for a pod with `hostNetwork`.
    pub interface: Option<Link>,
    /// ifindex in the node's namespace of the interface's other end; `None` if it has none there.
    pub peer: Option<u32>,
    /// How its namespace was found, as a clause.
    pub evidence: String,
}

/// Something that could not be found, with the likely reason and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// What it is about; `None` for the machine as a whole.
    pub pod: Option<Arc<PodRef>>,
    pub node: Option<Arc<str>>,
    pub sentence: String,
}

/// What a [`Problem`] is, for those who choose which to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The node, or the pod's node, is another machine: normal in a cluster.
    Elsewhere,
    /// Should be here and is not.
    NotFound,
    /// More than one namespace fits.
    Ambiguous,
    /// Something may not be looked at.
    Denied,
}

impl Survey {
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&LocalNode> {
        self.nodes.iter().find(|node| &*node.name == name)
    }

    #[must_use]
    pub fn pod(&self, pod: &PodRef) -> Option<&LocalPod> {
        self.pods.iter().find(|local| *local.pod == *pod)
    }

    /// Addresses of the local nodes that their objects may not list (tunnel devices, bridges), for
    /// [`Inventory::add_node_address`]. Without what is no address of this node alone: loopback and link-local
    /// addresses, and dummy devices, on which IPVS and node-local DNS keep addresses of Services.
    pub fn node_addresses(&self) -> impl Iterator<Item = (&Arc<str>, IpAddr)> {
        self.nodes.iter().flat_map(|node| {
            let links = node.snapshot.links.iter().filter(|link| !link.loopback && &*link.kind != "dummy");
            links
                .flat_map(|link| &link.addresses)
                .filter(|address| is_global(**address))
                .map(|address| (&node.name, *address))
        })
    }

    /// Problems of one pod.
    pub fn problems_of(&self, pod: &PodRef) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(move |problem| problem.pod.as_deref() == Some(pod))
    }
}

/// A namespace with all that is needed to recognise it.
struct Space {
    netns: Netns,
    processes: Vec<u32>,
    reader: Reader,
    snapshot: Snapshot,
}

/// Looks over this machine for the nodes and pods of an inventory.
///
/// # Errors
/// /proc cannot be read, or no namespace at all can be entered (needs root or CAP_SYS_ADMIN).
pub fn survey(inventory: &Inventory) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut spaces = look_into_namespaces(&mut survey.problems)?;
    for node in inventory.nodes() {
        match find_node(node, &spaces) {
            Ok((place, evidence)) => survey.nodes.push(LocalNode {
                name: Arc::clone(&node.name),
                netns: spaces[place].netns.clone(),
                snapshot: spaces[place].snapshot.clone(),
                addresses: node.internal_addresses.iter().chain(&node.other_addresses).copied().collect(),
                evidence,
            }),
            Err((kind, sentence)) => survey.problems.push(Problem {
                kind,
                pod: None,
                node: Some(Arc::clone(&node.name)),
                sentence,
            }),
        }
    }
    survey.nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    if survey.nodes.is_empty() {
        survey.problems.push(no_node_here(inventory));
    }
    find_pods(inventory, &mut spaces, &mut survey);
    Ok(survey)
}

fn look_into_namespaces(problems: &mut Vec<Problem>) -> io::Result<Vec<Space>> {
    let (found, denied) = netns::discover()?;
    let machine = |sentence| Problem { kind: ProblemKind::Denied, pod: None, node: None, sentence };
    problems.extend(denied.into_iter().map(machine));
    let mut spaces = Vec::new();
    let mut first_error = None;
    for netns::Found { netns, processes } in found {
        let looked = Reader::open(&netns).and_then(|mut reader| {
            let snapshot = reader.dump()?;
            Ok((reader, snapshot))
        });
        match looked {
            Ok((reader, snapshot)) => spaces.push(Space { netns, processes, reader, snapshot }),
            Err(error) => {
                problems.push(machine(error.to_string()));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if spaces.is_empty() => Err(error),
        _ => Ok(spaces),
    }
}

/// Place of the node's namespace and the evidence.
fn find_node(node: &NodeEntry, spaces: &[Space]) -> Result<(usize, String), (ProblemKind, String)> {
    if let Some(path) = &node.netns {
        return by_annotation(&format!("node {}", node.name), path, spaces);
    }
    let holders = holders(spaces, &node.internal_addresses);
    match holders.as_slice() {
        [(place, link, address)] => {
            Ok((*place, format!("holds the node's InternalIP {address} on {}", link.name)))
        }
        [] => find_node_by_hostname(node, spaces),
        // An agent is in its node's namespace; another one that has the address as well is a leftover or a container's.
        [(OWN, link, address), others @ ..] => Ok((
            OWN,
            format!(
                "holds the node's InternalIP {address} on {}, and is the machine's own ({} more hold it)",
                link.name,
                others.len()
            ),
        )),
        _ => Err((
            ProblemKind::Ambiguous,
            format!(
                "node {}: its InternalIP is in {}; annotate the Node in the inventory with `{NETNS_ANNOTATION}: PATH`",
                node.name,
                name_spaces(&holders, spaces)
            ),
        )),
    }
}

/// A node whose InternalIP is on no device (translated by a cloud) still has its name.
fn find_node_by_hostname(
    node: &NodeEntry,
    spaces: &[Space],
) -> Result<(usize, String), (ProblemKind, String)> {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = hostname.trim();
    let names = [Some(&*node.name), node.hostname.as_deref()];
    if !hostname.is_empty() && names.contains(&Some(hostname)) && !spaces.is_empty() {
        return Ok((0, format!("the machine's hostname is the node's name, {hostname}")));
    }
    let addresses = join(&node.internal_addresses);
    let sentence = if addresses.is_empty() {
        format!(
            "node {} has no InternalIP in the inventory, so its network namespace cannot be recognised; annotate \
             the Node with `{NETNS_ANNOTATION}: PATH`",
            node.name
        )
    } else {
        format!(
            "node {} is not this machine: no network namespace here has its InternalIP {addresses}",
            node.name
        )
    };
    Err((ProblemKind::Elsewhere, sentence))
}

fn by_annotation(
    whose: &str,
    path: &Path,
    spaces: &[Space],
) -> Result<(usize, String), (ProblemKind, String)> {
    let advice = format!("correct or remove its annotation `{NETNS_ANNOTATION}` in the inventory");
    let netns = Netns::open(path).map_err(|error| {
        // A pod's annotation may also be meant for another machine, but then its node is not here.
        (ProblemKind::NotFound, format!("{whose}: {error}; {advice}"))
    })?;
    match spaces.iter().position(|space| space.netns == netns) {
        Some(place) => Ok((place, format!("annotation {NETNS_ANNOTATION}: {}", path.display()))),
        None => Err((
            ProblemKind::NotFound,
            format!("{whose}: {} appeared while the machine was looked over; run again", path.display()),
        )),
    }
}

fn no_node_here(inventory: &Inventory) -> Problem {
    let names: Vec<&str> = inventory.nodes().map(|node| &*node.name).take(MOST_NAMED).collect();
    Problem {
        kind: ProblemKind::NotFound,
        pod: None,
        node: None,
        sentence: format!(
            "this machine is none of the inventory's {} nodes ({}{}): run tracer on a node, with an inventory of the \
             cluster that the node is in, or annotate the Node with `{NETNS_ANNOTATION}: PATH`",
            inventory.nodes().count(),
            names.join(", "),
            if inventory.nodes().count() > MOST_NAMED { ", ..." } else { "" },
        ),
    }
}

fn find_pods(inventory: &Inventory, spaces: &mut [Space], survey: &mut Survey) {
    let node_spaces: BTreeSet<NetnsId> = survey.nodes.iter().map(|node| node.netns.id()).collect();
    // Read only when an address does not answer: it is a file per process.
    let mut by_uid: Option<HashMap<String, BTreeSet<usize>>> = None;
    let mut entries: Vec<&PodEntry> = inventory.pods().filter(|entry| !entry.is_finished()).collect();
    entries.sort_unstable_by(|one, other| one.pod.cmp(&other.pod));
    for entry in entries {
        let Some(node) = survey.nodes.iter().find(|node| node.name == entry.node) else {
            survey.problems.push(elsewhere(entry));
            continue;
        };
        if entry.host_network {
            survey.pods.push(LocalPod {
                pod: Arc::clone(&entry.pod),
                node: Arc::clone(&node.name),
                netns: node.netns.clone(),
                host_network: true,
                interface: None,
                peer: None,
                evidence: "hostNetwork: it uses its node's network namespace".to_owned(),
            });
            continue;
        }
        match find_pod(entry, spaces, &node_spaces, &mut by_uid) {
            Ok((place, evidence)) => {
                let local = describe_pod(entry, node, place, evidence, spaces, &mut survey.problems);
                survey.pods.push(local);
            }
            Err((kind, sentence)) => survey.problems.push(problem(kind, entry, sentence)),
        }
    }
}

fn problem(kind: ProblemKind, entry: &PodEntry, sentence: String) -> Problem {
    let node = (!entry.node.is_empty()).then(|| Arc::clone(&entry.node));
    Problem { kind, pod: Some(Arc::clone(&entry.pod)), node, sentence }
}

fn elsewhere(entry: &PodEntry) -> Problem {
    let name = pod_name(entry);
    if entry.node.is_empty() {
        let sentence =
            format!("pod {name} is not scheduled to a node yet ({}): nothing to observe", entry.phase);
        return problem(ProblemKind::NotFound, entry, sentence);
    }
    let sentence =
        format!("pod {name} is not on this machine: it runs on node {}, which is another one", entry.node);
    problem(ProblemKind::Elsewhere, entry, sentence)
}

/// Place of the pod's namespace and the evidence.
fn find_pod(
    entry: &PodEntry,
    spaces: &[Space],
    node_spaces: &BTreeSet<NetnsId>,
    by_uid: &mut Option<HashMap<String, BTreeSet<usize>>>,
) -> Result<(usize, String), (ProblemKind, String)> {
    let name = pod_name(entry);
    if let Some(path) = &entry.netns {
        return by_annotation(&format!("pod {name}"), path, spaces);
    }
    let is_node = |place: usize| node_spaces.contains(&spaces[place].netns.id());
    let mut holders = holders(spaces, &entry.addresses);
    holders.retain(|(place, ..)| !is_node(*place));
    if let [(place, link, address)] = holders.as_slice() {
        return Ok((*place, format!("has the pod's IP {address} on {}", link.name)));
    }
    let by_uid = by_uid.get_or_insert_with(|| pods_by_cgroup(spaces));
    let empty = BTreeSet::new();
    let named = by_uid.get(&entry.pod.uid).unwrap_or(&empty);
    let named: Vec<usize> = named.iter().copied().filter(|place| !is_node(*place)).collect();
    if !holders.is_empty() {
        // Several namespaces with the address: the cgroup decides, if it does.
        let both: Vec<_> = holders.iter().filter(|(place, ..)| named.contains(place)).collect();
        return match both.as_slice() {
            [(place, link, address)] => Ok((
                *place,
                format!(
                    "has the pod's IP {address} on {}, and a process with the pod's UID in its cgroup",
                    link.name
                ),
            )),
            _ => Err((
                ProblemKind::Ambiguous,
                format!(
                    "pod {name}: its IP is in {}; annotate the Pod in the inventory with `{NETNS_ANNOTATION}: PATH`",
                    name_spaces(&holders, spaces)
                ),
            )),
        };
    }
    match named.as_slice() {
        [place] => Ok((*place, "a process in it has the pod's UID in its cgroup".to_owned())),
        [] => Err((ProblemKind::NotFound, not_found(entry))),
        _ => Err((
            ProblemKind::Ambiguous,
            format!(
                "pod {name}: its processes are in {} network namespaces; annotate the Pod in the inventory with \
                 `{NETNS_ANNOTATION}: PATH`",
                named.len()
            ),
        )),
    }
}

fn not_found(entry: &PodEntry) -> String {
    let name = pod_name(entry);
    if entry.addresses.is_empty() {
        return format!(
            "pod {name} ({}) has no IP in the inventory, and no process here has its UID in its cgroup: it has not \
             started yet, or the inventory is old",
            entry.phase
        );
    }
    format!(
        "pod {name}: no network namespace of this machine has its IP {}: the inventory is older than the pod (make it \
         anew), or tracer may not see the host's namespaces (run it on the host, or with hostPID)",
        join(&entry.addresses)
    )
}

/// The interface of a pod whose namespace is known, and its other end.
fn describe_pod(
    entry: &PodEntry,
    node: &LocalNode,
    place: usize,
    evidence: String,
    spaces: &mut [Space],
    problems: &mut Vec<Problem>,
) -> LocalPod {
    let space = &mut spaces[place];
    let interface = space.snapshot.links.iter().find(|link| {
        !link.loopback && link.addresses.iter().any(|address| entry.addresses.contains(address))
    });
    let interface = interface.cloned();
    let name = pod_name(entry);
    let mut peer = None;
    match &interface {
        None => problems.push(problem(
            ProblemKind::NotFound,
            entry,
            format!(
                "pod {name}: its network namespace {} has no device with its IP {}: the inventory is older than the pod",
                space.netns.label(),
                join(&entry.addresses)
            ),
        )),
        Some(link) if link.is_pair() => {
            peer = find_peer(link, space, node);
            if peer.is_none() {
                problems.push(problem(
                    ProblemKind::NotFound,
                    entry,
                    format!(
                        "pod {name}: the other end of its {} {} is not in the network namespace of node {}, so it \
                         cannot be observed",
                        link.kind, link.name, node.name
                    ),
                ));
            }
        }
        // A macvlan, ipvlan or passed-through device has no other end.
        Some(_) => {}
    }
    LocalPod {
        pod: Arc::clone(&entry.pod),
        node: Arc::clone(&node.name),
        netns: space.netns.clone(),
        host_network: false,
        interface,
        peer,
        evidence,
    }
}

/// The other end of `link` in the node's namespace: both ends must name each other, by index and by namespace,
/// for an index alone is unique in its own namespace only.
fn find_peer(link: &Link, space: &mut Space, node: &LocalNode) -> Option<u32> {
    let index = link.peer_ifindex?;
    let peer = node.snapshot.links.iter().find(|candidate| candidate.ifindex == index)?;
    if peer.peer_ifindex != Some(link.ifindex) || peer.kind != link.kind {
        return None;
    }
    let number = space.reader.netns_id_of(&node.netns).ok().flatten();
    // Kernels that cannot say (before 4.9) leave only the indexes.
    let same = number.is_none() || link.peer_netns_id == number;
    same.then_some(index)
}

/// Which namespaces have one of the addresses: place, link and address, one for each namespace.
fn holders<'a>(spaces: &'a [Space], addresses: &[IpAddr]) -> Vec<(usize, &'a Link, IpAddr)> {
    let of_space = |(place, space): (usize, &'a Space)| {
        let mut links = space.snapshot.links.iter().filter(|link| !link.loopback);
        links.find_map(|link| {
            let address = link.addresses.iter().find(|address| addresses.contains(address))?;
            Some((place, link, *address))
        })
    };
    spaces.iter().enumerate().filter_map(of_space).collect()
}

/// Which namespaces have a process of which pod UID.
fn pods_by_cgroup(spaces: &[Space]) -> HashMap<String, BTreeSet<usize>> {
    let mut found: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for (place, space) in spaces.iter().enumerate() {
        for process in &space.processes {
            let Ok(text) = fs::read_to_string(format!("/proc/{process}/cgroup")) else { continue };
            if let Some(uid) = cgroup::pod_uid(&text) {
                found.entry(uid).or_default().insert(place);
            }
        }
    }
    found
}

fn name_spaces(holders: &[(usize, &Link, IpAddr)], spaces: &[Space]) -> String {
    let named: Vec<&str> =
        holders.iter().take(MOST_NAMED).map(|(place, ..)| spaces[*place].netns.label()).collect();
    format!(
        "{} network namespaces ({}{})",
        holders.len(),
        named.join(", "),
        if holders.len() > MOST_NAMED { ", ..." } else { "" }
    )
}

fn pod_name(entry: &PodEntry) -> String {
    format!("{}/{}", entry.pod.namespace, entry.pod.name)
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}
