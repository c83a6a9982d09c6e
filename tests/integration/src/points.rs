//! `tracer points -o json`, and the same hooks as the kernel's own tools see them.

use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tracer_lab::{Direction, Netns};

use crate::tracer::{Tracer, patient};

/// Between two looks of [`wait_until`].
const LOOK: Duration = Duration::from_millis(20);

/// `tracer.points/v1`: one hook of a device.
#[derive(Clone, Debug, Deserialize)]
pub struct Point {
    pub node: String,
    pub pod: Option<String>,
    pub netns: String,
    pub netns_inode: u64,
    pub device: String,
    pub kind: String,
    pub ifindex: u32,
    pub direction: String,
    pub role: String,
    pub mechanism: String,
    pub attached: bool,
    pub place: Option<usize>,
    pub programs: Vec<HookProgram>,
    pub blind: Option<String>,
    pub evidence: String,
}

/// One program of a hook, in running order.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookProgram {
    pub id: Option<u32>,
    pub name: String,
    pub mechanism: String,
    pub priority: Option<u16>,
    pub handle: Option<u32>,
    pub ours: bool,
}

#[derive(Deserialize)]
struct Document {
    schema: String,
    points: Vec<Point>,
}

impl Tracer {
    /// The points as `tracer points -o json` lists them.
    ///
    /// # Errors
    /// When it fails, or prints what is not as documented.
    pub fn points(&self, arguments: &[&str]) -> Result<Vec<Point>> {
        let output = self.run("points", &[arguments, &["-o", "json"]].concat())?;
        ensure!(output.status.success(), "tracer points failed: {}", String::from_utf8_lossy(&output.stderr));
        Point::read(&output.stdout)
    }

    /// The hook of one device.
    ///
    /// # Panics
    /// When it is not listed, or `tracer points` fails.
    #[must_use]
    #[track_caller]
    pub fn hook(&self, place: &str, device: &str, direction: Direction) -> Point {
        let points = self.points(&[]).unwrap_or_else(|error| panic!("{error:#}"));
        let found = points
            .iter()
            .find(|point| point.place_name() == place && point.device == device && point.is(direction));
        found.cloned().unwrap_or_else(|| panic!("tracer points does not list {place} {device} {direction:?}"))
    }

    /// All that is on the machine's hooks, ours and others'.
    ///
    /// # Panics
    /// When `tracer points` fails.
    #[must_use]
    #[track_caller]
    pub fn hooked(&self) -> Hooked {
        let points = self.points(&[]).unwrap_or_else(|error| panic!("{error:#}"));
        let mut hooked = Hooked::default();
        for point in points {
            for program in point.programs {
                let hook = (point.netns_inode, point.ifindex, point.direction.clone(), program.clone());
                if program.ours { hooked.ours.push(hook) } else { hooked.foreign.push(hook) }
            }
        }
        hooked
    }
}

impl Point {
    /// Reads what `tracer points -o json` printed.
    ///
    /// # Errors
    /// When it is not as documented.
    pub fn read(json: &[u8]) -> Result<Vec<Self>> {
        let document: Document = serde_json::from_slice(json).context("not as documented")?;
        ensure!(document.schema == "tracer.points/v1", "schema {}", document.schema);
        Ok(document.points)
    }

    /// `namespace/name` of the pod for its own interface, else the node.
    #[must_use]
    pub fn place_name(&self) -> &str {
        match &self.pod {
            Some(pod) if self.role == "pod-interface" => pod,
            _ => &self.node,
        }
    }

    #[must_use]
    pub fn is(&self, direction: Direction) -> bool {
        self.direction == word(direction)
    }

    /// The programs that are not tracer's.
    #[must_use]
    pub fn others(&self) -> Vec<&HookProgram> {
        self.programs.iter().filter(|program| !program.ours).collect()
    }
}

/// Programs by namespace, ifindex and direction.
pub type Hook = (u64, u32, String, HookProgram);

/// What is on all hooks, in the order of the points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooked {
    pub ours: Vec<Hook>,
    pub foreign: Vec<Hook>,
}

