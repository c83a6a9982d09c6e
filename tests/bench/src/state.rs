//! The states in which the network is measured: what is on the hooks, and whose process runs beside.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tracer_agents::{Agent, Cluster};
use tracer_integration::Tracer;
use tracer_lab::{Direction, Foreign, ForeignHook, ForeignProgram, ForeignVerdict, Lab, Netns};

use crate::Bench;
use crate::least::Least;
use crate::process::{Process, cpu_seconds, resident_mib};

/// How often is looked whether a process still works.
const LOOK: Duration = Duration::from_millis(100);
/// When it must have done what it had to.
const SOON: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A program that does nothing, at both hooks of the eight devices.
    NoOp,
    /// The least that tells whose a packet is, and the least that records it ([`crate::least`]).
    LeastLook,
    LeastRecord,
    /// Agents of both nodes, whom nobody asks.
    AgentsIdle,
    /// Latency of legs for Prometheus, one packet in 64.
    Metrics,
    /// A follow of other pods; its filter lets nothing of this traffic through.
    Armed,
    /// A follow of all packets, joined and counted.
    Following,
    /// tcpdump on the eight devices, with a filter that lets nothing through.
    TcpdumpNothing,
    TcpdumpAll,
}

/// A state that is. Ending it tells what was lost meanwhile.
pub(crate) struct Running {
    processes: Vec<u32>,
    held: Held,
}

enum Held {
    Programs { _programs: Vec<ForeignProgram> },
    Least(Least),
    Agents { _cluster: Box<Cluster>, _agents: Vec<Agent> },
    Tracer(Process),
    Tcpdump(Vec<Process>),
}

impl State {
    pub(crate) const ALL: [Self; 9] = [
        Self::NoOp,
        Self::LeastLook,
        Self::LeastRecord,
        Self::AgentsIdle,
        Self::Metrics,
        Self::Armed,
        Self::Following,
        Self::TcpdumpNothing,
        Self::TcpdumpAll,
    ];

    /// Whether it has programs at hooks, whose runs the kernel counts.
    pub(crate) const fn is_on_hooks(self) -> bool {
        !matches!(self, Self::TcpdumpNothing | Self::TcpdumpAll)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NoOp => "no-op program, TCX",
            Self::LeastLook => "least: a look",
            Self::LeastRecord => "least: a 64-byte record",
            Self::AgentsIdle => "tracer: agents, nobody asks",
            Self::Metrics => "tracer: metrics, 1 in 64",
            Self::Armed => "tracer: armed, not matching",
            Self::Following => "tracer: following all",
            Self::TcpdumpNothing => "tcpdump, matching nothing",
            Self::TcpdumpAll => "tcpdump -w /dev/null",
        }
    }

    /// Places at which a packet from curl to httpbin meets it.
    pub(crate) const fn hops(self) -> u32 {
        match self {
            // Not curl's own device and its peer, as curl is not followed.
            Self::Armed => 6,
            _ => 8,
        }
    }

    pub(crate) fn start(self, bench: &Bench) -> Result<Running> {
        let tracer =
            |process: Process| Running { processes: vec![process.pid()], held: Held::Tracer(process) };
        let context = || format!("cannot start: {}", self.name());
        match self {
            Self::NoOp => no_op(&bench.lab),
            Self::LeastLook => least(&bench.lab, "least_look"),
            Self::LeastRecord => least(&bench.lab, "least_record"),
            Self::AgentsIdle => agents(&bench.lab),
            Self::Metrics => {
                let arguments = ["--listen", "127.0.0.1:0", "--sample", "64"];
                Process::start(&mut bench.tracer.command("metrics", &arguments), "measuring ").map(tracer)
            }
            Self::Armed => follow(&bench.tracer, "httpbin-local").map(tracer),
            Self::Following => follow(&bench.tracer, "curl").map(tracer),
            Self::TcpdumpNothing => tcpdump(&bench.lab, &["udp", "and", "src", "port", "1"]),
            Self::TcpdumpAll => tcpdump(&bench.lab, &[]),
        }
        .with_context(context)
    }
}

impl Running {
    /// User and system time of its processes so far, seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.processes)
    }

    pub(crate) fn resident_mib(&self) -> Result<f64> {
        resident_mib(&self.processes)
    }

    /// Until its processes take next to no CPU.
    pub(crate) fn wait_until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        let mut before = self.cpu_seconds()?;
        while Instant::now() < deadline {
            // sleep: the time in which it may take one tick.
            thread::sleep(LOOK);
            let now = self.cpu_seconds()?;
            if now - before <= LOOK.as_secs_f64() / 10.0 {
                return Ok(());
            }
            before = now;
        }
        bail!("it goes on working {SOON:?} after the last packet")
    }

    /// Packets or records lost; `None` where nothing is kept that could be.
    pub(crate) fn end(self) -> Result<Option<u64>> {
        match self.held {
            Held::Programs { .. } | Held::Agents { .. } => Ok(None),
            Held::Least(least) => least.end().map(Some),
            Held::Tracer(process) => lost_by_tracer(&process.end()?.stdout),
            Held::Tcpdump(processes) => {
                let mut lost = 0;
                for process in processes {
                    lost += lost_by_tcpdump(&process.end()?.stderr)?;
                }
                Ok(Some(lost))
            }
        }
    }
}

