//! A way for people: a drawing of both nodes, then step by step, then what looks wrong.

use std::io::{self, Write};

use super::compare::{Difference, Line, Mark};
use super::facts::Half;
use super::findings::{Finding, Level};
use super::ways::{End, Path, Step, link};

/// Columns of a box, and of the wire between two.
const BOX: usize = 37;
const WIRE: usize = 4;

/// How much is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// What says so, under each step and finding.
    pub(super) evidence: bool,
    pub(super) color: bool,
}

/// All of a way.
///
/// # Errors
/// What `out` returns.
pub(super) fn write(out: &mut impl Write, path: &Path, findings: &[Finding], style: Style) -> io::Result<()> {
    draw(out, path)?;
    if let Some(service) = &path.service {
        let port = service.port.map(|port| format!(":{port}")).unwrap_or_default();
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let port = endpoint.port.map(|port| format!(":{port}")).unwrap_or_default();
            let state = if endpoint.ready { "" } else { " (not ready)" };
            format!("{}{port}{state}", endpoint.ip)
        });
        let endpoints: Vec<_> = endpoints.collect();
        let endpoints = if endpoints.is_empty() { "nobody".to_owned() } else { endpoints.join(", ") };
        writeln!(out, "\nService {} {}{port} leads to {endpoints}", service.name, service.ip)?;
    }
    writeln!(out, "\nthere: {} -> {}", words(&path.from), words(&path.to))?;
    write_steps(out, &path.there, style)?;
    writeln!(out, "\nback: {} -> {}", words(&path.to), words(&path.from))?;
    write_steps(out, &path.back, style)?;
    if style.evidence {
        for half in path.halves() {
            write_drops(out, half)?;
        }
    }
    for note in &path.notes {
        writeln!(out, "\nnote: {note}")?;
    }
    write_findings(out, findings, style)
}

/// The way beside a packet that was seen.
///
/// # Errors
/// What `out` returns.
pub(super) fn write_comparison(out: &mut impl Write, lines: &[Line], title: &str) -> io::Result<()> {
    writeln!(out, "\n{title}")?;
    for line in lines {
        let mark = match line.mark {
            Mark::Same => ' ',
            Mark::Missing => '-',
            Mark::Unexpected => '+',
        };
        writeln!(out, "  {mark} {}", line.text)?;
        if let Some(why) = &line.why {
            writeln!(out, "      {why}")?;
        }
    }
    if lines.iter().all(|line| line.mark == Mark::Same) {
        writeln!(out, "  it went as expected")?;
    }
    Ok(())
}

/// Two ways side by side, where they differ.
///
/// # Errors
/// What `out` returns.
pub(super) fn write_differences(
    out: &mut impl Write,
    names: [&str; 2],
    differences: &[Difference],
) -> io::Result<()> {
    writeln!(out, "\ndifferences")?;
    if differences.is_empty() {
        return writeln!(out, "  none, but for addresses, names and numbers");
    }
    for Difference { about, one, other } in differences {
        writeln!(out, "  {about}\n    {}: {one}\n    {}: {other}", names[0], names[1])?;
    }
    Ok(())
}

fn words(end: &End) -> String {
    match (&end.pod, &end.node) {
        (Some(pod), _) => format!("{pod} {}", end.ip),
        (None, Some(node)) => format!("node {node} {}", end.ip),
        (None, None) => end.ip.to_string(),
    }
}

fn write_steps(out: &mut impl Write, steps: &[Step], style: Style) -> io::Result<()> {
    if steps.is_empty() {
        return writeln!(out, "  nothing of it is visible");
    }
    let place = |step: &Step| match &step.pod {
        Some(_) => format!("{} pod", step.node),
        None => step.node.clone(),
    };
    let places = steps.iter().map(|step| place(step).chars().count()).max().unwrap_or_default();
    let names = steps.iter().map(|step| step.name.chars().count()).max().unwrap_or_default();
    for (number, step) in steps.iter().enumerate() {
        writeln!(
            out,
            "{:>3}  {:<places$} {:<names$} {:<7} {}",
            number + 1,
            place(step),
            step.name,
            step.direction.word(),
            step.what
        )?;
        if style.evidence {
            for line in &step.evidence {
                writeln!(out, "       {line}")?;
            }
        }
        if let Some(why) = step.unseen.as_ref().filter(|_| style.evidence) {
            writeln!(out, "       {why}")?;
        }
    }
    Ok(())
}

