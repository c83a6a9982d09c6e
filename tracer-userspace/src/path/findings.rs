//! What looks wrong on a way, with what says so. Pure. Each rule is a function; a rule that finds nothing says nothing.

use std::net::IpAddr;

use serde::Serialize;

use super::facts::{Answer, Arrival, Device, EntryKind, Half, Neighbour, Program};
use super::ways::{End, Path, arrival};
use crate::inventory::Inventory;

/// How full connection tracking may be, in percent, before it is said.
const CONNTRACK_FULL: u64 = 90;

/// Of `rp_filter`.
const STRICT: u8 = 1;

/// Something an expert would point at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Stable, for machines: "no-route", "neighbour-failed", ...
    pub rule: &'static str,
    pub node: Option<String>,
    pub text: String,
    pub evidence: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Packets will be lost.
    Problem,
    /// They may be.
    Warning,
}

/// Everything that looks wrong, problems first.
#[must_use]
pub fn findings(path: &Path, inventory: &Inventory) -> Vec<Finding> {
    let mut found = Vec::new();
    for half in path.halves() {
        let (own, other) = ends_of(path, half);
        found.extend(routes(half, own, other));
        found.extend(neighbours(half));
        found.extend(devices(half));
        found.extend(hiding_programs(half));
        found.extend(forwarding(half, own, other));
        found.extend(reverse_path(half, other_half(path, half), other));
        found.extend(tunnel_end(half, inventory, other));
        found.extend(stale_entries(half, inventory));
        found.extend(connection_tracking(half));
    }
    found.extend(mtu(path));
    found.extend(endpoints(path));
    found.sort_by_key(|finding| finding.level);
    found
}

/// Whose half it is, and who is at the other end.
fn ends_of<'a>(path: &'a Path, half: &Half) -> (&'a End, &'a End) {
    let is_near = path.near.as_ref().is_some_and(|near| std::ptr::eq(near, half));
    if is_near { (&path.from, &path.to) } else { (&path.to, &path.from) }
}

fn other_half<'a>(path: &'a Path, half: &Half) -> Option<&'a Half> {
    let is_near = path.near.as_ref().is_some_and(|near| std::ptr::eq(near, half));
    if is_near { path.far.as_ref() } else { path.near.as_ref() }
}

fn problem(rule: &'static str, half: &Half, text: String, evidence: Vec<String>) -> Finding {
    Finding { level: Level::Problem, rule, node: Some(half.node.clone()), text, evidence }
}

fn warning(rule: &'static str, half: &Half, text: String, evidence: Vec<String>) -> Finding {
    Finding { level: Level::Warning, ..problem(rule, half, text, evidence) }
}

fn name(end: &End) -> String {
    end.pod.clone().unwrap_or_else(|| end.ip.to_string())
}

/// No route, or one that throws away.
fn routes(half: &Half, own: &End, other: &End) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut check = |whose: String, answer: &Answer| {
        let text = match answer {
            Answer::Refused { errno, .. } if *errno == libc::EXDEV => return,
            // That is what a node says that does not forward; it is said below.
            Answer::Refused { errno, .. } if *errno == libc::EHOSTUNREACH && !forwards(half, other) => return,
            Answer::Refused { why, .. } => format!("{whose} has {why}"),
            Answer::Route(route) if !matches!(route.kind.as_str(), "unicast" | "local") => {
                format!(
                    "{whose} throws packets to {} away: its route is of the type {}",
                    name(other),
                    route.kind
                )
            }
            Answer::Route(_) => return,
        };
        found.push(problem("no-route", half, text, vec![answer.to_string()]));
    };
    if let Some(pod) = &half.pod {
        check(format!("pod {}", pod.pod), &pod.route);
    }
    // Where a program of the CNI redirects, the node's own route is not asked.
    if half.outgoing.tunnel.as_ref().is_none_or(|tunnel| !is_by_map(&tunnel.told_by)) {
        half.outgoing.route.iter().for_each(|answer| check(format!("node {}", half.node), answer));
    }
    if let Some(answer @ Answer::Refused { why, .. }) = half.incoming.route.as_ref() {
        let text = format!("node {} has no way to {}: {why}", half.node, name(own));
        found.push(problem("no-route", half, text, vec![answer.to_string()]));
    }
    if let Some(route) = half.outgoing.tunnel.as_ref().and_then(|tunnel| tunnel.route.as_ref())
        && let Answer::Refused { why, .. } = route
    {
        let text = format!("node {} has no way for the tunnel's own packets: {why}", half.node);
        found.push(problem("no-route", half, text, vec![route.to_string()]));
    }
    found
}

