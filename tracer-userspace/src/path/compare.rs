//! The way as it should be beside a packet that was seen, or beside another way. Pure.

use serde::Serialize;
use serde_json::Value;

use super::facts::{Device, Half};
use super::ways::{Path, Step};

/// A line of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub mark: Mark,
    pub text: String,
    /// Why it may be so, where that is known.
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// In both.
    Same,
    /// Expected, and not seen.
    Missing,
    /// Seen, and not expected.
    Unexpected,
}

/// A fact of two ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub about: String,
    pub one: String,
    pub other: String,
}

/// Where a packet is at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: String,
    /// Both often have an eth0.
    in_pod: bool,
    device: String,
    direction: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pod = if self.in_pod { "pod " } else { "" };
        write!(f, "{} {pod}{} {}", self.node, self.device, self.direction)
    }
}

/// The last trajectory between the two ends among lines of `tracer follow -o json`, and whether it went there or back.
#[must_use]
pub fn last_trajectory(path: &Path, lines: &str) -> Option<(Value, bool)> {
    let told = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = told.filter(|line| line["schema"] == "tracer.trajectory/v1");
    let service = path.service.as_ref().map(|service| service.ip);
    let is = |value: &Value, ips: &[Option<std::net::IpAddr>]| {
        let ip = value["ip"].as_str().and_then(|ip| ip.parse().ok());
        ip.is_some() && ips.contains(&ip)
    };
    let (from, to) = ([Some(path.from.ip), None], [Some(path.to.ip), service]);
    told.filter_map(|line| {
        let goes_there = is(&line["src"], &from) && is(&line["dst"], &to);
        let goes_back = is(&line["src"], &to) && is(&line["dst"], &from);
        (goes_there || goes_back).then_some((line, goes_there))
    })
    .next_back()
}

/// The hooks of a way beside those of a trajectory.
#[must_use]
pub fn with_trajectory(steps: &[Step], trajectory: &Value) -> Vec<Line> {
    let expected: Vec<Place> = steps
        .iter()
        .map(|step| Place {
            node: step.node.clone(),
            in_pod: step.pod.is_some(),
            device: step.name.clone(),
            direction: step.direction.word().to_owned(),
        })
        .collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let seen: Vec<Place> = trajectory["hops"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|hop| Place {
            node: text(&hop["node"]),
            in_pod: hop["role"] == "pod-interface",
            device: text(&hop["device"]),
            direction: text(&hop["direction"]),
        })
        .collect();
    let mut lines = Vec::new();
    let (mut at, mut seen_at) = (0, 0);
    for (one, other) in common(&expected, &seen) {
        lines.extend((at..one).map(|place| missing(&expected[place], &steps[place])));
        lines.extend(seen[seen_at..other].iter().map(unexpected));
        lines.push(Line { mark: Mark::Same, text: expected[one].to_string(), why: None });
        (at, seen_at) = (one + 1, other + 1);
    }
    lines.extend((at..expected.len()).map(|place| missing(&expected[place], &steps[place])));
    lines.extend(seen[seen_at..].iter().map(unexpected));
    lines
}

fn missing(place: &Place, step: &Step) -> Line {
    Line { mark: Mark::Missing, text: place.to_string(), why: step.unseen.clone() }
}

fn unexpected(place: &Place) -> Line {
    Line { mark: Mark::Unexpected, text: place.to_string(), why: None }
}

