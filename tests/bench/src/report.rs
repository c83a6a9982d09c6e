//! What is printed.

use std::fs;

use crate::Options;
use crate::follow::{AtARate, Delay, FULL_RATE};
use crate::load::PAYLOAD;
use crate::many::Many;
use crate::pairs::{Sample, Spread};
use crate::runs::Runs;
use crate::state::State;

pub(crate) fn print_machine(options: Options) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "machine   {cpus} CPUs, {}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    );
    println!(
        "network   two nodes with VXLAN between them, pod curl to pod httpbin, eight devices on the way"
    );
    println!(
        "runs      {} pairs of each state, {} s of each kind of traffic; UDP with {PAYLOAD} bytes\n",
        options.pairs, options.seconds
    );
}

pub(crate) fn print_states(samples: &[Sample], runs: &[Runs]) {
    if let Some(first) = samples.first() {
        let base = |figure: fn(&crate::pairs::Pair) -> f64| first.of(figure).median;
        println!(
            "nothing: {:.0} packets/s, {:.0} ns of the sender's CPU a packet; TCP {:.2} Gbit/s; round trip p50 {:.0} us\n",
            base(|pair| pair.base.udp.rate()),
            base(|pair| pair.base.udp.cpu_per_packet_ns()),
            base(|pair| pair.base.tcp * 8.0 / 1e9),
            base(|pair| pair.base.round_trip.as_secs_f64() * 1e6),
        );
    }
    println!("medians (least to most) of pairs, relative to nothing");
    println!(
        "{:<27} {:>18} {:>18} {:>6} {:>6} {:>18} {:>18} {:>6} {:>6} {:>8}",
        "state",
        "UDP packets/s",
        "+ns/hop",
        "runs",
        "ns/run",
        "TCP",
        "round trip p50",
        "CPU %",
        "MiB",
        "lost"
    );
    for sample in samples {
        let run = runs.iter().find(|run| run.state == sample.state);
        let cell = |spread: Spread, digits: usize| {
            format!("{:.digits$} ({:.digits$}-{:.digits$})", spread.median, spread.least, spread.most)
        };
        println!(
            "{:<27} {:>18} {:>18} {:>6} {:>6} {:>18} {:>18} {:>6.1} {:>6.1} {:>8}",
            sample.state.name(),
            cell(sample.packet_rate(), 2),
            cell(sample.added_per_hop_ns(), 0),
            run.map_or_else(|| "-".to_owned(), |run| format!("{:.1}", run.per_packet)),
            run.and_then(|run| run.ns).map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}")),
            cell(sample.throughput(), 2),
            cell(sample.round_trip(), 2),
            sample.of(|pair| pair.cpu_share * 100.0).median,
            sample.of(|pair| pair.resident_mib).median,
            sample.lost().map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
        );
    }
    println!();
}

pub(crate) fn print_others(rate: &AtARate, screen: &Delay, first_hop: std::time::Duration, many: &Many) {
    println!(
        "all followed at a fixed rate: {} packets in {:.1} s, {:.0} records/s, {} lost, {:.0} % of one core, {:.1} MiB",
        rate.packets,
        rate.seconds,
        rate.records_per_second(),
        rate.lost,
        rate.cpu_share * 100.0,
        rate.resident_mib
    );
    println!(
        "to the screen: p50 {:.0} ms, p99 {:.0} ms behind the last hop ({} packets)",
        screen.median.as_secs_f64() * 1e3,
        screen.p99.as_secs_f64() * 1e3,
        screen.packets
    );
    println!("from the command to the first packet told: {:.2} s", first_hop.as_secs_f64());
    println!(
        "{} pods: {} hooks attached in {:.2} s, detached in {:.2} s, {:.1} MiB\n",
        many.pods,
        many.hooks,
        many.attached.as_secs_f64(),
        many.detached.as_secs_f64(),
        many.resident_mib
    );
}

/// What a figure is to be at most, or at least.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