fn is_by_map(told_by: &str) -> bool {
    told_by.starts_with("cilium_") || told_by.starts_with("cali_")
}

/// Next hops that did not answer.
fn neighbours(half: &Half) -> Vec<Finding> {
    let hops: [(&str, Option<&Neighbour>); 4] = [
        ("the pod's next hop", half.pod.as_ref().and_then(|pod| pod.next_hop.as_ref())),
        ("the node's next hop", half.outgoing.next_hop.as_ref()),
        (
            "the next hop of the tunnel's packets",
            half.outgoing.tunnel.as_ref().and_then(|tunnel| tunnel.next_hop.as_ref()),
        ),
        ("the pod", half.incoming.neighbour.as_ref()),
    ];
    let failed =
        hops.into_iter().filter_map(|(what, hop)| Some((what, hop.filter(|hop| is_unresolved(hop))?)));
    failed
        .map(|(what, hop)| {
            let address = hop.address.map(|address| address.to_string()).unwrap_or_default();
            let text = format!(
                "{what} {address} does not answer on {} (neighbour {}): it is down, has another address, or ARP or NDP is \
                 blocked on the way",
                hop.device, hop.state
            );
            problem("neighbour-failed", half, text, vec![format!("{address} dev {} {}", hop.device, hop.state)])
        })
        .collect()
}

fn is_unresolved(hop: &Neighbour) -> bool {
    hop.state == "FAILED" || hop.state == "INCOMPLETE"
}

/// All devices of a half, each once.
fn devices_of(half: &Half) -> Vec<(&Device, Option<&str>)> {
    let pod = half.pod.as_ref();
    let tunnel = half.outgoing.tunnel.as_ref();
    let of_node = [
        half.device.as_ref(),
        half.bridge.as_ref(),
        tunnel.map(|tunnel| &tunnel.device),
        tunnel.and_then(|tunnel| tunnel.nic.as_ref()),
        half.outgoing.device.as_ref().filter(|_| tunnel.is_none()),
        half.incoming.device.as_ref(),
    ];
    let mut found: Vec<(&Device, Option<&str>)> = Vec::new();
    found.extend(pod.map(|pod| (&pod.device, Some(pod.pod.as_str()))));
    for device in of_node.into_iter().flatten() {
        if !found.iter().any(|(known, pod)| pod.is_none() && known.ifindex == device.ifindex) {
            found.push((device, None));
        }
    }
    found
}

fn devices(half: &Half) -> Vec<Finding> {
    let down = devices_of(half).into_iter().filter(|(device, _)| !device.up);
    down.map(|(device, pod)| {
        let place = pod.map_or_else(|| format!("node {}", half.node), |pod| format!("pod {pod}"));
        let text = format!("{} of {place} is down", device.name);
        let evidence = format!("{}: {} state DOWN", device.ifindex, device.name);
        problem("device-down", half, text, vec![evidence])
    })
    .collect()
}