fn write_drops(out: &mut impl Write, half: &Half) -> io::Result<()> {
    if half.cni_drops.is_empty() {
        return Ok(());
    }
    writeln!(out, "\ndropped by Cilium on {} since its programs were loaded", half.node)?;
    for drop in &half.cni_drops {
        writeln!(out, "  {:>12}  {:<8} {}", drop.packets, drop.direction, drop.reason)?;
    }
    Ok(())
}

fn write_findings(out: &mut impl Write, findings: &[Finding], style: Style) -> io::Result<()> {
    writeln!(out)?;
    if findings.is_empty() {
        return writeln!(out, "nothing looks wrong on this way");
    }
    for finding in findings {
        let (word, color) = match finding.level {
            Level::Problem => ("PROBLEM", "31"),
            Level::Warning => ("warning", "33"),
        };
        let word = if style.color { format!("\x1b[{color}m{word}\x1b[0m") } else { word.to_owned() };
        writeln!(out, "{word}  {}", finding.text)?;
        if style.evidence {
            for line in &finding.evidence {
                writeln!(out, "         {line}")?;
            }
        }
    }
    Ok(())
}

/// Both nodes, from the pods at the top to the wire at the bottom.
fn draw(out: &mut impl Write, path: &Path) -> io::Result<()> {
    let one_node = path.near.as_ref().zip(path.far.as_ref()).is_some_and(|(near, far)| near.node == far.node);
    let left = column(path.near.as_ref(), &path.from, one_node);
    let right = column(path.far.as_ref(), &path.to, one_node);
    let height = left.len().max(right.len());
    let title = |half: Option<&Half>, end: &End| {
        half.map(|half| half.node.clone())
            .or_else(|| end.node.clone())
            .unwrap_or_else(|| "outside".to_owned())
    };
    let gap = " ".repeat(WIRE);
    let line = format!("+{}+", "-".repeat(BOX - 2));
    writeln!(
        out,
        " {:<width$}{gap}{}",
        title(path.near.as_ref(), &path.from),
        title(path.far.as_ref(), &path.to),
        width = BOX
    )?;
    writeln!(out, " {line}{gap}{line}")?;
    let (left, right) = (stretched(left, height), stretched(right, height));
    for (row, (left, right)) in left.iter().zip(&right).enumerate() {
        let wire = if row + 1 == height { "-".repeat(WIRE) } else { gap.clone() };
        writeln!(out, " |{}|{wire}|{}|", cell(left), cell(right))?;
    }
    writeln!(out, " {line}{gap}{line}")
}

fn cell(text: &str) -> String {
    let width = BOX - 4;
    let cut = if text.chars().count() > width {
        text.chars().take(width - 1).chain(['~']).collect()
    } else {
        text.to_owned()
    };
    format!(" {cut:<width$} ")
}

/// The shorter one gets a longer way above its last row.
fn stretched(mut rows: Vec<String>, height: usize) -> Vec<String> {
    while rows.len() < height {
        let last = rows.len().saturating_sub(1);
        rows.insert(last, if rows.len() > 1 { "  |".to_owned() } else { String::new() });
    }
    rows
}

fn column(half: Option<&Half>, end: &End, one_node: bool) -> Vec<String> {
    let Some(half) = half else { return vec![words(end)] };
    let mut rows = Vec::new();
    let between = "  |".to_owned();
    if let Some(pod) = &half.pod {
        rows.push(format!("pod {}", pod.pod));
        rows.push(format!("{} {}", link(&pod.device), end.ip));
    }
    if let Some(device) = &half.device {
        rows.extend([between.clone(), link(device)]);
        rows.extend(
            device.programs().filter(|program| !program.ours).map(|program| format!("    {}", program.name)),
        );
    }
    if let Some(bridge) = &half.bridge {
        rows.extend([between.clone(), format!("{} bridge", link(bridge))]);
    }
    if one_node {
        return rows;
    }
    match &half.outgoing.tunnel {
        Some(tunnel) => {
            let vni = tunnel.identifier.map(|identifier| format!(" VNI {identifier}")).unwrap_or_default();
            let vni =
                if matches!(tunnel.device.kind.as_str(), "vxlan" | "geneve") { vni } else { String::new() };
            rows.extend([between.clone(), format!("{}{vni}", link(&tunnel.device))]);
            rows.extend(tunnel.nic.iter().flat_map(|nic| [between.clone(), nic_row(nic)]));
        }
        None => rows.extend(half.outgoing.device.iter().flat_map(|nic| [between.clone(), nic_row(nic)])),
    }
    rows
}

fn nic_row(nic: &super::facts::Device) -> String {
    let address = nic.addresses.first().map(|address| format!(" {address}")).unwrap_or_default();
    format!("{}{address}", link(nic))
}
