//! One scenario, recorded: what each node's observer wrote, and the truth.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tracer_integration::{Observe, Tracer, patient};
use tracer_lab::{Capture, Lab, Options, Pod, RelayOptions, Topology, Wire};

use crate::scenario::{Scenario, WireKind};
use crate::stream::{self, Stream};
use crate::truth::{Evidence, Truth};

const NODES: [&str; 2] = ["telekom-xwkb3", "telekom-xwkb8"];
const FILES: [&str; 2] = ["near.stream", "far.stream"];
/// How long the observers go on when nothing more is sent: packets that are lost must be known as lost before the streams
/// end.
const QUIET: Duration = Duration::from_millis(1500);
/// How long a pod that has come may take until it is observed.
const ATTACHED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Its own device and the node's end of the pair, both directions.
const POINTS_OF_A_POD: usize = 4;

/// How a recording came about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) scenario: String,
    pub(crate) topology: String,
    pub(crate) wire: String,
    pub(crate) seed: u64,
    pub(crate) selection: Vec<String>,
}

/// Who must be told of pods that come while it is recorded.
pub(crate) struct Onlookers<'a> {
    capture: Capture,
    tracer: &'a Tracer,
    /// What the observers write.
    files: &'a [PathBuf; 2],
    /// Labels of the pods that came, with their nodes: they may go again.
    visitors: Vec<(String, usize)>,
    /// What the replay is given. No address is used twice, so it may hold pods that have gone.
    inventory: String,
}

impl Onlookers<'_> {
    /// Captures in a pod that has come, tells of it, and waits until its node's observer sees it.
    ///
    /// # Errors
    /// When it cannot be captured, or is not observed in time.
    pub(crate) fn welcome(&mut self, pod: &Pod, lab: &Lab) -> Result<()> {
        let node = lab.node_of(pod);
        let node = NODES.iter().position(|name| *name == node.name()).context("a pod of no node")?;
        self.visitors.push((pod.label(), node));
        self.capture.add(&pod.label(), pod.netns())?;
        self.tracer.update_inventory(lab)?;
        self.inventory = read_inventory(self.tracer)?;
        let deadline = Instant::now() + patient(ATTACHED);
        while stream::points_of(&fs::read(&self.files[node])?, pod.name()) < POINTS_OF_A_POD {
            ensure!(Instant::now() < deadline, "{} is not observed after {ATTACHED:?}", pod.label());
            // sleep: looks into a file that grows, with a deadline.
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn read_inventory(tracer: &Tracer) -> Result<String> {
    fs::read_to_string(tracer.inventory()).context("cannot read the inventory")
}

pub(crate) struct Recording {
    pub(crate) origin: Origin,
    pub(crate) inventory: String,
    pub(crate) bytes: [Vec<u8>; 2],
    pub(crate) streams: [Stream; 2],
    pub(crate) truth: Truth,
}

impl Recording {
    /// Builds a lab, sends, observes and finds out the truth.
    ///
    /// # Errors
    /// When anything cannot be started, or the evidence is not whole.
    pub(crate) fn make(
        scenario: Scenario,
        topology: Topology,
        wire: &WireKind,
        seed: u64,
        scale: u64,
    ) -> Result<Self> {
        let options = Options {
            wire: Wire::Relay(RelayOptions { seed, ..RelayOptions::default() }),
            ..Options::default()
        };
        let mut lab = Lab::build_with(topology, options)?;
        scenario.prepare(&mut lab)?;
        greet(&lab)?;
        let tracer = Tracer::new(&lab)?;
        let directory = TempDir::new().context("cannot make a directory for the streams")?;
        let files = FILES.map(|file| directory.path().join(file));
        let capture = lab.capture_everywhere()?;
        let wall_ns = now_ns(ClockId::Realtime) - now_ns(ClockId::Monotonic);
        let selection = scenario.selection();
        let mut observers: Vec<Observe> = Vec::new();
        for (node, file) in NODES.iter().zip(&files) {
            let arguments: Vec<&str> = selection.iter().copied().chain(["--node", node]).collect();
            observers.push(tracer.observe(&arguments, File::create(file)?)?);
        }
        let relay = lab.relay().context("a lab without a relay")?;
        relay.forget()?;
        relay.set(wire.impairments);
        let inventory = read_inventory(&tracer)?;
        let mut onlookers =
            Onlookers { capture, tracer: &tracer, files: &files, visitors: Vec::new(), inventory };
        scenario.run(&mut lab, scale, &mut onlookers)?;
        let relay = lab.relay().context("a lab without a relay")?;
        relay.settle()?;
        // sleep: that nothing more comes is what is waited for.
        thread::sleep(QUIET);
        observers.into_iter().try_for_each(Observe::stop)?;
        let Onlookers { capture, visitors, inventory, .. } = onlookers;
        let captured = capture.stop()?;
        let bytes = files.each_ref().map(|file| fs::read(file).unwrap_or_default());
        let streams = [Stream::read(&bytes[0])?, Stream::read(&bytes[1])?];
        let evidence =
            Evidence { lab: &lab, captured: &captured, relay: &relay.log(), wall_ns, visitors: &visitors };
        let truth = Truth::establish(&evidence, &streams)?;
        let origin = Origin {
            scenario: scenario.name().to_owned(),
            topology: topology.to_string(),
            wire: wire.name.to_owned(),
            seed,
            selection: selection.map(str::to_owned).to_vec(),
        };
        Ok(Self { origin, inventory, bytes, streams, truth })
    }

    /// Writes it into a directory of its own, from which [`Recording::load`] has it back.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (file, bytes) in FILES.iter().zip(&self.bytes) {
            fs::write(directory.join(file), bytes)?;
        }
        fs::write(directory.join("inventory.yaml"), &self.inventory)?;
        fs::write(directory.join("origin.json"), serde_json::to_vec_pretty(&self.origin)?)?;
        fs::write(directory.join("truth.json"), serde_json::to_vec(&self.truth)?)?;
        Ok(())
    }

    /// # Errors
    /// When a file is missing or damaged.
    pub(crate) fn load(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let bytes = [read(FILES[0])?, read(FILES[1])?];
        Ok(Self {
            origin: serde_json::from_slice(&read("origin.json")?)?,
            inventory: String::from_utf8(read("inventory.yaml")?)?,
            streams: [Stream::read(&bytes[0])?, Stream::read(&bytes[1])?],
            bytes,
            truth: serde_json::from_slice(&read("truth.json")?)?,
        })
    }
}

/// Neighbours are resolved before anything is lost.
fn greet(lab: &Lab) -> Result<()> {
    let curl = lab.pod("curl");
    for pod in lab.pods().iter().filter(|pod| pod.name() != "curl") {
        for ip in pod.ips() {
            let report = curl.ping(ip, 1)?;
            anyhow::ensure!(report.received == 1, "{ip} does not answer before the beginning");
        }
    }
    Ok(())
}

fn now_ns(clock: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec.cast_unsigned() * 1_000_000_000 + tv_nsec.cast_unsigned()
}