/// Programs that end the running order of a hook, so that those behind them never run.
fn hiding_programs(half: &Half) -> Vec<Finding> {
    let mut found = Vec::new();
    for (device, _) in devices_of(half) {
        for (hook, programs) in [("ingress", &device.ingress), ("egress", &device.egress)] {
            let Some(place) = programs.iter().position(|program| !program.ours && decides_always(program))
            else {
                continue;
            };
            let behind = &programs[place + 1..];
            if behind.is_empty() {
                continue;
            }
            let first = &programs[place];
            let names: Vec<_> = behind.iter().map(|program| program.name.as_str()).collect();
            let evidence =
                programs.iter().map(|program| format!("{} {hook}: {}", program.attached, program.name));
            let (rule, text) = if first.attached == "tcx"
                && behind.iter().all(|program| program.attached == "clsact")
            {
                (
                    "legacy-behind-tcx",
                    format!(
                        "on {} {hook} the legacy filter {} never runs: {} before it is attached by TCX and never says \"next\"",
                        device.name,
                        names.join(", "),
                        first.name
                    ),
                )
            } else {
                (
                    "hidden-programs",
                    format!(
                        "on {} {hook} {} hides packets from what runs behind it: {}",
                        device.name,
                        first.name,
                        names.join(", ")
                    ),
                )
            };
            found.push(warning(rule, half, text, evidence.collect()));
        }
    }
    found
}

/// Cilium's programs decide about every packet that they handle (`bpf/include/bpf/ctx/skb.h`).
fn decides_always(program: &Program) -> bool {
    program.name.starts_with("cil_")
}

/// Whether the node forwards at all.
fn forwarding(half: &Half, own: &End, other: &End) -> Option<Finding> {
    half.pod.as_ref()?;
    if forwards(half, other) {
        return None;
    }
    let sysctl = match other.ip {
        IpAddr::V4(_) => "net.ipv4.ip_forward",
        IpAddr::V6(_) => "net.ipv6.conf.all.forwarding",
    };
    let text = format!("node {} does not forward packets of {}: {sysctl} is off", half.node, name(own));
    let finding = problem("forwarding-off", half, text, vec![format!("{sysctl} = 0")]);
    // Programs that redirect do without it.
    let is_redirected = half.outgoing.tunnel.as_ref().is_some_and(|tunnel| is_by_map(&tunnel.told_by));
    Some(if is_redirected { Finding { level: Level::Warning, ..finding } } else { finding })
}

/// Not known counts as yes.
fn forwards(half: &Half, other: &End) -> bool {
    match other.ip {
        IpAddr::V4(_) => half.settings.forwards_ipv4 != Some(false),
        IpAddr::V6(_) => half.settings.forwards_ipv6 != Some(false),
    }
}

/// Strict checks of where packets come from.
fn reverse_path(half: &Half, sender: Option<&Half>, other: &End) -> Option<Finding> {
    if sender.is_some_and(|sender| sender.node == half.node) {
        return None;
    }
    let Arrival { device: from, accepted } = arrival(half, sender).0?;
    let Answer::Refused { why, errno } = accepted else { return None };
    let back = half.outgoing.route.as_ref().and_then(Answer::route);
    let is_asymmetric = back.is_some_and(|route| route.ifindex != from.ifindex);
    // Asked by netlink, the kernel gives a strict check's refusal one number or the other.
    let is_refused = matches!(*errno, libc::EXDEV | libc::EINVAL);
    if !(is_refused && is_asymmetric && from.rp_filter == Some(STRICT)) {
        return None;
    }
    let text = format!(
        "node {} throws away what {} sends by {}: rp_filter is strict there, and the way back is another one",
        half.node,
        name(other),
        from.name
    );
    let setting = from.rp_filter.map(|value| format!("rp_filter of {} = {value}", from.name));
    Some(problem("rp-filter", half, text, [Some(why.clone()), setting].into_iter().flatten().collect()))
}

