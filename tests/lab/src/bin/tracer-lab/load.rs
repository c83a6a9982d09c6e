//! What `tracer follow` costs and loses under load: one run, figures on stdout.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tracer_lab::{Flood, Lab, Topology};

use crate::{PrivateDirectory, tracer_program};

const PORT: u16 = 9000;
const PAYLOAD: usize = 32;

/// Floods and prints.
///
/// # Errors
/// When the lab, the flood or tracer fails.
pub(crate) fn run(topology: Topology, same_node: bool, rate: u32, seconds: u32) -> Result<()> {
    let tracer = tracer_program()?;
    let lab = Lab::build(topology)?;
    let (client, server) = (lab.pod("curl"), lab.pod(if same_node { "httpbin-local" } else { "httpbin" }));
    let sink = server.udp_sink(PORT)?;
    let directory = PrivateDirectory::create()?;
    let inventory = lab.write_inventory(directory.path())?;
    let output = directory.path().join("output.json");

    let mut command = Command::new(tracer);
    command
        .args([
            "follow",
            "--local",
            "--pod",
            "curl",
            "--to",
            server.name(),
            "--protocol",
            "udp",
            "-o",
            "json",
            "--quiet",
            "--inventory",
        ])
        .arg(&inventory)
        .stdout(std::fs::File::create(&output)?)
        .stderr(Stdio::piped());
    // Its own group: Ctrl-C at the terminal ends us, and we end it.
    let mut child = command.process_group(0).spawn().context("cannot start tracer follow")?;
    wait_until_ready(&mut child)?;

    let flood = Flood {
        packets: u64::from(rate) * u64::from(seconds),
        payload: PAYLOAD,
        rate: Some(u64::from(rate)),
    };
    let before = cpu_seconds(child.id())?;
    let started = Instant::now();
    let sent = client.udp_flood(SocketAddr::new(server.ips()[0], PORT), flood)?;
    let took = started.elapsed().as_secs_f64();
    // What is still in the ring and the channel belongs to the load.
    let mut last = sink.received();
    loop {
        // sleep: the time that the sink must be quiet for.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let received = sink.received();
        if received == last {
            break;
        }
        last = received;
    }
    let busy = cpu_seconds(child.id())? - before;
    let resident = resident_kib(child.id())?;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("tracer follow ended with {status}");
    }

    let text = std::fs::read_to_string(&output)?;
    let summary = text.lines().last().context("tracer follow printed nothing")?;
    println!("topology           {}, curl -> {}, {PAYLOAD} bytes of payload", topology.name(), server.name());
    println!("packets sent       {sent} in {took:.1} s ({:.0} per second)", sent as f64 / took);
    println!("packets received   {last}");
    println!(
        "CPU of tracer      {busy:.2} s ({:.0} % of one core while packets were sent)",
        busy / took * 100.0
    );
    println!("peak memory        {:.1} MiB resident", resident as f64 / 1024.0);
    println!("summary            {}", summary.split(",\"percentile_error\"").next().unwrap_or(summary));
    Ok(())
}

fn wait_until_ready(child: &mut std::process::Child) -> Result<()> {
    use std::io::BufRead as _;
    let stderr = child.stderr.take().context("the child has no stderr")?;
    let mut lines = std::io::BufReader::new(stderr).lines();
    for line in lines.by_ref() {
        let line = line?;
        if line.starts_with("following ") {
            // Keeps reading, so that it never waits for us.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
            return Ok(());
        }
        eprintln!("{line}");
    }
    bail!("tracer follow has ended: {}", child.wait()?)
}

/// User and system time of a process so far: fields 14 and 15 of /proc/PID/stat, in clock ticks.
fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no command")?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory that was ever resident.
fn resident_kib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in status")?;
    line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is no number")
}
