//! What an agent costs while nobody follows.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
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
/// As often as API servers say how far a watch is.
const BOOKMARKS: Duration = Duration::from_secs(60);

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What each of its threads has run for, in user and kernel mode.
fn ran(pid: u32) -> BTreeMap<String, Duration> {
    let mut ran = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let read = |file| fs::read_to_string(task.join(file)).unwrap();
        let nanoseconds = read("schedstat").split_whitespace().next().unwrap().parse().unwrap();
        let name = format!("{} {}", read("comm").trim(), task.file_name().unwrap().display());
        ran.insert(name, Duration::from_nanos(nanoseconds));
    }
    ran
}

#[test]
fn an_agent_of_110_pods_idles_in_little_memory() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    cluster.api.bookmarks_every(BOOKMARKS);
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
    let (after, took, memory) = (ran(agent.pid()), began.elapsed(), resident(agent.pid()));

    // Times are no matter of tests.
    println!("{memory} KiB resident");
    for (thread, ran) in after {
        let share =
            ran.saturating_sub(before.get(&thread).copied().unwrap_or_default()).div_duration_f64(took);
        println!("{thread}: {:.3} % of a core", 100.0 * share);
    }
    assert!(memory <= MOST_MEMORY, "{memory} KiB resident");
}