/// Where the tunnel ends: at the node that the other end is on.
fn tunnel_end(half: &Half, inventory: &Inventory, other: &End) -> Option<Finding> {
    let tunnel = half.outgoing.tunnel.as_ref()?;
    let Some(remote) = tunnel.remote else {
        // Its peers could not be read.
        if tunnel.device.kind == "wireguard" && tunnel.told_by == "route" {
            return None;
        }
        let text = format!(
            "{} of node {} does not know behind which node {} is ({})",
            tunnel.device.name,
            half.node,
            name(other),
            tunnel.told_by
        );
        return Some(problem("tunnel-end-unknown", half, text, Vec::new()));
    };
    let holder = inventory.nodes().find(|node| inventory.node_addresses(&node.name).contains(&remote));
    let evidence = vec![format!("{}: far end {remote}", tunnel.told_by)];
    match (holder, other.node.as_deref()) {
        (None, _) => {
            let text = format!(
                "the tunnel of node {} to {} ends at {remote}, which is no node of the cluster",
                half.node,
                name(other)
            );
            Some(problem("tunnel-end-no-node", half, text, evidence))
        }
        // Told by the CNI's map with its own words below.
        (Some(holder), Some(node)) if *holder.name != *node && !is_by_map(&tunnel.told_by) => {
            let text = format!(
                "the tunnel of node {} to {} ends at {remote}, which is node {}; the pod is on {node}",
                half.node,
                name(other),
                holder.name
            );
            Some(problem("tunnel-end-wrong", half, text, evidence))
        }
        _ => None,
    }
}

/// Entries of the CNI's maps that are about who had an address before.
fn stale_entries(half: &Half, inventory: &Inventory) -> Vec<Finding> {
    let mut found = Vec::new();
    for entry in &half.entries {
        let text = match &entry.what {
            EntryKind::Behind { address, node } => {
                let Some(pod) = inventory.pod_at(*address) else { continue };
                let is_its = match node {
                    Some(node) => inventory.node_addresses(&pod.node).contains(node),
                    // Here.
                    None => *pod.node == *half.node,
                };
                if is_its {
                    continue;
                }
                let behind = node.map_or_else(|| "on this node".to_owned(), |node| format!("behind {node}"));
                format!(
                    "{} of node {} has {address} {behind}, but it is pod {}/{} on {}: the entry is of an earlier pod",
                    entry.map, half.node, pod.pod.namespace, pod.pod.name, pod.node
                )
            }
            EntryKind::Endpoint { address, ifindex, mac, node_mac } => {
                let Some(device) = half.device.as_ref().filter(|_| is_own(half, *address)) else { continue };
                let pod = half.pod.as_ref().map(|pod| pod.device.mac.as_str()).unwrap_or_default();
                if (*ifindex, node_mac.as_str(), mac.as_str()) == (device.ifindex, device.mac.as_str(), pod) {
                    continue;
                }
                format!(
                    "{} of node {} has another device for {address} than the pod's: the entry is of an earlier pod",
                    entry.map, half.node
                )
            }
            EntryKind::Other => continue,
        };
        found.push(problem("stale-entry", half, text, vec![format!("{}: {}", entry.map, entry.text)]));
    }
    found
}

fn is_own(half: &Half, address: IpAddr) -> bool {
    half.pod.as_ref().is_some_and(|pod| pod.device.addresses.contains(&address))
}

fn connection_tracking(half: &Half) -> Option<Finding> {
    let (count, most) = half.settings.conntrack?;
    if most == 0 || count * 100 / most < CONNTRACK_FULL {
        return None;
    }
    let text = format!(
        "connection tracking of node {} is nearly full: {count} of {most}; new connections will be dropped",
        half.node
    );
    let evidence = vec![format!("nf_conntrack_count {count}, nf_conntrack_max {most}")];
    Some(problem("conntrack-full", half, text, evidence))
}

