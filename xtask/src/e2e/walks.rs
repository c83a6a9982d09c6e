//! What the reference walks find by hand, found by one command each.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, SERVICE_PORT};
use super::follow::Follow;
use crate::process;
use crate::steps::Steps;

const REPEAT: &str = "cargo xtask e2e";

/// All of them, in order.
///
/// # Errors
/// Of the first that does not show what it must.
pub(super) fn walk(cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    steps.run("install the chart", REPEAT, || cluster.install())?;
    steps.run("start curl and httpbin", REPEAT, || cluster.start_pods())?;
    steps.run("doctor", REPEAT, || process::run(&mut cluster.tracer("doctor", &[])))?;
    steps.run("walk 1: by the pod's address", REPEAT, || by_address(cluster))?;
    steps.run("walk 2: by the Service", REPEAT, || by_service(cluster))?;
    steps.run("walk 2: one capture of all nodes", REPEAT, || capture(cluster))
}

/// The request passes all hops from pod to pod, on both nodes.
fn by_address(cluster: &Cluster) -> Result<()> {
    let address = cluster.of_pod("httpbin", ".status.podIP")?;
    let nodes = [cluster.of_pod("curl", ".spec.nodeName")?, cluster.of_pod("httpbin", ".spec.nodeName")?];
    let request = followed(cluster, "httpbin", &format!("http://{}/", bracketed(&address)))?;
    let (first, last) = ends(&request)?;
    ensure!(first["node"] == nodes[0].as_str(), "it does not begin on {}", nodes[0]);
    ensure!(last["node"] == nodes[1].as_str(), "it does not end on {}", nodes[1]);
    ensure!(last["dst"]["ip"] == address.as_str(), "it does not end at {address}");
    Ok(())
}

/// The request goes to the Service's address and arrives at the pod's, unless the CNI translates at the socket.
fn by_service(cluster: &Cluster) -> Result<()> {
    let address = cluster.of_pod("httpbin", ".status.podIP")?;
    // By address: the walk's point is its translation, and DNS is another path.
    let service = cluster.of_service("httpbin", ".spec.clusterIP")?;
    let request =
        followed(cluster, "svc/httpbin", &format!("http://{}:{SERVICE_PORT}/", bracketed(&service)))?;
    let (first, last) = ends(&request)?;
    ensure!(last["dst"]["ip"] == address.as_str(), "it does not end at {address}");
    ensure!(last["dst"]["port"] == 80, "it does not end at the pod's port");
    if first["dst"]["ip"] == address.as_str() {
        eprintln!("e2e: the Service's address is translated before there is a packet, as Cilium does it");
    } else {
        ensure!(first["dst"]["port"] == SERVICE_PORT, "it does not begin with the Service's port");
    }
    Ok(())
}

/// A packet from curl to httpbin with all its hops, by a follow to `target` while curl asks for `url`.
fn followed(cluster: &Cluster, target: &str, url: &str) -> Result<Value> {
    let follow = Follow::start(cluster.tracer("follow", &["--pod", "curl", "--to", target, "-o", "json"]))?;
    let request = follow.wait_for(
        "a request with all its hops",
        |told| told.iter().find(|told| is_whole(told, "curl", "httpbin")).cloned(),
        || cluster.curl(url),
    )?;
    show(&request);
    follow.stop()?;
    Ok(request)
}

/// The capture has what was seen at every hop, and is read back without a cluster.
fn capture(cluster: &Cluster) -> Result<()> {
    let directory = ebpf_build::workspace_root().join("target/e2e");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join("walk.pcapng");
    let shown = file.to_str().context("a path that is no text")?;
    let mut command = cluster.tracer("capture", &["--pod", "curl", "--to", "httpbin", "-w", shown]);
    command.args(["--count", "6"]);
    let address = bracketed(&cluster.of_pod("httpbin", ".status.podIP")?);
    let follow = Follow::start(command)?;
    cluster.curl(&format!("http://{address}/"))?;
    cluster.curl(&format!("http://{address}/"))?;
    follow.ended()?;
    let mut read = Command::new(cluster.program());
    read.args(["read", shown, "-o", "json"]);
    let text = process::output(&mut read).context("tracer read failed")?;
    let told: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let whole = told.iter().filter(|told| is_whole(told, "curl", "httpbin")).count();
    ensure!(whole > 0, "the capture has no whole request: {text}");
    eprintln!("e2e: {shown} has {whole} packets from curl to httpbin with all their hops");
    Ok(())
}

fn is_whole(told: &Value, from: &str, to: &str) -> bool {
    let is_complete = told["missing"].as_array().is_some_and(Vec::is_empty);
    told["schema"] == "tracer.trajectory/v1"
        && told["protocol"] == "tcp"
        && told["verdict"] == "delivered"
        && told["src"]["pod"] == from
        // By a Service it is addressed to that.
        && (told["dst"]["pod"] == to || told["dst"]["service"] == to)
        && is_complete
}

fn ends(told: &Value) -> Result<(&Value, &Value)> {
    let hops = told["hops"].as_array().context("no hops")?;
    Ok((hops.first().context("no hop")?, hops.last().context("no hop")?))
}

/// One line for each hop.
fn show(told: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for hop in told["hops"].as_array().into_iter().flatten() {
        let tunnel = hop["encapsulation"].as_array().into_iter().flatten();
        let tunnel: Vec<_> = tunnel
            .map(|outer| {
                format!("{} {} -> {}", text(&outer["kind"]), text(&outer["src"]), text(&outer["dst"]))
            })
            .collect();
        eprintln!(
            "    {:<20} {:<16} {:<7} {}:{} -> {}:{} {}",
            text(&hop["node"]),
            text(&hop["device"]),
            text(&hop["direction"]),
            text(&hop["src"]["ip"]),
            hop["src"]["port"],
            text(&hop["dst"]["ip"]),
            hop["dst"]["port"],
            tunnel.join(", ")
        );
    }
}

/// As in a URL.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