pub(crate) fn print_targets(samples: &[Sample], rate: &AtARate, screen: &Delay, many: &Many) {
    let sample = |state: State| samples.iter().find(|sample| sample.state == state);
    let added = |state: State| sample(state).map_or(f64::NAN, |sample| sample.added_per_hop_ns().median);
    let of = |state: State, figure: fn(&Sample) -> Spread| {
        sample(state).map_or(f64::NAN, |sample| figure(sample).median)
    };
    let lines = [
        ("nobody asks: packet rate", of(State::AgentsIdle, Sample::packet_rate), Bound::AtLeast(0.97)),
        ("armed: ns/hop of the no-op's", added(State::Armed) / added(State::NoOp), Bound::AtMost(1.4)),
        (
            "armed: ns/hop of tcpdump's that matches nothing",
            added(State::Armed) / added(State::TcpdumpNothing),
            Bound::AtMost(0.5),
        ),
        (
            "metrics 1 in 64: ns/hop of the no-op's",
            added(State::Metrics) / added(State::NoOp),
            Bound::AtMost(1.6),
        ),
        (
            "following all: ns/hop of tcpdump's -w /dev/null",
            added(State::Following) / added(State::TcpdumpAll),
            Bound::AtMost(0.55),
        ),
        ("following all: packet rate", of(State::Following, Sample::packet_rate), Bound::AtLeast(0.86)),
        ("following all: TCP", of(State::Following, Sample::throughput), Bound::AtLeast(0.97)),
        ("following all: round trip p50", of(State::Following, Sample::round_trip), Bound::AtMost(1.05)),
        ("at the fixed rate: records lost", rate.lost as f64, Bound::AtMost(0.0)),
        ("at the fixed rate: cores", rate.cpu_share, Bound::AtMost(0.25)),
        ("at the fixed rate: MiB", rate.resident_mib, Bound::AtMost(60.0)),
        ("to the screen: seconds at p99", screen.p99.as_secs_f64(), Bound::AtMost(0.1)),
        ("all pods attached: seconds", many.attached.as_secs_f64(), Bound::AtMost(3.0)),
        ("all pods detached: seconds", many.detached.as_secs_f64(), Bound::AtMost(1.0)),
    ];
    println!("targets (the fixed rate is meant to be {FULL_RATE} packets/s, the pods 250)");
    for (what, figure, bound) in lines {
        let (word, limit, is_met) = match bound {
            Bound::AtMost(limit) => ("at most", limit, figure <= limit),
            Bound::AtLeast(limit) => ("at least", limit, figure >= limit),
        };
        let verdict = if is_met { "met" } else { "NOT MET" };
        println!("  {what:<48} {figure:>8.2}  {word:>8} {limit:>5.2}  {verdict}");
    }
    println!();
}

/// What is counted and cannot be: no timings.
pub(crate) fn wrong(samples: &[Sample], runs: &[Runs], rate: &AtARate) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, text: String| {
        if !holds {
            wrong.push(text);
        }
    };
    for run in runs {
        let expected = if run.state == State::AgentsIdle { 0.0 } else { f64::from(run.state.hops()) };
        // Neighbours and other devices' own packets are few.
        must(
            (run.per_packet - expected).abs() < 0.2,
            format!("{}: {:.2} runs a packet, not {expected}", run.state.name(), run.per_packet),
        );
    }
    must(
        rate.recorded + rate.ring_full == rate.expected(),
        format!(
            "{} packets are {} records, but {} were recorded and {} had no room",
            rate.packets,
            rate.expected(),
            rate.recorded,
            rate.ring_full
        ),
    );
    must(
        rate.lost > 0 || (rate.told, rate.delivered) == (rate.packets, rate.packets),
        format!(
            "nothing was lost, but of {} packets {} were told and {} of them delivered",
            rate.packets, rate.told, rate.delivered
        ),
    );
    for sample in samples {
        let most = sample.of(|pair| pair.resident_mib).most;
        must(most < 600.0, format!("{}: {most:.0} MiB of memory", sample.state.name()));
        let added = sample.added_per_hop_ns().median;
        must(
            added.is_finite() && added < 20_000.0,
            format!("{}: {added:.0} ns a hop is another order of magnitude", sample.state.name()),
        );
    }
    wrong
}
