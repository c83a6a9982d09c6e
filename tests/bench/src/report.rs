//! What is printed.

use std::fs;
use std::time::Duration;

use crate::Options;
use crate::follow::{AtARate, Delay, FULL_RATE, OfAgents};
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
    if samples.is_empty() {
        for run in runs {
            println!(
                "{:<27} {:.1} runs a packet, {} ns a run",
                run.state.name(),
                run.per_packet,
                run.words()
            );
        }
        return;
    }
    if let Some(first) = samples.first() {
        let base = |figure: fn(&crate::pairs::Pair) -> f64| first.of(figure).median;
        println!(
            "nothing: {:.0} packets/s, {:.0} ns of the sender's CPU a packet; TCP {:.2} Gbit/s; round trip p50 {:.0} us\n",
            base(|pair| pair.load.udp.bare_rate()),
            base(|pair| pair.load.udp.bare_cpu_ns()),
            base(|pair| pair.load.tcp.bare_rate() * 8.0 / 1e9),
            base(|pair| pair.load.round_trip.0.as_secs_f64() * 1e6),
        );
    }
    println!("medians (least to most) of pairs, relative to nothing");
    println!(
        "{:<27} {:>18} {:>18} {:>6} {:>9} {:>18} {:>18} {:>6} {:>6} {:>8}",
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
            "{:<27} {:>18} {:>18} {:>6} {:>9} {:>18} {:>18} {:>6.1} {:>6.1} {:>8}",
            sample.state.name(),
            cell(sample.packet_rate(), 2),
            cell(sample.added_per_hop_ns(), 0),
            run.map_or_else(|| "-".to_owned(), |run| format!("{:.1}", run.per_packet)),
            run.map_or_else(|| "-".to_owned(), Runs::words),
            cell(sample.throughput(), 2),
            cell(sample.round_trip(), 2),
            sample.of(|pair| pair.cpu_share * 100.0).median,
            sample.of(|pair| pair.resident_mib).median,
            sample.lost().map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
        );
    }
    println!();
}

pub(crate) fn print_others(
    rate: Option<&AtARate>,
    of_agents: Option<OfAgents>,
    screen: Option<&(Delay, Duration)>,
    many: Option<&Many>,
) {
    if let Some(rate) = rate {
        println!(
            "all followed at a fixed rate: {} packets in {:.1} s, {:.0} records/s, {} lost, {:.0} % of one core, {:.1} MiB",
            rate.packets,
            rate.seconds,
            rate.records_per_second(),
            rate.lost,
            rate.cpu_share * 100.0,
            rate.resident_mib
        );
    }
    if let Some(agents) = of_agents {
        println!(
            "  by agents: {:.0} records/s of each, {} lost; the busier one {:.0} % of one core, {:.1} MiB",
            agents.records_per_second,
            agents.lost,
            agents.cpu_share * 100.0,
            agents.resident_mib
        );
    }
    if let Some((delay, first_hop)) = screen {
        println!(
            "to the screen: p50 {:.0} ms, p99 {:.0} ms behind the last hop ({} packets)",
            delay.median.as_secs_f64() * 1e3,
            delay.p99.as_secs_f64() * 1e3,
            delay.packets
        );
        println!("from the command to the first packet told: {:.2} s", first_hop.as_secs_f64());
    }
    if let Some(many) = many {
        println!(
            "{} pods: {} hooks attached in {:.2} s, detached in {:.2} s, {:.1} MiB",
            many.pods,
            many.hooks,
            many.attached.as_secs_f64(),
            many.detached.as_secs_f64(),
            many.resident_mib
        );
        println!(
            "  as many hooks with a program that does nothing: attached in {:.2} s, detached in {:.2} s",
            many.no_op_attached.as_secs_f64(),
            many.no_op_detached.as_secs_f64()
        );
    }
    println!();
}

/// What a figure is to be at most, or at least.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

pub(crate) fn print_targets(
    samples: &[Sample],
    rate: Option<&AtARate>,
    screen: Option<&Delay>,
    many: Option<&Many>,
) {
    use Bound::{AtLeast, AtMost};
    let sample = |state: State| samples.iter().find(|sample| sample.state == state);
    let of = |state: State, figure: fn(&Sample) -> Spread| sample(state).map(|sample| figure(sample).median);
    let share = |state: State, of_state: State| {
        Some(of(state, Sample::added_per_hop_ns)? / of(of_state, Sample::added_per_hop_ns)?)
    };
    let lines = [
        ("nobody asks: packet rate", of(State::AgentsIdle, Sample::packet_rate), AtLeast(0.97), None),
        (
            "armed: ns/hop of the no-op's",
            share(State::Armed, State::NoOp),
            AtMost(1.4),
            share(State::LeastLook, State::NoOp),
        ),
        (
            "armed: ns/hop of tcpdump's that matches nothing",
            share(State::Armed, State::TcpdumpNothing),
            AtMost(0.5),
            share(State::LeastLook, State::TcpdumpNothing),
        ),
        (
            "metrics 1 in 64: ns/hop of the no-op's",
            share(State::Metrics, State::NoOp),
            AtMost(1.6),
            share(State::LeastLook, State::NoOp),
        ),
        (
            "following all: ns/hop of tcpdump's -w /dev/null",
            share(State::Following, State::TcpdumpAll),
            AtMost(0.55),
            share(State::LeastRecord, State::TcpdumpAll),
        ),
        (
            "following all: packet rate",
            of(State::Following, Sample::packet_rate),
            AtLeast(0.86),
            of(State::LeastRecord, Sample::packet_rate),
        ),
        (
            "following all: TCP",
            of(State::Following, Sample::throughput),
            AtLeast(0.97),
            of(State::LeastRecord, Sample::throughput),
        ),
        (
            "following all: round trip p50",
            of(State::Following, Sample::round_trip),
            AtMost(1.05),
            of(State::LeastRecord, Sample::round_trip),
        ),
        ("at the fixed rate: records lost", rate.map(|rate| rate.lost as f64), AtMost(0.0), None),
        ("at the fixed rate: cores", rate.map(|rate| rate.cpu_share), AtMost(0.25), None),
        ("at the fixed rate: MiB", rate.map(|rate| rate.resident_mib), AtMost(60.0), None),
        ("to the screen: seconds at p99", screen.map(|delay| delay.p99.as_secs_f64()), AtMost(0.1), None),
        ("all pods attached: seconds", many.map(|many| many.attached.as_secs_f64()), AtMost(3.0), None),
        ("all pods detached: seconds", many.map(|many| many.detached.as_secs_f64()), AtMost(1.0), None),
    ];
    println!(
        "targets (the fixed rate is meant to be {FULL_RATE} packets/s, the pods 250), beside the least programs"
    );
    for (what, figure, bound, least) in lines {
        let Some(figure) = figure else { continue };
        let (word, limit, is_met) = match bound {
            AtMost(limit) => ("at most", limit, figure <= limit),
            AtLeast(limit) => ("at least", limit, figure >= limit),
        };
        let verdict = if is_met { "met" } else { "NOT MET" };
        let least = least.map_or_else(String::new, |least| format!("  least {least:.2}"));
        let line = format!("  {what:<48} {figure:>8.2}  {word:>8} {limit:>5.2}  {verdict:<7}{least}");
        println!("{}", line.trim_end());
    }
    println!();
}

/// What is counted and cannot be: no timings.
pub(crate) fn wrong(samples: &[Sample], runs: &[Runs], rate: Option<&AtARate>) -> Vec<String> {
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
    if let Some(rate) = rate {
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
    }
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
