//! What must hold for what a follow of two machines told.

use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How far the second node's wall clock may be ahead, seconds: what was set, to a second, and what it has gained since.
const AHEAD: RangeInclusive<f64> = 36.0..=39.0;
/// What it may gain while the echoes are sent, which takes 5 s: 1 % of that, give or take what an emulated machine is
/// late.
const GAIN_NS: RangeInclusive<i64> = 20_000_000..=90_000_000;
/// The leg from one machine to the other.
const WIRE: usize = 3;
/// A device at each of a packet's hooks, from the sender's pod to the receiver's.
const ROLES: [&str; 8] =
    ["pod-interface", "pod-peer", "tunnel", "nic", "nic", "tunnel", "pod-peer", "pod-interface"];

/// Checks what a follow told and said. `nodes`: curl's, then httpbin's; the former's stream is the first.
///
/// # Errors
/// The first thing that does not hold.
pub(super) fn check(lines: &[String], said: &[String], nodes: [&str; 2]) -> Result<()> {
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
    check_wall_clocks(said, nodes)?;
    check_clocks(&packets)
}

/// One trajectory with all hops of both nodes in order, and a bound for the time between the two clocks.
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
        // The answer to the first packet may come too late to wait for it: an emulated machine is slow.
        if number == WIRE && packet["id"] == 1 && leg["latency_unknown"] == "one direction only" {
            continue;
        }
        let (least, most) = latency(leg).with_context(|| format!("leg {number} is {leg}"))?;
        ensure!((least < most) == (number == WIRE), "leg {number} is {leg}");
    }
    let times: Vec<_> = hops.iter().map(|hop| hop["time_ns"].as_u64()).collect();
    ensure!(
        times.is_sorted() || packet["id"] == 1,
        "the times by one wall clock are not in order: {times:?}"
    );
    Ok(())
}

/// The least and the most that a leg may have taken, nanoseconds; an error if that is not told, or is negative.
fn latency(leg: &Value) -> Result<(u64, u64)> {
    let number = |field: &str| leg[field].as_u64().with_context(|| format!("there is no {field}"));
    let (ns, error_ns) = (number("latency_ns")?, number("latency_error_ns")?);
    Ok((ns.checked_sub(error_ns).context("the bound begins below 0")?, ns + error_ns))
}

fn is_there(packet: &Value) -> bool {
    packet["src"]["pod"] == "curl"
}

/// By what the packets tell of the two clocks, the second machine's wall clock is ahead by what it was set.
fn check_wall_clocks(said: &[String], [near, far]: [&str; 2]) -> Result<()> {
    let said = said.join("\n");
    ensure!(!said.contains("contradict"), "the clocks seem to contradict each other: {said}");
    let (begin, end) =
        (format!("the wall clock of node {far} is "), format!(" s ahead of that of node {near}"));
    let ahead = said.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let (ahead, _) = ahead.with_context(|| format!("nothing says that {far}'s clock is ahead: {said}"))?;
    let ahead: f64 = ahead.parse().with_context(|| format!("{ahead:?} is no number"))?;
    ensure!(AHEAD.contains(&ahead), "the second clock is {ahead} s ahead, not {AHEAD:?}");
    eprintln!("vm: the second node's wall clock was {ahead} s ahead");
    Ok(())
}

/// The second clock gains, and the times told over the wire hold all the same. An echo and its answer go over it in
/// opposite directions: half of the sum of what the two legs seem to differ by is free of what both take, and the
/// difference is what they take together, whatever the clocks show.
fn check_clocks(packets: &[Value]) -> Result<()> {
    let time = |packet: &Value, hop: usize| packet["hops"][hop]["monotonic_ns"].as_i64().unwrap_or_default();
    let mut ahead: Vec<(u64, i64)> = Vec::new();
    let mut widest = 0;
    for echo in packets.iter().filter(|packet| packet["protocol"] == "icmp" && is_there(packet)) {
        let sequence = echo["icmp"]["seq"].as_u64().context("an echo has no number")?;
        let answer = packets
            .iter()
            .find(|other| other["icmp"]["seq"] == sequence && other["icmp"]["type"] == 0)
            .with_context(|| format!("echo {sequence} has no answer"))?;
        let there = time(echo, WIRE + 1) - time(echo, WIRE);
        let back = time(answer, WIRE) - time(answer, WIRE + 1);
        ahead.push((sequence, (there + back) / 2));

        let (least_there, most_there) = latency(&echo["legs"][WIRE])?;
        let (least_back, most_back) = latency(&answer["legs"][WIRE])?;
        widest = widest.max(most_there - least_there).max(most_back - least_back);
        // What the answering machine took is measured by a clock that is 1 % fast.
        let slack = (time(answer, WIRE) - time(echo, WIRE + 1)).unsigned_abs() / 50
            + (there - back).unsigned_abs() / 50;
        let both = (there - back).unsigned_abs();
        ensure!(
            least_there + least_back <= both + slack && both <= most_there + most_back + slack,
            "echo {sequence} and its answer took {both} ns over the wire, not {least_there}..={most_there} and \
             {least_back}..={most_back}"
        );
    }
    ahead.sort_unstable();
    let (Some((_, first)), Some((_, last))) = (ahead.first(), ahead.last()) else {
        bail!("there are no echoes")
    };
    ensure!(
        GAIN_NS.contains(&(last - first)),
        "the second clock has gained {} ns, not {GAIN_NS:?}",
        last - first
    );
    eprintln!(
        "vm: the second node's clock gained {:.1} ms in 5 s; times over the wire were known to {:.3} ms at worst",
        (last - first) as f64 / 1e6,
        widest as f64 / 2e6
    );
    Ok(())
}
