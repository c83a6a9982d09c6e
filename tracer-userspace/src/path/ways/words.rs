//! Devices, programs, neighbours and tunnels in words, as the tools that people know print them.

use std::net::IpAddr;

use super::End;
use crate::path::facts::{Device, Entry, EntryKind, Half, Neighbour, Program, Translation, TunnelHop};
use crate::trajectory::model::Direction;

/// As `ip link` begins its line.
#[must_use]
pub fn link(device: &Device) -> String {
    match device.peer {
        Some(peer) => format!("{}: {}@if{peer}", device.ifindex, device.name),
        None => format!("{}: {}", device.ifindex, device.name),
    }
}

/// The device, and the programs on its hook.
pub(super) fn hook(device: &Device, direction: Direction) -> Vec<String> {
    let mut lines = vec![describe(device)];
    if direction == Direction::Ingress {
        lines.extend(device.xdp.iter().map(|program| format!("xdp: {}", words(program))));
    }
    let on_hook = match direction {
        Direction::Ingress => &device.ingress,
        Direction::Egress => &device.egress,
    };
    if on_hook.is_empty() {
        lines.push(format!("no program on {}", direction.word()));
    }
    lines.extend(
        on_hook
            .iter()
            .map(|program| format!("{} {}: {}", program.attached, direction.word(), words(program))),
    );
    lines
}

/// MAC, MTU and what kind of device it is.
pub(super) fn describe(device: &Device) -> String {
    let mut parts = vec![link(device)];
    if !device.mac.is_empty() {
        parts.push(format!("MAC {}", device.mac));
    }
    parts.push(format!("mtu {}", device.mtu));
    if !device.kind.is_empty() {
        parts.push(device.kind.clone());
    }
    if !device.up {
        parts.push("DOWN".to_owned());
    }
    parts.join(", ")
}

/// As `bpftool prog show` has it, on one line.
#[must_use]
pub fn words(program: &Program) -> String {
    let Some(id) = program.id else { return program.name.clone() };
    let mut text = format!("{} id {id} tag {}", program.name, program.tag);
    if program.gpl {
        text.push_str(" gpl");
    }
    if !program.loaded_at.is_empty() {
        text.push_str(&format!(", loaded {}", program.loaded_at));
    }
    text.push_str(&format!(
        ", uid {}, xlated {}B, jited {}B, memlock {}B",
        program.uid, program.xlated, program.jited, program.memlock
    ));
    if !program.map_ids.is_empty() {
        let ids: Vec<_> = program.map_ids.iter().map(ToString::to_string).collect();
        text.push_str(&format!(", map_ids {}", ids.join(",")));
    }
    if program.btf_id != 0 {
        text.push_str(&format!(", btf_id {}", program.btf_id));
    }
    if let (Some(priority), Some(handle)) = (program.priority, program.handle) {
        text.push_str(&format!(", pref {priority} handle {handle:#x}"));
    }
    if program.ours {
        text.push_str(" (tracer's own)");
    }
    text
}

/// What the CNI's program on a hook does with packets, as its sources say: in a few words, and in more.
pub(super) fn known(program: &Program) -> Option<(&'static str, &'static str)> {
    Some(match program.name.as_str() {
        name if name.starts_with("cil_from_container") => (
            "Cilium packs and redirects it",
            "looks the destination up in the ipcache and asks its policy; then packs it for a tunnel and redirects it, or \
             hands it to the stack",
        ),
        name if name.starts_with("cil_from_overlay") => {
            ("Cilium unpacks it", "asks the policy of the pod and hands the packet to it")
        }
        name if name.starts_with("cil_from_netdev") => (
            "Cilium takes it from the wire",
            "translates addresses of Services and takes over what the node need not see",
        ),
        name if name.starts_with("cali_tc_") => (
            "Calico forwards it",
            "asks its policy, translates addresses of Services, and forwards the packet itself",
        ),
        _ => return None,
    })
}

pub(super) fn decides(programs: &[Program]) -> Option<String> {
    programs.iter().find_map(known).map(|(what, _)| what.to_owned())
}

pub(super) fn neighbour(hop: &Neighbour) -> String {
    let address = hop.address.map(|address| address.to_string()).unwrap_or_default();
    match hop.state.as_str() {
        "absent" => format!("{address} dev {}: nobody has asked for its MAC address yet", hop.device),
        state if hop.mac.is_empty() => format!("{address} dev {} {state}", hop.device),
        state => format!("{address} dev {} lladdr {} {state}", hop.device, hop.mac),
    }
}

/// Whose MAC address a pod's next hop has.
pub(super) fn owner_of(hop: &Neighbour, half: &Half) -> Option<String> {
    if hop.mac.is_empty() {
        return None;
    }
    let is_its = |device: &&Device| device.mac == hop.mac;
    if let Some(device) = half.device.as_ref().filter(is_its) {
        return Some(format!("{} is {}: the node's end of the pod's pair", hop.mac, link(device)));
    }
    if let Some(bridge) = half.bridge.as_ref().filter(is_its) {
        return Some(format!("{} is {}: the bridge", hop.mac, link(bridge)));
    }
    Some(format!("{} is no device of the way on the node", hop.mac))
}

pub(super) fn translation(found: &Translation) -> String {
    if !found.tells_backends {
        return format!("Service: {} translates it ({})", found.by, found.evidence);
    }
    let backends: Vec<_> = found.backends.iter().map(ToString::to_string).collect();
    format!("Service: {} translates it ({}) to {}", found.by, found.evidence, backends.join(", "))
}

/// Entries of the CNI's maps about an address.
pub(super) fn of_maps(half: &Half, address: IpAddr) -> Vec<String> {
    let is_about = |entry: &&Entry| match &entry.what {
        EntryKind::Endpoint { address: about, .. } | EntryKind::Behind { address: about, .. } => {
            *about == address
        }
        // About both ends.
        EntryKind::Other => true,
    };
    half.entries.iter().filter(is_about).map(|entry| format!("{}: {}", entry.map, entry.text)).collect()
}

pub(super) fn tunnel_words(tunnel: &TunnelHop, hop: Option<&Neighbour>, to: &End) -> Vec<String> {
    let mut lines = Vec::new();
    let kind = &tunnel.device.kind;
    let mut text = format!("tunnel: {kind}");
    if let Some(identifier) = tunnel.identifier {
        text.push_str(&format!(
            " {} {identifier}",
            if kind == "vxlan" || kind == "geneve" { "VNI" } else { "key" }
        ));
    }
    if let Some(port) = tunnel.device.tunnel.as_ref().and_then(|kind| kind.port) {
        text.push_str(&format!(" to UDP port {port}"));
    }
    match tunnel.remote {
        Some(remote) => {
            let node = to.node.as_deref().unwrap_or("outside");
            text.push_str(&format!(", far end {remote} ({} says so), for {node}", tunnel.told_by));
        }
        None => text.push_str(&format!(", {} does not say which far end", tunnel.told_by)),
    }
    lines.push(text);
    if tunnel.told_by == "bridge fdb" {
        lines.extend(hop.map(|hop| format!("next hop in the tunnel: {}", neighbour(hop))));
    }
    lines
}
