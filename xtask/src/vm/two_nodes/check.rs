//! What must hold for what a follow of two machines told.

use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How far the second node's wall clock may be ahead, nanoseconds: what was set, to a second, and what it has gained
/// since.
const AHEAD_NS: RangeInclusive<i64> = 36_000_000_000..=39_000_000_000;
/// What it may gain while the echoes are sent, which takes 5 s: 1 % of that, give or take what an emulated machine is
/// late.
const GAIN_NS: RangeInclusive<i64> = 20_000_000..=90_000_000;
/// A device at each of a packet's hooks, from the sender's pod to the receiver's.
const ROLES: [&str; 8] =
    ["pod-interface", "pod-peer", "tunnel", "nic", "nic", "tunnel", "pod-peer", "pod-interface"];

/// Checks a follow's lines. `nodes`: curl's, then httpbin's.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn check(lines: &[String], nodes: [&str; 2]) -> Result<()> {
    let (mut packets, mut summary) = (Vec::new(), None);
    for line in lines {
        let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        match value["schema"].as_str() {
            Some("tracer.trajectory/v1") => packets.push(value),
            Some("tracer.exchange/v1") => {}
            Some("tracer.summary/v1") => summary = Some(value),
            other => bail!("schema {other:?}"),
        }
    }
    let summary = summary.context("there is no summary")?;
    for packet in &packets {
        check_packet(packet, nodes).with_context(|| format!("of {packet}"))?;
    }
    // A request and an answer; six echoes and their answers; a connection's beginning, request, answer and end.
    for (protocol, count) in [("udp", 2..=2), ("icmp", 12..=12), ("tcp", 8..=40)] {
        let told = packets.iter().filter(|packet| packet["protocol"] == protocol).count();
        ensure!(count.contains(&told), "{told} packets of {protocol}, not {count:?}");
    }
    for stage in ["ring_full", "channel_full", "undecodable", "unattributed", "evicted"] {
        ensure!(summary["losses"][stage] == 0, "records or packets were lost: {}", summary["losses"]);
    }
    let kernels: Vec<_> =
        summary["streams"].as_array().into_iter().flatten().map(|one| &one["kernel"]).collect();
    ensure!(kernels.len() == 2, "the summary has {} streams", kernels.len());
    check_clocks(&packets)
}

/// One trajectory with all hops of both nodes in order, and no time between the two clocks.
fn check_packet(packet: &Value, nodes: [&str; 2]) -> Result<()> {
    ensure!(packet["verdict"] == "delivered", "the verdict is {}", packet["verdict"]);
    ensure!(packet["lost_records"] == 0, "records were lost");
    let hops = packet["hops"].as_array().context("there are no hops")?;
    let roles: Vec<_> = hops.iter().filter_map(|hop| hop["role"].as_str()).collect();
    ensure!(roles == ROLES, "the hops are {roles:?}");
    let [near, far] = if is_there(packet) { nodes } else { [nodes[1], nodes[0]] };
    for (number, hop) in hops.iter().enumerate() {
        let (node, direction) =
            if number < 4 { (near, ["egress", "ingress"]) } else { (far, ["ingress", "egress"]) };
        // At a pod's peer a packet goes the other way than at all other devices of its side.
        let direction = direction[usize::from(hop["role"] == "pod-peer")];
        ensure!(hop["node"] == node && hop["direction"] == direction, "hop {number} is {hop}");
    }
    let legs = packet["legs"].as_array().context("there are no legs")?;
    ensure!(legs.len() == 7, "there are {} legs", legs.len());
    for (number, leg) in legs.iter().enumerate() {
        let is_known = !leg["latency_ns"].is_null();
        ensure!(is_known == (number != 3), "leg {number} takes {}", leg["latency_ns"]);
    }
    Ok(())
}

fn is_there(packet: &Value) -> bool {
    packet["src"]["pod"] == "curl"
}

/// The second clock is ahead and gains. An echo and its answer go over the wire in opposite directions: half of the sum
/// of what the two legs seem to differ by is free of what both take.
fn check_clocks(packets: &[Value]) -> Result<()> {
    let time = |packet: &Value, hop: usize| packet["hops"][hop]["time_ns"].as_i64().unwrap_or_default();
    let mut ahead: Vec<(u64, i64)> = Vec::new();
    for echo in packets.iter().filter(|packet| packet["protocol"] == "icmp" && is_there(packet)) {
        let sequence = echo["icmp"]["seq"].as_u64().context("an echo has no number")?;
        let answer = packets
            .iter()
            .find(|other| other["icmp"]["seq"] == sequence && other["icmp"]["type"] == 0)
            .with_context(|| format!("echo {sequence} has no answer"))?;
        let there = time(echo, 4) - time(echo, 3);
        let back = time(answer, 3) - time(answer, 4);
        ahead.push((sequence, (there + back) / 2));
    }
    ahead.sort_unstable();
    let (Some((_, first)), Some((_, last))) = (ahead.first(), ahead.last()) else {
        bail!("there are no echoes")
    };
    ensure!(AHEAD_NS.contains(first), "the second clock is {first} ns ahead, not {AHEAD_NS:?}");
    ensure!(
        GAIN_NS.contains(&(last - first)),
        "the second clock has gained {} ns, not {GAIN_NS:?}",
        last - first
    );
    eprintln!(
        "vm: the second node's clock was {:.3} s ahead and gained {:.1} ms in 5 s",
        *first as f64 / 1e9,
        (last - first) as f64 / 1e6
    );
    Ok(())
}
