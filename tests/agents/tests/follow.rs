//! `tracer follow` by agents: names from a double of the Kubernetes API, records through its port-forward.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use serde_json::{Value, json};
use tracer_agents::{Installed, SOON, get};
use tracer_api_double::Rule;
use tracer_integration::{Trajectory, run_to_its_end};

fn whole(told: &[Trajectory]) -> usize {
    told.iter().filter(|told| told.protocol == "tcp" && told.is_complete() && told.hops.len() == 8).count()
}

#[test]
fn pods_are_followed_by_name_across_nodes_and_the_trace_goes_with_the_follow() {
    let installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    assert_eq!(installed.names("packettraces.tracer.dev").len(), 1);

    get(&curl, &httpbin, "/bytes/100");

    let told =
        follow.eventually(SOON, "every packet with all its hops on both nodes", |told| whole(told) >= 9);
    let nodes: Vec<_> = installed.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
    assert!(told.iter().all(|told| told.hops.iter().all(|hop| nodes.contains(&hop.node))));
    let report = follow.stop().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    assert_eq!(installed.names("packettraces.tracer.dev"), [], "{:?}", report.stderr);
}

#[test]
fn an_agent_that_is_killed_is_said_to_be_gone_and_asked_again_when_it_is_back() {
    let mut installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let node = installed.lab.node_of(&httpbin).name().to_owned();
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    get(&curl, &httpbin, "/bytes/100");
    follow.eventually(SOON, "packets of both nodes", |told| whole(told) >= 9);

    let at = installed.lab.nodes().iter().position(|other| other.name() == node).unwrap();
    installed.agents.remove(at).kill().unwrap();
    let gone = format!("of the agent on {node}");
    follow.eventually_notices(SOON, "that the agent is gone", |line| {
        line.contains(&gone) && line.contains("are not visible from now on")
    });
    let before = whole(&follow.trajectories());
    installed.start(&node).unwrap();

    follow.eventually(SOON * 2, "packets of both nodes again", |told| {
        if whole(told) < before + 9 {
            get(&curl, &httpbin, "/bytes/100");
        }
        whole(told) >= before + 9
    });
    follow.stop().unwrap();
}

#[test]
fn a_node_without_an_agent_is_a_line_in_the_answer() {
    let mut installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let node = installed.lab.node_of(&httpbin).name().to_owned();
    let at = installed.lab.nodes().iter().position(|other| other.name() == node).unwrap();
    drop(installed.agents.remove(at));
    installed.cluster.api.remove("pods", "tracer-system", &format!("tracer-agent-{node}"));
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    follow.eventually_notices(SOON, "that there is no agent", |line| {
        line.contains(&format!("the agent on node {node}")) && line.contains("not visible")
    });

    get(&curl, &httpbin, "/bytes/100");

    follow.eventually(SOON, "the hops of the other node", |told| {
        told.iter().filter(|told| told.hops.len() == 4).count() >= 9
    });
    follow.stop().unwrap();
}

#[test]
fn the_way_is_asked_of_the_agents_of_both_nodes_and_a_node_without_one_is_a_note() {
    let mut installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let path = |installed: &Installed| {
        let arguments = ["--pod", "curl", "--to", "svc/httpbin", "-o", "json"];
        let output = run_to_its_end(&mut installed.command("ann", "path", &arguments).unwrap()).unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    get(&curl, &httpbin, "/bytes/100");

    let way = path(&installed);

    assert_eq!(way["there"].as_array().unwrap().len(), 8, "{way:#}");
    assert_eq!(way["findings"], json!([]));
    assert_eq!(way["near"]["node"], installed.lab.node_of(&curl).name());
    assert_eq!(way["far"]["node"], installed.lab.node_of(&httpbin).name());
    // No packet was followed, and so nothing is attached and nothing asked for.
    assert_eq!(installed.names("packettraces.tracer.dev"), []);

    let node = installed.lab.node_of(&httpbin).name().to_owned();
    let at = installed.lab.nodes().iter().position(|other| other.name() == node).unwrap();
    drop(installed.agents.remove(at));
    installed.cluster.api.remove("pods", "tracer-system", &format!("tracer-agent-{node}"));

    let way = path(&installed);
    assert!(way["far"].is_null() && !way["near"].is_null());
    assert!(
        way["notes"][0].as_str().unwrap().contains(&format!("node {node} has no agent")),
        "{}",
        way["notes"]
    );
}

#[test]
fn who_may_not_ask_is_told_the_verb_the_resource_the_namespace_and_the_command_that_proves_it() {
    let installed = Installed::new().unwrap();
    let names = Rule {
        verbs: &["list", "watch"],
        resources: &["pods", "services", "nodes", "endpointslices.discovery.k8s.io"],
        namespaces: &[],
    };
    for (user, rules, said) in [
        ("eve", &[][..], "you may not list nodes in the whole cluster (kubectl auth can-i list nodes -A)"),
        (
            "bob",
            &[names][..],
            "you may not create packettraces.tracer.dev in namespace default (kubectl auth can-i create \
             packettraces.tracer.dev -n default)",
        ),
    ] {
        installed.cluster.api.allow_only(user, rules);
        let mut command = installed.command(user, "follow", &["--pod", "curl", "--to", "httpbin"]).unwrap();
        let output = run_to_its_end(&mut command).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(installed.names("packettraces.tracer.dev"), []);
}
