//! Many pods: how long it takes until all their devices have our hooks, and until none has.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tracer_integration::Tracer;
use tracer_lab::{Direction, Foreign, ForeignHook, ForeignVerdict, Lab, Topology};

use crate::process::{Process, resident_mib};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Many {
    pub(crate) pods: u16,
    /// Hooks: both directions of the pods' own devices, their peers and the nodes' devices.
    pub(crate) hooks: usize,
    /// From the command until it says that it measures.
    pub(crate) attached: Duration,
    /// From the signal until the process is gone.
    pub(crate) detached: Duration,
    pub(crate) resident_mib: f64,
    /// The same with a program that does nothing: the kernel's own time for it.
    pub(crate) no_op_attached: Duration,
    pub(crate) no_op_detached: Duration,
}

pub(crate) fn attach(pods: u16) -> Result<Many> {
    eprintln!("bench: {pods} pods");
    let mut lab = Lab::build(Topology::RoutedVxlan)?;
    for number in 0..pods {
        let node = lab.nodes()[usize::from(number % 2)].name().to_owned();
        lab.add_pod(&node, &format!("many-{number}"))?;
    }
    let tracer = Tracer::new(&lab)?;
    let since = Instant::now();
    let mut metrics = tracer.command("metrics", &["--listen", "127.0.0.1:0", "--sample", "64"]);
    let process = Process::start(&mut metrics, "measuring ")?;
    let attached = since.elapsed();
    let resident_mib = resident_mib(&[process.pid()])?;
    let left = process.end()?;
    let line = left.stderr.iter().find(|line| line.contains("measuring ")).context("it said nothing")?;
    // "measuring 1 packet in 64 at 1032 points; ...".
    let points = line.split(" points").next().and_then(|before| before.rsplit(' ').next());
    let hooks = points.and_then(|points| points.parse().ok()).with_context(|| line.clone())?;
    let (no_op_attached, no_op_detached) = no_op(&lab)?;
    Ok(Many { pods, hooks, attached, detached: left.took, resident_mib, no_op_attached, no_op_detached })
}

fn no_op(lab: &Lab) -> Result<(Duration, Duration)> {
    let mut places: Vec<(String, String)> = Vec::new();
    for pod in lab.pods() {
        places.push((pod.label(), "eth0".to_owned()));
        places.push((lab.node_of(pod).name().to_owned(), pod.host_device().to_owned()));
    }
    for node in lab.nodes() {
        places.extend(["vxlan.calico", "eth0"].map(|device| (node.name().to_owned(), device.to_owned())));
    }
    let foreign = Foreign { hook: ForeignHook::TcxTail, verdict: ForeignVerdict::Next };
    let since = Instant::now();
    let mut programs = Vec::new();
    for (place, device) in places {
        for direction in [Direction::Ingress, Direction::Egress] {
            programs.push(lab.attach_foreign(&place, &device, direction, &foreign)?);
        }
    }
    let attached = since.elapsed();
    let since = Instant::now();
    drop(programs);
    Ok((attached, since.elapsed()))
}
