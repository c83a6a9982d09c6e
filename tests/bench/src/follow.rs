//! What only a follow has: records at a fixed rate, the delay to the screen, the time to the first hop.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tracer_agents::Installed;

use crate::load::Ends;
use crate::process::{Process, cpu_seconds, resident_mib};
use crate::state::{State, follow, losses, summary};
use crate::{Bench, Options};

/// Packets a second that make 500,000 records a second.
pub(crate) const FULL_RATE: u32 = 62_500;
/// Packets a second that two agents, their client and the double of the API server manage on two CPUs.
const AGENTS_RATE: u32 = 25_000;
const RATE_SECONDS: f64 = 4.0;
const TRICKLE: u32 = 200;
/// Packets whose delay is measured.
const WATCHED: usize = 500;
const SOON: Duration = Duration::from_secs(30);

/// A follow of all packets at a fixed rate.
#[derive(Clone, Debug)]
pub(crate) struct AtARate {
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
    /// What the hooks say they have recorded, and what had no room in the ring.
    pub(crate) recorded: u64,
    pub(crate) ring_full: u64,
    /// Packets told, and those told as delivered.
    pub(crate) told: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Of one core.
    pub(crate) cpu_share: f64,
    pub(crate) resident_mib: f64,
}

pub(crate) fn at_a_rate(bench: &Bench, rate: u32, options: Options) -> Result<AtARate> {
    eprintln!("bench: {rate} packets a second, all followed");
    let process = follow(&bench.tracer, "curl")?;
    let pids = [process.pid()];
    let before = cpu_seconds(&pids)?;
    let seconds = if options.quick { 1.0 } else { RATE_SECONDS };
    let udp = bench.ends.udp_at(rate, seconds)?;
    let cpu_share = (cpu_seconds(&pids)? - before) / udp.seconds;
    let resident_mib = resident_mib(&pids)?;
    let summary = summary(&process.end()?.stdout)?;
    let count =
        |path: &str| summary.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path}"));
    Ok(AtARate {
        packets: udp.packets,
        seconds: udp.seconds,
        recorded: count("/hooks/recorded")?,
        ring_full: count("/hooks/ring_full")?,
        told: count("/packets/total")?,
        delivered: count("/packets/delivered")?,
        lost: losses(&summary),
        cpu_share,
        resident_mib,
    })
}

impl AtARate {
    pub(crate) fn records_per_second(&self) -> f64 {
        self.recorded as f64 / self.seconds
    }

    /// Records that there must be.
    pub(crate) fn expected(&self) -> u64 {
        self.packets * u64::from(State::Following.hops())
    }
}

/// What each of two agents takes while a client joins what they send: no more than on a node of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfAgents {
    /// Of each.
    pub(crate) records_per_second: f64,
    /// Of the busier one, of one core.
    pub(crate) cpu_share: f64,
    /// Of the larger one.
    pub(crate) resident_mib: f64,
    pub(crate) lost: u64,
}

pub(crate) fn by_agents(options: Options) -> Result<OfAgents> {
    let rate = if options.quick { 5_000 } else { AGENTS_RATE };
    eprintln!("bench: {rate} packets a second, followed by agents");
    let installed = Installed::new()?;
    let ends = Ends::open(&installed.lab)?;
    let arguments = ["--pod", "curl", "--to", "httpbin", "--quiet"];
    let client = Process::start(&mut installed.command("ann", "follow", &arguments)?, "following ")?;
    let before: Vec<f64> =
        installed.agents.iter().map(|agent| cpu_seconds(&[agent.pid()])).collect::<Result<_>>()?;
    let udp = ends.udp_at(rate, if options.quick { 1.0 } else { RATE_SECONDS })?;
    let (mut cpu_share, mut resident) = (0_f64, 0_f64);
    for (agent, before) in installed.agents.iter().zip(before) {
        cpu_share = cpu_share.max((cpu_seconds(&[agent.pid()])? - before) / udp.seconds);
        resident = resident.max(resident_mib(&[agent.pid()])?);
    }
    let summary = summary(&client.end()?.stdout)?;
    let recorded = summary.pointer("/hooks/recorded").and_then(Value::as_u64).context("no records")?;
    let nodes = installed.agents.len() as f64;
    let records_per_second = recorded as f64 / nodes / udp.seconds;
    Ok(OfAgents { records_per_second, cpu_share, resident_mib: resident, lost: losses(&summary) })
}

/// From the last hop of a packet to its line on stdout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) packets: usize,
}

pub(crate) fn to_the_screen(bench: &Bench, options: Options) -> Result<Delay> {
    eprintln!("bench: delay to the screen");
    let watched = if options.quick { 50 } else { WATCHED };
    let mut told = Lines::start(bench)?;
    let _sending = bench.ends.trickle(TRICKLE)?;
    // Those that were under way when it began are seen in part, and waited for.
    for _ in 0..TRICKLE / 2 {
        told.next()?;
    }
    let mut delays = Vec::with_capacity(watched);
    while delays.len() < watched {
        let (value, at) = told.next()?;
        let hops = value["hops"].as_array().and_then(|hops| hops.last());
        let Some(last) = hops.and_then(|hop| hop["time_ns"].as_u64()) else { continue };
        delays.push(at.saturating_sub(Duration::from_nanos(last)));
    }
    delays.sort_unstable();
    Ok(Delay {
        median: delays[delays.len() / 2],
        p99: delays[(delays.len() * 99).div_ceil(100) - 1],
        packets: delays.len(),
    })
}

/// From the command to the first packet told of, while packets come all the time.
pub(crate) fn first_hop(bench: &Bench) -> Result<Duration> {
    let _sending = bench.ends.trickle(TRICKLE)?;
    let since = Instant::now();
    Lines::start(bench)?.next()?;
    Ok(since.elapsed())
}

/// Trajectories as a follow prints them, with the wall-clock time at which each line came.
struct Lines {
    child: Child,
    lines: std::sync::mpsc::Receiver<(String, Duration)>,
}

impl Lines {
    fn start(bench: &Bench) -> Result<Self> {
        let arguments = ["--pod", "curl", "--to", "httpbin", "--packets", "-o", "json"];
        let mut command = bench.tracer.command("follow", &arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start tracer")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            let all = stdout.lines().map_while(Result::ok);
            all.map(|line| (line, now())).try_for_each(|line| sender.send(line)).ok();
        });
        Ok(Self { child, lines })
    }

    fn next(&mut self) -> Result<(Value, Duration)> {
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok((line, at)) => {
                    let value: Value =
                        serde_json::from_str(&line).context("tracer follow printed no JSON")?;
                    if value["schema"] == "tracer.trajectory/v1" {
                        return Ok((value, at));
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("tracer follow told of no packet within {SOON:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("tracer follow has ended"),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
