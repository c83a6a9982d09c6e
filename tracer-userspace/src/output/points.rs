//! `tracer points`: every observation point, and who else sits there.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::host::kernel::Kernel;
use crate::host::plan::PlannedDevice;
use crate::host::programs::{DevicePrograms, HookProgram, Mechanism};
use crate::trajectory::model::{DeviceRole, Direction};

#[cfg(test)]
mod tests;

/// Columns when the output is no terminal.
pub const DEFAULT_WIDTH: u16 = 96;

/// How an observation point is attached to its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    Tcx,
    Clsact,
    Netkit,
    None,
}

/// One observation point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PointRow {
    pub node: String,
    /// "namespace/name" of the pod whose device or veth peer this is.
    pub pod: Option<String>,
    /// Path by which the network namespace was found.
    pub netns: String,
    pub netns_inode: u64,
    pub device: String,
    /// Kernel's link kind; empty for hardware devices.
    pub kind: String,
    pub ifindex: u32,
    pub direction: Direction,
    pub role: DeviceRole,
    /// How tracer is attached, or would be.
    pub mechanism: Attachment,
    /// Whether tracer is attached at this moment.
    pub attached: bool,
    /// Place of tracer's program in the running order, from 1.
    pub place: Option<usize>,
    /// Everything on the hook in running order, tracer's own included.
    pub programs: Vec<ProgramRow>,
    /// What passes here without being seen by tracer, and why.
    pub blind: Option<String>,
    /// Why this device, and how the pod's network namespace was found.
    pub evidence: String,
}

/// One program on a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramRow {
    /// `null` for a tc filter that is no eBPF program.
    pub id: Option<u32>,
    pub name: String,
    /// 16 hexadecimal digits, as bpftool prints it.
    pub tag: Option<String>,
    /// RFC 3339, in UTC.
    pub loaded_at: Option<String>,
    /// "tcx", "clsact", "netkit-primary" or "netkit-peer".
    pub mechanism: &'static str,
    /// Of a clsact filter.
    pub priority: Option<u16>,
    /// Of a clsact filter.
    pub handle: Option<u32>,
    pub ours: bool,
}

impl PointRow {
    /// The row of one direction of a device. `wanted` is what tracer would use where it is not attached.
    #[must_use]
    pub fn new(
        device: &PlannedDevice,
        direction: Direction,
        programs: &DevicePrograms,
        wanted: Attachment,
    ) -> Self {
        // What runs where a pod transmits into its netkit pair runs before this ingress.
        let on_pair: &[HookProgram] =
            if direction == Direction::Ingress { &programs.netkit_peer } else { &[] };
        let in_order = || on_pair.iter().chain(programs.on(direction));
        let place = in_order().position(HookProgram::is_ours);
        let mechanism = match place.and_then(|place| in_order().nth(place)).map(|ours| ours.mechanism) {
            Some(Mechanism::Tcx) => Attachment::Tcx,
            Some(Mechanism::Clsact { .. }) => Attachment::Clsact,
            Some(Mechanism::NetkitPeer | Mechanism::NetkitPrimary) => Attachment::Netkit,
            Some(Mechanism::Xdp) | None => wanted,
        };
        let rows: Vec<ProgramRow> = in_order().map(ProgramRow::new).collect();
        let place = place.map(|place| place + 1);
        Self {
            node: device.node.to_string(),
            pod: device.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            netns: device.netns.label().to_owned(),
            netns_inode: device.netns.id().inode,
            device: device.link.name.to_string(),
            kind: device.link.kind.to_string(),
            ifindex: device.link.ifindex,
            direction,
            role: device.role,
            mechanism,
            attached: place.is_some(),
            place,
            blind: blind_spot(device, direction, programs, mechanism),
            programs: rows,
            evidence: device.evidence.clone(),
        }
    }

    /// "1st of 2 by tcx", or what would be.
    fn describe_place(&self) -> String {
        let mechanism = match self.mechanism {
            Attachment::Tcx => "tcx",
            Attachment::Clsact => "clsact",
            Attachment::Netkit => "netkit",
            Attachment::None => return "cannot attach".to_owned(),
        };
        match self.place {
            Some(place) => format!("{mechanism} {place} of {}", self.programs.len()),
            None => format!("({mechanism})"),
        }
    }

    /// The programs of others in running order, in words.
    #[must_use]
    pub fn others(&self) -> Vec<String> {
        self.programs.iter().filter(|program| !program.ours).map(ProgramRow::describe).collect()
    }

    fn describe_others(&self) -> String {
        let others = self.others();
        if others.is_empty() { "-".to_owned() } else { others.join("\n") }
    }
}

/// A point behind a program that may end the chain, if it is one. `mechanism` is ours.
fn blind_spot(
    device: &PlannedDevice,
    direction: Direction,
    programs: &DevicePrograms,
    mechanism: Attachment,
) -> Option<String> {
    let first_of = |programs: &[HookProgram], kind| {
        programs.iter().find(|program| program.mechanism == kind && !program.is_ours()).cloned()
    };
    if direction == Direction::Ingress && mechanism != Attachment::Netkit {
        if let Some(program) = first_of(&programs.netkit_peer, Mechanism::NetkitPeer) {
            return Some(format!(
                "{} runs on the netkit pair, before tracer here: what it redirects is not seen",
                program.name
            ));
        }
        // The pair's programs can then be read in the pod's namespace only.
        if &*device.link.kind == "netkit" && device.role == DeviceRole::PodPeer && !programs.is_netkit {
            return Some(
                "not the primary of its netkit pair: what a program of the pair redirects is not seen"
                    .to_owned(),
            );
        }
    }
    let tcx = first_of(programs.on(direction), Mechanism::Tcx).filter(|_| mechanism == Attachment::Clsact)?;
    Some(format!("{} is a TCX program, before tracer's legacy filter: what it decides is not seen", tcx.name))
}