/// A follow of a pod to httpbin that only counts.
pub(crate) fn follow(tracer: &Tracer, pod: &str) -> Result<Process> {
    let arguments = ["--pod", pod, "--to", "httpbin", "--quiet", "-o", "json"];
    Process::start(&mut tracer.command("follow", &arguments), "following ")
}

/// The last line of a follow.
pub(crate) fn summary(stdout: &str) -> Result<Value> {
    let line = stdout.lines().last().context("tracer follow printed nothing")?;
    serde_json::from_str(line).context("tracer follow printed no JSON")
}

/// All losses of a summary; packets of others are none.
pub(crate) fn losses(summary: &Value) -> u64 {
    let losses = summary["losses"].as_object().into_iter().flatten();
    losses.filter(|(stage, _)| *stage != "unrelated").filter_map(|(_, count)| count.as_u64()).sum()
}

fn lost_by_tracer(stdout: &str) -> Result<Option<u64>> {
    // Metrics print nothing.
    if stdout.is_empty() { Ok(None) } else { Ok(Some(losses(&summary(stdout)?))) }
}

/// "12 packets dropped by kernel", "1 packet dropped by kernel".
fn lost_by_tcpdump(said: &[String]) -> Result<u64> {
    let line = said.iter().find(|line| line.ends_with(" dropped by kernel"));
    let count = line.and_then(|line| line.split(' ').next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("tcpdump said {said:?}"))
}

/// Where packets between curl and httpbin pass: device, and the name of its place.
fn named_devices(lab: &Lab) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for pod in ["curl", "httpbin"] {
        let pod = lab.pod(pod);
        let node = lab.node_of(&pod).name().to_owned();
        all.push((pod.label(), "eth0".to_owned()));
        all.push((node.clone(), pod.host_device().to_owned()));
        all.push((node.clone(), "vxlan.calico".to_owned()));
        all.push((node, "eth0".to_owned()));
    }
    all
}

/// The same with their namespaces.
pub(crate) fn devices(lab: &Lab) -> Result<Vec<(Netns, String)>> {
    let of = |(place, device): (String, String)| {
        let pods = lab.pods().iter().find(|pod| pod.label() == place).map(|pod| pod.netns().clone());
        let nodes = lab.nodes().iter().find(|node| node.name() == place).map(|node| node.netns().clone());
        Ok((pods.or(nodes).with_context(|| format!("there is no {place}"))?, device))
    };
    named_devices(lab).into_iter().map(of).collect()
}

pub(crate) fn no_op(lab: &Lab) -> Result<Running> {
    let foreign = Foreign { hook: ForeignHook::TcxTail, verdict: ForeignVerdict::Next };
    let mut programs = Vec::new();
    for (place, device) in named_devices(lab) {
        for direction in [Direction::Ingress, Direction::Egress] {
            programs.push(lab.attach_foreign(&place, &device, direction, &foreign)?);
        }
    }
    Ok(Running { processes: Vec::new(), held: Held::Programs { _programs: programs } })
}

fn least(lab: &Lab, program: &'static str) -> Result<Running> {
    // Its reader is a thread of ours, and as cheap as can be.
    Ok(Running { processes: Vec::new(), held: Held::Least(Least::attach(lab, program)?) })
}

fn agents(lab: &Lab) -> Result<Running> {
    let cluster = Cluster::of(lab)?;
    let agents: Vec<_> =
        lab.nodes().iter().map(|node| Agent::start(&cluster, node.name())).collect::<Result<_>>()?;
    let processes = agents.iter().map(Agent::pid).collect();
    Ok(Running { processes, held: Held::Agents { _cluster: Box::new(cluster), _agents: agents } })
}

fn tcpdump(lab: &Lab, filter: &[&str]) -> Result<Running> {
    let mut running = Vec::new();
    for (netns, device) in devices(lab)? {
        let mut command: Command = netns.command("tcpdump");
        command.args(["-i", &device, "-n", "-p", "-w", "/dev/null"]).args(filter);
        running.push(Process::start(&mut command, "listening on ")?);
    }
    Ok(Running { processes: running.iter().map(Process::pid).collect(), held: Held::Tcpdump(running) })
}