/// The longest sequence that is in both, as places in the one and in the other. Both have some ten members.
fn common(one: &[Place], other: &[Place]) -> Vec<(usize, usize)> {
    let mut length = vec![vec![0_usize; other.len() + 1]; one.len() + 1];
    for i in (0..one.len()).rev() {
        for j in (0..other.len()).rev() {
            length[i][j] = if one[i] == other[j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while i < one.len() && j < other.len() {
        if one[i] == other[j] {
            found.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    found
}

/// What is not the same in two ways, such as a good and a bad one. What must differ (addresses, names, numbers of devices,
/// ids) is left out.
#[must_use]
pub fn with_path(one: &Path, other: &Path) -> Vec<Difference> {
    let (one, other) = (traits(one), traits(other));
    let mut found = Vec::new();
    for (about, value) in &one {
        let beside = other.iter().find(|(name, _)| name == about).map_or("-", |(_, value)| value.as_str());
        if beside != value {
            found.push(Difference { about: about.clone(), one: value.clone(), other: beside.to_owned() });
        }
    }
    for (about, value) in &other {
        if !one.iter().any(|(name, _)| name == about) {
            found.push(Difference { about: about.clone(), one: "-".to_owned(), other: value.clone() });
        }
    }
    found
}

fn traits(path: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (side, half) in [("from", &path.near), ("to", &path.far)] {
        match half {
            Some(half) => traits_of(side, half, &mut found),
            None => found.push((format!("{side}: half"), "not visible".to_owned())),
        }
    }
    for (way, steps) in [("there", &path.there), ("back", &path.back)] {
        let hooks: Vec<String> =
            steps.iter().map(|step| format!("{} {}", kind_of(step), step.direction.word())).collect();
        found.push((format!("{way}: hooks"), hooks.join(" > ")));
    }
    found
}

/// What a device is, without what makes it this one.
fn kind_of(step: &Step) -> &str {
    match &step.pod {
        Some(_) => "pod",
        None if step.device.contains('@') => "pair",
        None => &step.name,
    }
}

fn traits_of(side: &str, half: &Half, found: &mut Vec<(String, String)>) {
    let mut add = |about: &str, value: String| found.push((format!("{side}: {about}"), value));
    add("node", half.node.clone());
    add("kernel", half.kernel.clone());
    if let Some(pod) = &half.pod {
        add("pod's device", device(&pod.device));
        add(
            "pod's route",
            pod.route.route().map_or_else(
                || pod.route.to_string(),
                |route| {
                    let gateway =
                        route.gateway.map_or_else(|| "direct".to_owned(), |gateway| format!("via {gateway}"));
                    format!(
                        "{gateway} mtu {}",
                        route.mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string())
                    )
                },
            ),
        );
        add("pod's next hop", pod.next_hop.as_ref().map_or_else(|| "-".to_owned(), |hop| hop.state.clone()));
    }
    if let Some(on_node) = &half.device {
        add("pair's end on the node", device(on_node));
        add("programs there", programs(on_node));
    }
    if let Some(tunnel) = &half.outgoing.tunnel {
        add("tunnel", tunnel.device.name.clone());
        add("tunnel's far end", tunnel.remote.map_or_else(|| "-".to_owned(), |remote| remote.to_string()));
        add(
            "tunnel's VNI or key",
            tunnel.identifier.map_or_else(|| "-".to_owned(), |number| number.to_string()),
        );
    }
    let nic = half
        .outgoing
        .tunnel
        .as_ref()
        .and_then(|tunnel| tunnel.nic.as_ref())
        .or(half.outgoing.device.as_ref());
    if let Some(nic) = nic {
        add("NIC", format!("{} {}", nic.name, device(nic)));
        add("programs on the NIC", programs(nic));
    }
    let translators: Vec<_> = half.services.iter().map(|found| found.by.clone()).collect();
    add("Services", if translators.is_empty() { "-".to_owned() } else { translators.join(", ") });
    add("entries", half.entries.iter().map(|entry| entry.map.as_str()).collect::<Vec<_>>().join(", "));
}

fn device(device: &Device) -> String {
    let state = if device.up { "up" } else { "DOWN" };
    format!("{} mtu {} {state}", if device.kind.is_empty() { "hardware" } else { &device.kind }, device.mtu)
}

/// Names and tags: the same program has the same tag on every node.
fn programs(device: &Device) -> String {
    let names = device.programs().filter(|program| !program.ours);
    let names: Vec<_> =
        names.map(|program| format!("{} {}", program.name, program.tag).trim().to_owned()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