impl ProgramRow {
    fn new(program: &HookProgram) -> Self {
        let (mechanism, priority, handle) = match program.mechanism {
            Mechanism::Tcx => ("tcx", None, None),
            Mechanism::Clsact { priority, handle, .. } => ("clsact", Some(priority), Some(handle)),
            Mechanism::NetkitPrimary => ("netkit-primary", None, None),
            Mechanism::NetkitPeer => ("netkit-peer", None, None),
            Mechanism::Xdp => ("xdp", None, None),
        };
        let loaded_at = program.loaded_at.and_then(|time| jiff::Timestamp::try_from(time).ok());
        Self {
            id: program.id,
            name: program.name.clone(),
            tag: program.tag.map(|tag| tag.iter().map(|byte| format!("{byte:02x}")).collect()),
            // The kernel keeps the load time since boot, which gives wall time to a second at best.
            loaded_at: loaded_at.and_then(|time| Some(time.round(jiff::Unit::Second).ok()?.to_string())),
            mechanism,
            priority,
            handle,
            ours: program.is_ours(),
        }
    }

    /// "cil_from_container id 2490, clsact prio 1 handle 0x1".
    fn describe(&self) -> String {
        let id = self.id.map_or_else(String::new, |id| format!(" id {id}"));
        let place = match (self.priority, self.handle) {
            (Some(priority), Some(handle)) => format!(" prio {priority} handle {handle:#x}"),
            _ => String::new(),
        };
        format!("{}{id}, {}{place}", self.name, self.mechanism)
    }
}

/// Writes the points for people, grouped by node and network namespace, at most `width` columns wide; then what the
/// kernel lacks.
///
/// # Errors
/// Those of `out`.
pub fn write_text(out: &mut impl Write, rows: &[PointRow], kernel: &Kernel, width: u16) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no observation points\n\n{kernel}");
    }
    let mut groups: Vec<Vec<&PointRow>> = Vec::new();
    for row in rows {
        // A node's rows stand together already; this keeps it right if they do not.
        let place = groups
            .iter()
            .position(|group| (&group[0].node, group[0].netns_inode) == (&row.node, row.netns_inode));
        match place {
            Some(place) => groups[place].push(row),
            None => groups.push(vec![row]),
        }
    }
    for (place, group) in groups.iter().enumerate() {
        if place > 0 {
            writeln!(out)?;
        }
        write_group(out, group, width)?;
    }
    let attached = rows.iter().filter(|row| row.attached).count();
    writeln!(
        out,
        "\n{} observation points on {} devices; tracer is attached to {attached} (in brackets: how it would be)",
        rows.len(),
        count_devices(rows)
    )?;
    writeln!(out, "\n{kernel}")
}

fn count_devices(rows: &[PointRow]) -> usize {
    let mut devices: Vec<_> = rows.iter().map(|row| (row.netns_inode, row.ifindex)).collect();
    devices.sort_unstable();
    devices.dedup();
    devices.len()
}

/// One network namespace.
fn write_group(out: &mut impl Write, group: &[&PointRow], width: u16) -> io::Result<()> {
    let first = group[0];
    let netns = format!("network namespace {} ({})", first.netns, first.netns_inode);
    match &first.pod {
        Some(pod) if first.role == DeviceRole::PodInterface => {
            writeln!(out, "pod {pod} on node {}: {netns}", first.node)?;
        }
        _ => writeln!(out, "node {}: {netns}", first.node)?,
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width.saturating_sub(2))
        .set_header(["DEVICE", "ROLE", "DIRECTION", "TRACER", "OTHER PROGRAMS"]);
    let mut device = None;
    for row in group {
        // The second direction does not repeat what both have in common.
        let is_new = device != Some(row.ifindex);
        device = Some(row.ifindex);
        let (name, role) = if is_new {
            let pod = row.pod.as_ref().map_or_else(String::new, |pod| format!("\n{pod}"));
            (format!("{}: {}", row.ifindex, row.device), format!("{}{pod}", describe_role(row)))
        } else {
            (String::new(), String::new())
        };
        table.add_row([name, role, direction(row).to_owned(), row.describe_place(), row.describe_others()]);
    }
    for line in table.lines() {
        writeln!(out, "  {}", line.trim_end())?;
    }
    let mut device = None;
    for row in group.iter().filter(|row| device.replace(row.ifindex) != Some(row.ifindex)) {
        writeln!(out, "  {}: {}", row.device, row.evidence)?;
    }
    for row in group {
        let Some(blind) = &row.blind else { continue };
        writeln!(out, "  {} {}: blind spot: {blind}", row.device, direction(row))?;
    }
    Ok(())
}

fn describe_role(row: &PointRow) -> String {
    match row.role {
        DeviceRole::PodInterface => "interface".to_owned(),
        DeviceRole::PodPeer => "pod's peer".to_owned(),
        DeviceRole::Bridge => "bridge".to_owned(),
        DeviceRole::Tunnel => row.kind.clone(),
        DeviceRole::Nic => "NIC".to_owned(),
        DeviceRole::Other => "other".to_owned(),
    }
}

const fn direction(row: &PointRow) -> &'static str {
    match row.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The points for machines.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    kernel: &'a Kernel,
    points: &'a [PointRow],
}

/// Writes one JSON object with the kernel and all points.
///
/// # Errors
/// Those of `out`.
pub fn write_json(out: &mut impl Write, rows: &[PointRow], kernel: &Kernel) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Document { schema: "tracer.points/v1", kernel, points: rows })?;
    writeln!(out)
}
