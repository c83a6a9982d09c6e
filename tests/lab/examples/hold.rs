//! Builds a lab, with its servers running, and keeps it until its standard input ends:
//! `cargo run -p tracer-lab --example hold -- cilium-host-routing`, as root.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result};
use tracer_lab::{Lab, Topology};

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| Topology::RoutedVxlan.to_string());
    let lab = Lab::build(name.parse().map_err(anyhow::Error::msg)?)?;
    let _remote = lab.pod("httpbin").serve_http(80)?;
    let _local = lab.pod("httpbin-local").serve_http(80)?;
    let _dns = lab.pod("coredns").serve_dns(53, lab.dns_records())?;

    let mut out = io::stdout().lock();
    for node in lab.nodes() {
        writeln!(out, "{:<32} node {}", node.netns().name(), node.name())?;
    }
    for pod in lab.pods() {
        writeln!(out, "{:<32} pod {} {} {}", pod.netns().name(), pod.label(), pod.ipv4(), pod.ipv6())?;
    }
    writeln!(out, "ip netns exec NAME ...; end of input removes the lab")?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new()).context("cannot read standard input")?;
    Ok(())
}