/// Whether the largest packet of each end fits through the other's devices, and through the tunnel.
fn mtu(path: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    for half in path.halves() {
        let (own, _) = ends_of(path, half);
        let Some(pod) = &half.pod else { continue };
        let of_route = pod.route.route().and_then(|route| route.mtu);
        let largest = of_route.unwrap_or(u32::MAX).min(pod.device.mtu);
        if let Some(tunnel) = &half.outgoing.tunnel
            && let Some(kind) = &tunnel.device.tunnel
            && let Some(nic) = &tunnel.nic
        {
            let room = tunnel.route.as_ref().and_then(Answer::route).and_then(|route| route.mtu);
            let room = room.unwrap_or(u32::MAX).min(nic.mtu);
            let needed = largest + kind.overhead;
            if needed > room {
                let text = format!(
                    "packets of {} may have {largest} bytes, {needed} in the tunnel, and {} takes {room}: larger ones are \
                     lost or split; an MTU of {} in the pod would fit",
                    name(own),
                    nic.name,
                    room.saturating_sub(kind.overhead)
                );
                let evidence = vec![
                    format!("{} mtu {}, its route {}", pod.device.name, pod.device.mtu, words(of_route)),
                    format!("{} adds {} bytes", tunnel.device.name, kind.overhead),
                    format!("{} mtu {}", nic.name, nic.mtu),
                ];
                found.push(problem("mtu", half, text, evidence));
            }
        }
        let narrow = half.outgoing.device.as_ref().filter(|device| {
            half.outgoing.tunnel.as_ref().is_none_or(|tunnel| tunnel.device.ifindex == device.ifindex)
                && device.mtu < largest
        });
        if let Some(device) = narrow {
            let text = format!(
                "packets of {} may have {largest} bytes, and {} of node {} takes {}: larger ones are split or answered with \
                 \"fragmentation needed\", which must not be blocked",
                name(own),
                device.name,
                half.node,
                device.mtu
            );
            let evidence = vec![
                format!("{} mtu {}, its route {}", pod.device.name, pod.device.mtu, words(of_route)),
                format!("{} mtu {}", device.name, device.mtu),
            ];
            found.push(warning("mtu", half, text, evidence));
        }
    }
    found.extend(wire_mtu(path));
    found
}

/// Two NICs of one wire should take the same.
fn wire_mtu(path: &Path) -> Option<Finding> {
    let nic = |half: &Half| {
        let tunnel = half.outgoing.tunnel.as_ref();
        let nic = tunnel.and_then(|tunnel| tunnel.nic.clone());
        nic.or_else(|| half.outgoing.device.clone().filter(|_| tunnel.is_none()))
    };
    let (near, far) = (path.near.as_ref()?, path.far.as_ref()?);
    if near.node == far.node {
        return None;
    }
    let (one, other) = (nic(near)?, nic(far)?);
    if one.mtu == other.mtu {
        return None;
    }
    let text = format!(
        "{} of node {} takes {} bytes and {} of node {} {}: what only the one takes is lost between them without a word",
        one.name, near.node, one.mtu, other.name, far.node, other.mtu
    );
    let evidence = vec![format!("{} mtu {}", one.name, one.mtu), format!("{} mtu {}", other.name, other.mtu)];
    Some(warning("wire-mtu", near, text, evidence))
}

fn words(mtu: Option<u32>) -> String {
    mtu.map_or_else(|| "has none of its own".to_owned(), |mtu| format!("mtu {mtu}"))
}

/// Who is behind the Service.
fn endpoints(path: &Path) -> Option<Finding> {
    let service = path.service.as_ref()?;
    let said = |rule, level, text: String| Finding { level, rule, node: None, text, evidence: Vec::new() };
    if service.endpoints.is_empty() {
        let text = format!(
            "Service {} has no endpoint: no pod has its labels, or none has started (kubectl get endpointslices -n {} -l \
             kubernetes.io/service-name={})",
            service.name,
            service.name.split('/').next().unwrap_or_default(),
            service.name.rsplit('/').next().unwrap_or_default()
        );
        return Some(said("no-endpoints", Level::Problem, text));
    }
    let not_ready: Vec<String> = service
        .endpoints
        .iter()
        .filter(|endpoint| !endpoint.ready)
        .map(|endpoint| endpoint.ip.to_string())
        .collect();
    if not_ready.is_empty() {
        return None;
    }
    let level = if not_ready.len() == service.endpoints.len() { Level::Problem } else { Level::Warning };
    let text = format!(
        "{} of {} endpoints of Service {} are not ready and get no new connections: {}",
        not_ready.len(),
        service.endpoints.len(),
        service.name,
        not_ready.join(", ")
    );
    Some(said("endpoint-not-ready", level, text))
}

#[cfg(test)]
mod tests;
