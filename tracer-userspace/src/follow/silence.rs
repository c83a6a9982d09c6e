//! What to say when nothing is seen: silence is the worst output.

use std::sync::Arc;

use tracer_common::outcome::Outcome;

use super::select::{EndKind, Selection};
use crate::agent::programs::Outcomes;
use crate::trajectory::correlate::Counters;
use crate::trajectory::model::{DeviceRole, ObservationPoint};

/// What is followed, in words: "default/curl <-> svc/default/httpbin, protocol 6, port 80".
#[must_use]
pub fn what(selection: &Selection) -> String {
    let mut text = selection.a.name.clone();
    match &selection.b {
        Some(b) => text += &format!(" <-> {}", b.name),
        None => text += " <-> everything",
    }
    if let Some(protocol) = selection.protocol {
        text += &format!(", {}", protocol_name(protocol));
    }
    if !selection.ports.is_empty() {
        let ports: Vec<_> = selection.ports.iter().map(u16::to_string).collect();
        text += &format!(", port {}", ports.join(" or "));
    }
    text
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        _ => format!("protocol {number}"),
    }
}

/// What we wait for and the likely reasons, from what the points saw meanwhile.
#[must_use]
pub fn explain(
    selection: &Selection,
    outcomes: &Outcomes,
    correlator: &Counters,
    points: &[Arc<ObservationPoint>],
) -> String {
    let mut lines = vec![format!("nothing seen so far; waiting for packets {}", what(selection))];
    let recorded = outcomes.get(Outcome::Recorded);
    let lost = outcomes.get(Outcome::RingFull);
    let filtered = outcomes.get(Outcome::Filtered);
    if outcomes.total() == 0 {
        lines.push(format!(
            "  no packet at all has passed the {} observed points: is the pod running, and does it send anything?",
            points.len()
        ));
    } else if recorded + lost == 0 {
        lines.push(format!("  {filtered} other packets have passed the observed points; likely reasons:"));
        lines.extend(reasons_for_no_match(selection).into_iter().map(|reason| format!("  - {reason}")));
    } else if correlator.open > 0 || correlator.unrelated == 0 {
        lines.push(format!(
            "  {recorded} records came ({lost} lost); {} packets are under way or wait for late records",
            correlator.open
        ));
    } else {
        lines.push(format!(
            "  {recorded} records came ({lost} lost), all of packets of others that share an address with {} \
             (its node's, for NAT)",
            selection.a.name
        ));
    }
    let has_interface = |pod: &_| {
        points.iter().any(|point| point.role == DeviceRole::PodInterface && point.pod.as_ref() == Some(pod))
    };
    for pod in selection.a.pods.iter().filter(|pod| !has_interface(pod)) {
        lines.push(format!(
            "  - {}/{} itself is not observed on this machine (see: tracer points)",
            pod.namespace, pod.name
        ));
    }
    lines.join("\n")
}

fn reasons_for_no_match(selection: &Selection) -> Vec<String> {
    let mut reasons = Vec::new();
    match &selection.b {
        Some(b) => {
            reasons.push(format!("nobody sends between {} and {} now", selection.a.name, b.name));
            if b.kind == EndKind::Address {
                reasons.push(format!("the name that is used leads to another address than {}", b.name));
            } else {
                reasons.push(format!(
                    "it is reached under an address that the inventory does not list for {} (a load balancer, a \
                     newer pod): make the inventory anew, or leave --to out",
                    b.name
                ));
            }
        }
        None => reasons.push(format!("{} sends and receives nothing now", selection.a.name)),
    }
    if selection.protocol.is_some() || !selection.ports.is_empty() {
        reasons.push("--protocol or --port leaves the packets out".to_owned());
    }
    reasons.push("the connection is kept alive and idle: only packets that are sent now are seen".to_owned());
    reasons
}