impl Hooked {
    /// The kernel's ids of our programs.
    #[must_use]
    pub fn our_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.ours.iter().filter_map(|(.., program)| program.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A legacy filter as `tc` lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    pub priority: u64,
    pub handle: String,
    pub name: String,
    pub program: u64,
}

/// The eBPF filters of a hook in the words of `tc`, in running order.
///
/// # Errors
/// When tc fails or prints something else than JSON.
pub fn tc_filters(netns: &Netns, device: &str, direction: Direction) -> Result<Vec<Filter>> {
    let mut command = netns.command("tc");
    command.args(["-j", "filter", "show", "dev", device, word(direction)]);
    let output = command.output().context("cannot start tc; install iproute2")?;
    ensure!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
    // Without filters some versions print nothing at all.
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).context("tc did not print JSON")?;
    let filter = |entry: &Value| {
        let options = entry.get("options")?;
        Some(Filter {
            priority: entry["pref"].as_u64()?,
            handle: options.get("handle")?.as_str()?.to_owned(),
            name: options["bpf_name"].as_str().unwrap_or_default().to_owned(),
            program: options["prog"]["id"].as_u64()?,
        })
    };
    Ok(listed.iter().filter_map(filter).collect())
}

/// Version of the running kernel: `(6, 12)`.
///
/// # Panics
/// When its release does not begin with two numbers.
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or_else(|| panic!("kernel {release}"))
}

/// Whether the kernel has TCX; none that the tests run on is built without.
#[must_use]
pub fn has_tcx() -> bool {
    kernel_version() >= (6, 6)
}

/// Whether the device has a clsact qdisc, as `tc` says.
///
/// # Errors
/// When tc fails.
pub fn has_clsact(netns: &Netns, device: &str) -> Result<bool> {
    let output = netns.command("tc").args(["qdisc", "show", "dev", device, "clsact"]).output();
    let output = output.context("cannot start tc; install iproute2")?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("clsact"))
}

/// Whether the kernel still has a program, as `bpftool` says. A program that is attached nowhere and that no
/// process holds goes.
///
/// # Errors
/// When bpftool cannot be started.
pub fn kernel_has_program(id: u32) -> Result<bool> {
    let output = Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]).output();
    Ok(output.context("cannot start bpftool; install it")?.status.success())
}

/// Packets of a device that passed its hooks, as the device's own counters say: received, sent.
///
/// # Errors
/// When `ip` fails or prints something else than expected.
pub fn device_counters(netns: &Netns, device: &str) -> Result<(u64, u64)> {
    let output = netns.command("ip").args(["-j", "-s", "link", "show", "dev", device]).output();
    let output = output.context("cannot start ip; install iproute2")?;
    let links: Value = serde_json::from_slice(&output.stdout).context("ip did not print JSON")?;
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().context("no counters");
    Ok((packets("rx")?, packets("tx")?))
}

/// Runs `ip ARGUMENTS` in a namespace.
///
/// # Panics
/// When it fails, with its message.
#[track_caller]
pub fn ip(netns: &Netns, arguments: &str) {
    run_in(netns, "ip", arguments);
}

/// Runs a program in a namespace; its arguments are separated by blanks.
///
/// # Panics
/// When it fails, with its message.
#[track_caller]
pub fn run_in(netns: &Netns, program: &str, arguments: &str) {
    let output = netns.command(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until `probe` gives something. `rule` says what it stands for.
///
/// # Panics
/// When it gives nothing within `deadline`.
#[track_caller]
pub fn wait_until<T>(deadline: Duration, rule: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = patient(deadline);
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {rule}");
        // sleep: nothing tells of what another process or the kernel does with hooks.
        thread::sleep(LOOK);
    }
}

/// Asserts that the kernel has none of these programs any more: they are unloaded a moment after their last use.
///
/// # Panics
/// When it still has one after a few seconds.
#[track_caller]
pub fn assert_unloaded(ids: &[u32]) {
    assert!(!ids.is_empty(), "no program was attached at all");
    for id in ids {
        wait_until(Duration::from_secs(10), &format!("program {id} of ours is unloaded"), || {
            (!kernel_has_program(*id).unwrap_or(true)).then_some(())
        });
    }
}

/// A URL of plain HTTP.
#[must_use]
pub fn url(ip: impl Into<IpAddr>, port: u16, path: &str) -> String {
    format!("http://{}{path}", std::net::SocketAddr::new(ip.into(), port))
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}
