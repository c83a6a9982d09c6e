//! What an agent serves for Prometheus.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::process::Command;

use tracer_agents::{Agent, Cluster, SOON, TraceAsked, get};
use tracer_integration::{lab, wait_until};
use tracer_lab::Topology;

/// The address in the line that says where metrics are.
fn address(agent: &Agent) -> String {
    let line = agent.wait_for_log("metrics are served").unwrap();
    let field = line.split_whitespace().find_map(|word| word.strip_prefix("metrics="));
    field.unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn scrape(address: &str) -> String {
    let url = format!("http://{address}/metrics");
    let output = Command::new("curl").args(["-sS", "--fail", &url]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a series; 0 where it is not there.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn an_agent_counts_its_traces_and_callers_and_attaches_nothing_for_it() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let curl = lab.pod("curl");
    let node = lab.node_of(&curl).name().to_owned();
    let agent = Agent::start_with_options(&cluster, &node, &["--metrics", "127.0.0.1:0"]).unwrap();
    let at = address(&agent);
    let idle = scrape(&at);
    assert_eq!(
        (value(&idle, "tracer_traces{state=\"armed\"}"), value(&idle, "tracer_pods")),
        (0, 2),
        "{idle}"
    );
    assert!(!idle.contains("tracer_points{") && !idle.contains("tracer_sample_rate"), "{idle}");

    let asked = TraceAsked::make(&cluster, "one", &curl, |_| {}).unwrap();
    let records = asked.observe(agent.address).unwrap();
    let stranger =
        TraceAsked::make(&cluster, "two", &curl, |trace| trace["spec"]["pods"][0]["uid"] = "no".into())
            .unwrap();
    cluster.wait_for_state("default", "two", &node, "Refused").unwrap();
    assert!(stranger.observe_at_once(agent.address).is_err());

    let busy = scrape(&at);
    assert_eq!(value(&busy, "tracer_traces{state=\"armed\"}"), 1, "{busy}");
    assert_eq!(value(&busy, "tracer_traces{state=\"refused\"}"), 1, "{busy}");
    assert_eq!(value(&busy, "tracer_streams"), 1, "{busy}");
    assert!(value(&busy, "tracer_streams_denied_total") >= 1, "{busy}");
    drop(records);
}

#[test]
fn an_agent_that_samples_measures_legs_while_nobody_follows() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let node = lab.node_of(&curl).name().to_owned();
    let options = ["--metrics", "127.0.0.1:0", "--sample", "1"];
    let agent = Agent::start_with_options(&cluster, &node, &options).unwrap();
    let at = address(&agent);
    let leg = "tracer_leg_latency_seconds_count{from=\"pod_interface_egress\",to=\"pod_peer_ingress\"}";

    let legs = wait_until(SOON, "legs of the request", || {
        get(&curl, &httpbin, "/bytes/100");
        Some(value(&scrape(&at), leg)).filter(|legs| *legs >= 4)
    });

    assert!(legs < 10_000, "{legs}");
}
