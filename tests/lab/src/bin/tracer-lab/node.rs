//! One node of the lab alone, for a machine of its own: its other half is on another machine behind `--nic`. What it is
//! told comes line by line from `--control`, and what it has done it says on standard output, each with `@@` before it:
//!
//! | told | done, then said |
//! |---|---|
//! | | built, servers run, `tracer observe` writes to `--stream`: `@@ ready` |
//! | `traffic` | requests from pod curl, if it is here: `@@ sent` |
//! | `end` | the stream is ended: `@@ ended` |
//! | `leave` | everything is removed: `@@ left`. Servers close their connections, which nobody may observe any more |

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tracer_lab::{Lab, RecordType, Topology};

use crate::tracer_program;

/// What `tracer-lab node` was told.
pub(crate) struct Options {
    pub(crate) topology: Topology,
    pub(crate) node: String,
    /// The device that becomes the node's `eth0`.
    pub(crate) nic: String,
    /// Where the stream goes.
    pub(crate) stream: PathBuf,
    /// Where orders come from.
    pub(crate) control: PathBuf,
    /// Where the inventory goes, as `inventory.yaml`.
    pub(crate) directory: PathBuf,
    /// Microseconds that the clock gains at each of its 100 ticks a second: 10000 is right, 10100 is 1 % too fast.
    pub(crate) tick: Option<i64>,
}

/// The name that the lab's DNS is asked for.
const NAME: &str = "kube-dns.kube-system.svc.cluster.local";

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(tick) = options.tick {
        set_tick(tick)?;
    }
    let lab = Lab::build_node(options.topology, &options.node, &options.nic)?;
    let mut servers = Vec::new();
    for pod in lab.pods().iter().filter(|pod| pod.is_here()) {
        servers.push((pod.serve_http(80)?, pod.serve_dns(53, lab.dns_records())?));
    }
    let inventory = lab.write_inventory(&options.directory)?;
    let mut observe = Command::new(tracer_program()?);
    observe.args(["observe", "--local", "--pod", "curl", "--to", "httpbin", "--node", &options.node]);
    observe.arg("--inventory").arg(&inventory);
    let mut observe = observe_to(&mut observe, &options.stream)?;

    println!("@@ ready");
    let control =
        File::open(&options.control).with_context(|| format!("cannot open {}", options.control.display()))?;
    for order in BufReader::new(control).lines() {
        match order.context("cannot read the next order")?.trim() {
            "traffic" => {
                send(&lab)?;
                println!("@@ sent");
            }
            "end" => {
                end(&mut observe)?;
                let _ = fs::write(options.directory.join("counters"), counters(&lab));
                println!("@@ ended");
            }
            "leave" => break,
            other => bail!("no such order: {other}"),
        }
    }
    drop(servers);
    lab.release_nic(&options.node)?;
    println!("@@ left");
    Ok(())
}

fn end(observe: &mut Child) -> Result<()> {
    kill_process(Pid::from_child(observe), Signal::INT).context("cannot end tracer observe")?;
    let status = observe.wait().context("cannot wait for tracer observe")?;
    ensure!(status.success(), "tracer observe ended with {status}");
    Ok(())
}

/// Starts `tracer observe` and waits until it observes; what it says goes on to standard output.
fn observe_to(command: &mut Command, stream: &PathBuf) -> Result<Child> {
    let output = OpenOptions::new()
        .write(true)
        .open(stream)
        .with_context(|| format!("cannot open {}", stream.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start tracer observe")?;
    let mut said = BufReader::new(child.stderr.take().context("tracer observe has no standard error")?);
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "tracer observe has ended before it observed");
        print!("{line}");
        if line.starts_with("observing ") {
            break;
        }
    }
    std::thread::spawn(move || said.lines().map_while(Result::ok).for_each(|line| println!("{line}")));
    Ok(child)
}

/// A page, names and echoes from curl to httpbin, for some seconds, so that a clock's drift shows.
fn send(lab: &Lab) -> Result<()> {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    if !curl.is_here() {
        return Ok(());
    }
    let ip = httpbin.ipv4().into();
    let answer = curl.curl(&format!("http://{ip}/"))?;
    ensure!(answer.status == 200, "the page came with status {}", answer.status);
    let found = curl.dns_query(SocketAddr::new(ip, 53), NAME, RecordType::A)?;
    ensure!(found.len() == 1, "the name has {} addresses", found.len());
    let echoes = curl.ping_with(ip, 6, &["-i", "1"])?;
    ensure!(echoes.received == 6, "{} of 6 echoes came back", echoes.received);
    Ok(())
}

/// What the kernel counted, for who must find out why something is missing.
fn counters(lab: &Lab) -> String {
    let here = lab.nodes().iter().filter(|node| node.is_here());
    here.filter_map(|node| node.netns().command("ip").args(["-s", "link"]).output().ok())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .collect()
}

/// Lets this machine's clock run faster or slower.
fn set_tick(tick: i64) -> Result<()> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_TICK;
    timex.tick = tick;
    // SAFETY: the argument is a timex of our own that lives as long as the call.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot set the clock's tick");
    }
    Ok(())
}
