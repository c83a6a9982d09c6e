//! What an agent costs while nobody follows.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tracer_agents::{Agent, Cluster};
use tracer_integration::lab;
use tracer_lab::Topology;

/// As many as a node has by the kubelet's default.
const PODS: usize = 110;
/// KiB. The release program has 34 MiB, the one for tests 38 to 39: what of its code is in memory differs.
const MOST_MEMORY: u64 = 46 << 10;
const WATCHED: Duration = Duration::from_secs(10);
/// `getconf CLK_TCK` is 100 on every Linux that there is.
const TICK: Duration = Duration::from_millis(10);

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What it has run for, in user and kernel mode.
fn ran(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    TICK * ticks
}

#[test]
fn an_agent_of_110_pods_idles_in_little_memory() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let node = lab.nodes()[0].name();
    for number in 0..PODS {
        let labels = json!({ "app": "web", "pod-template-hash": "5d4f8c7b9", "number": number.to_string() });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": format!("web-5d4f8c7b9-{number}"), "namespace": "shop", "labels": labels },
            "spec": { "nodeName": node, "containers": [{ "name": "web", "image": "web" }] },
            "status": { "phase": "Running", "podIP": format!("10.99.0.{number}") },
        });
        cluster.api.put(pod).unwrap();
    }
    let agent = Agent::start(&cluster, node).unwrap();

    let (began, before) = (Instant::now(), ran(agent.pid()));
    // sleep: what it does meanwhile is what is measured.
    thread::sleep(WATCHED);
    let (took, memory) = (ran(agent.pid()).saturating_sub(before), resident(agent.pid()));
    let share = took.as_secs_f64() / began.elapsed().as_secs_f64();

    // Times are no matter of tests.
    println!("{memory} KiB resident, {:.2} % of a core", 100.0 * share);
    assert!(memory <= MOST_MEMORY, "{memory} KiB resident");
}
