//! Agents in lab nodes, which know their pods from a double of the Kubernetes API: who asks gets the records of what may
//! be asked for, and nobody else does.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use serde_json::json;
use tracer::kubernetes::secret::Secret;
use tracer::serve::client::AgentError;
use tracer_agents::{Agent, Cluster, Records, SOON, TraceAsked, expires_in};
use tracer_api_double::Rule;
use tracer_integration::{Tracer, lab, program, wait_until};
use tracer_lab::{Lab, Pod, Topology};

/// The lab, the double that knows it, and an agent for each node.
fn two_agents() -> (Lab, Cluster, Vec<Agent>) {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let agents = lab.nodes().iter().map(|node| Agent::start(&cluster, node.name()).unwrap()).collect();
    (lab, cluster, agents)
}

fn addresses(pod: &Pod) -> Vec<String> {
    pod.ips().iter().map(ToString::to_string).collect()
}

/// A request from one pod to another, answered.
fn get(from: &Pod, to: &Pod) {
    let web = to.serve_http(80).unwrap();
    let url = format!("http://{}/bytes/100", to.ipv4());
    assert_eq!(from.curl(&url).unwrap().body.len(), 100);
    drop(web);
}

/// The hooks as `tracer points` lists them, which attaches nothing.
fn assert_nothing_attached(lab: &Lab) {
    let tracer = Tracer::new(lab).unwrap();
    wait_until(SOON, "nothing of ours is on any hook", || tracer.hooked().ours.is_empty().then_some(()));
}

fn ends(records: &Records) -> BTreeSet<(IpAddr, IpAddr)> {
    records.sightings.iter().map(|sighted| (sighted.packet.source, sighted.packet.destination)).collect()
}

fn devices(records: &Records) -> BTreeSet<String> {
    let seen = records.sightings.iter().map(|sighted| &records.points[&sighted.point]);
    seen.map(|point| format!("{} {}", point.node, point.device)).collect()
}

#[test]
fn who_knows_a_traces_secret_gets_its_records_from_the_agents_of_both_nodes() {
    let (lab, cluster, agents) = two_agents();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let asked = TraceAsked::make(&cluster, "one", &curl, |trace| {
        trace["spec"]["peers"] = json!(addresses(&httpbin));
        trace["spec"]["protocols"] = json!([6]);
    })
    .unwrap();
    let mut records: Vec<_> = agents.iter().map(|agent| asked.observe(agent.address).unwrap()).collect();
    for (node, records) in lab.nodes().iter().zip(&mut records) {
        assert_eq!(records.hello.nodes, [node.name()]);
        cluster.wait_for_state("default", "one", node.name(), "Armed").unwrap();
        records.wait_until("its points", |records| records.points.len() >= 6).unwrap();
    }

    get(&curl, &httpbin);

    for (pod, records) in [&curl, &httpbin].into_iter().zip(&mut records) {
        let node = lab.node_of(pod);
        let inside = format!("{} eth0", node.name());
        let host = format!("{} {}", node.name(), pod.host_device());
        let has_all = |records: &Records| {
            let devices = devices(records);
            devices.contains(&inside)
                && devices.contains(&host)
                && devices.len() >= 3
                && records.sightings.len() > 12
        };
        records.wait_until("packets at the pod's and the node's devices", has_all).unwrap();
        let pair = (IpAddr::from(curl.ipv4()), IpAddr::from(httpbin.ipv4()));
        assert!(
            ends(records).iter().all(|ends| *ends == pair || (ends.1, ends.0) == pair),
            "{:?}",
            ends(records)
        );
    }
}

#[test]
fn without_the_secret_of_this_very_trace_nothing_is_told_and_it_is_logged() {
    let (lab, cluster, agents) = two_agents();
    let curl = lab.pod("curl");
    let make = |name| TraceAsked::make(&cluster, name, &curl, |_| {}).unwrap();
    let (one, two) = (make("one"), make("two"));
    let node = lab.node_of(&curl);
    for name in ["one", "two"] {
        cluster.wait_for_state("default", name, node.name(), "Armed").unwrap();
    }
    let agent = &agents[0];
    let guesses = [
        TraceAsked { key: one.key.clone(), secret: two.secret.clone() },
        TraceAsked { key: one.key.clone(), secret: Secret::new().unwrap() },
        TraceAsked {
            key: tracer::serve::request::TraceKey { name: "three".to_owned(), ..one.key.clone() },
            secret: one.secret.clone(),
        },
    ];
    for guess in guesses {
        let refused = guess.observe_at_once(agent.address).err().unwrap();
        let AgentError::Refused(said) = &refused else { panic!("{refused}") };
        assert_eq!(said, "no PacketTrace of this name, uid and secret is armed here");
    }
    agent.wait_for_log("a caller is refused").unwrap();
    assert!(one.observe(agent.address).is_ok());
    let log = agent.log().join("\n");
    let secrets: Vec<String> = one
        .secret
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .chunks(32)
        .map(|hex| hex.concat())
        .collect();
    assert!(!secrets.iter().any(|secret| log.contains(secret)), "a secret is in the log");
}

#[test]
fn a_trace_that_names_another_namespaces_pod_is_refused_and_attaches_nothing() {
    let (lab, cluster, agents) = two_agents();
    let curl = lab.pod("curl");
    let asked = TraceAsked::make(&cluster, "spy", &curl, |trace| {
        trace["metadata"]["namespace"] = json!("shop");
    })
    .unwrap();

    for (node, agent) in lab.nodes().iter().zip(&agents) {
        let why = cluster.wait_for_state("shop", "spy", node.name(), "Refused").unwrap();
        assert_eq!(why, format!("there is no such pod in namespace shop: curl ({})", curl.uid()));
        let AgentError::Refused(said) = asked.observe_at_once(agent.address).err().unwrap() else { panic!() };
        assert!(said.contains("no such pod"), "{said}");
        agent.wait_for_log("state=Refused").unwrap();
    }
    assert_nothing_attached(&lab);
}

#[test]
fn two_traces_get_their_own_packets_and_one_goes_on_when_the_other_ends() {
    let (lab, cluster, agents) = two_agents();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let node = lab.node_of(&curl).name().to_owned();
    let by_port = |name: &str, port: u16| {
        let asked =
            TraceAsked::make(&cluster, name, &curl, |trace| trace["spec"]["ports"] = json!([port])).unwrap();
        cluster.wait_for_state("default", name, &node, "Armed").unwrap();
        asked
    };
    let (web, other) = (by_port("web", 80), by_port("other", 8080));
    let mut of_web = web.observe(agents[0].address).unwrap();
    let mut of_other = other.observe(agents[0].address).unwrap();
    for records in [&mut of_web, &mut of_other] {
        records.wait_until("its points", |records| records.points.len() >= 6).unwrap();
    }

    get(&curl, &httpbin);
    of_web.wait_until("its packets", |records| records.sightings.len() >= 16).unwrap();
    assert!(cluster.api.remove("packettraces.tracer.dev", "default", "other"));
    assert_eq!(of_other.wait_for_end().unwrap(), "its PacketTrace has ended");
    assert_eq!(of_other.sightings.len(), 0);

    let before = of_web.sightings.len();
    get(&curl, &httpbin);
    of_web.wait_until("more packets", |records| records.sightings.len() >= before + 16).unwrap();
}

#[test]
fn a_trace_ends_by_itself_and_then_nothing_is_attached() {
    let (lab, cluster, agents) = two_agents();
    let curl = lab.pod("curl");
    let node = lab.node_of(&curl).name().to_owned();
    let asked = TraceAsked::make(&cluster, "short", &curl, |trace| {
        trace["spec"]["expires"] = json!(expires_in(4));
    })
    .unwrap();
    let mut records = asked.observe(agents[0].address).unwrap();
    records.wait_until("its points", |records| records.points.len() >= 6).unwrap();

    assert_eq!(records.wait_for_end().unwrap(), "its PacketTrace has ended");
    for node in lab.nodes() {
        cluster.wait_for_state("default", "short", node.name(), "Expired").unwrap();
    }
    assert!(matches!(asked.observe_at_once(agents[0].address), Err(AgentError::Refused(_))), "{node}");
    assert_nothing_attached(&lab);
}

#[test]
fn what_expired_a_minute_ago_is_removed_and_what_expired_just_now_can_still_be_read() {
    let (lab, cluster, agents) = two_agents();
    let curl = lab.pod("curl");
    let make = |name, seconds| {
        let expires = |trace: &mut serde_json::Value| trace["spec"]["expires"] = json!(expires_in(seconds));
        TraceAsked::make(&cluster, name, &curl, expires).unwrap()
    };

    let (long_ago, now) = (make("long-ago", -61), make("just-now", -1));

    wait_until(SOON, "only the one that expired just now is there", || {
        (cluster.api.names("packettraces.tracer.dev") == [("default".to_owned(), "just-now".to_owned())])
            .then_some(())
    });
    for node in lab.nodes() {
        cluster.wait_for_state("default", "just-now", node.name(), "Expired").unwrap();
    }
    for asked in [&long_ago, &now] {
        assert!(matches!(asked.observe_at_once(agents[0].address), Err(AgentError::Refused(_))));
    }
}

#[test]
fn an_agent_that_is_ended_tells_it_and_leaves_nothing_and_one_that_starts_again_arms_what_is_asked() {
    let (lab, cluster, mut agents) = two_agents();
    let curl = lab.pod("curl");
    let node = lab.node_of(&curl).name().to_owned();
    let asked = TraceAsked::make(&cluster, "one", &curl, |_| {}).unwrap();
    let mut records = asked.observe(agents[0].address).unwrap();
    records.wait_until("its points", |records| records.points.len() >= 6).unwrap();
    drop(agents.pop());

    let (status, log) = agents.remove(0).terminate().unwrap();

    assert!(status.success(), "{status}: {log:?}");
    assert_eq!(records.wait_for_end().unwrap(), "the agent is ending");
    assert_nothing_attached(&lab);
    let again = Agent::start(&cluster, &node).unwrap();
    let mut records = asked.observe(again.address).unwrap();
    records.wait_until("its points", |records| records.points.len() >= 6).unwrap();
}

#[test]
fn an_agent_outlives_restarts_of_the_api_server_and_a_history_that_is_forgotten() {
    let (lab, cluster, agents) = two_agents();
    let curl = lab.pod("curl");
    let node = lab.node_of(&curl).name().to_owned();
    for (name, disturb) in [
        ("restarted", Box::new(|cluster: &Cluster| cluster.api.restart().unwrap()) as Box<dyn Fn(&Cluster)>),
        (
            "forgotten",
            Box::new(|cluster: &Cluster| {
                cluster.api.cut_connections();
                cluster.api.forget_history();
            }),
        ),
    ] {
        disturb(&cluster);
        let asked = TraceAsked::make(&cluster, name, &curl, |_| {}).unwrap();
        cluster.wait_for_state("default", name, &node, "Armed").unwrap();
        assert!(asked.observe(agents[0].address).is_ok(), "{name}");
    }
}

#[test]
fn a_pod_that_starts_while_it_is_asked_for_is_observed_and_one_that_goes_is_not() {
    let (mut lab, cluster, agents) = two_agents();
    let node = lab.nodes()[0].name().to_owned();
    let late = lab.add_pod(&node, "late").unwrap();
    cluster.update(&lab).unwrap();
    let asked = TraceAsked::make(&cluster, "one", &late, |_| {}).unwrap();
    cluster.wait_for_state("default", "one", &node, "Armed").unwrap();
    let mut records = asked.observe(agents[0].address).unwrap();
    let of_pod = |records: &Records| records.points.values().filter(|point| point.pod.is_some()).count();
    records.wait_until("both ends of the pod's pair", |records| of_pod(records) == 4).unwrap();
    get(&lab.pod("curl"), &late);
    records.wait_until("its packets", |records| records.sightings.len() >= 16).unwrap();

    lab.delete_pod("late").unwrap();
    cluster.update(&lab).unwrap();

    records.wait_until("that its points are gone", |records| of_pod(records) == 0).unwrap();
}

#[test]
fn an_agent_that_may_not_ask_says_the_verb_the_resource_and_the_command_that_proves_it() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    cluster.api.allow_only(
        "agent",
        &[
            Rule { verbs: &["get", "list", "watch"], resources: &["nodes"], namespaces: &[] },
            Rule {
                verbs: &["list", "watch"],
                resources: &["pods", "packettraces.tracer.dev"],
                namespaces: &[],
            },
        ],
    );
    let remote = lab.pod("httpbin");
    let node = lab.node_of(&lab.pod("curl")).name().to_owned();
    let agent = Agent::start(&cluster, &node).unwrap();

    TraceAsked::make(&cluster, "one", &remote, |_| {}).unwrap();

    let line = agent.wait_for_log("you may not get pods in namespace default").unwrap();
    assert!(line.contains("kubectl auth can-i get pods -n default"), "{line}");
    assert!(cluster.api.asked("list", "pods") >= 1);
    assert_eq!(cluster.api.asked("list", "services"), 0, "an agent does not list the cluster");
}

#[test]
fn an_agent_works_with_the_three_capabilities_that_it_asks_for_and_no_other() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let node = lab.node_of(&curl).name().to_owned();
    let agent = Agent::start_with(&cluster, &node, "-all,+net_admin,+sys_admin,+sys_ptrace").unwrap();
    let asked = TraceAsked::make(&cluster, "one", &curl, |_| {}).unwrap();
    let mut records = asked.observe(agent.address).unwrap();
    records.wait_until("its points", |records| records.points.len() >= 6).unwrap();
    get(&curl, &httpbin);
    records.wait_until("its packets", |records| records.sightings.len() >= 16).unwrap();
}

#[test]
fn a_trace_that_asks_for_payload_without_a_packet_payload_of_its_secret_is_refused() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let curl = lab.pod("curl");
    let node = lab.node_of(&curl).name().to_owned();
    let _agent = Agent::start(&cluster, &node).unwrap();
    let payload = |name: &str, hash: &str| {
        let object = json!({
            "apiVersion": "tracer.dev/v1alpha1", "kind": "PacketPayload",
            "metadata": { "name": name, "namespace": "default" }, "spec": { "secretSha256": hash },
        });
        cluster.api.put(object).unwrap();
    };
    payload("others", &"0".repeat(64));
    for name in ["none", "others"] {
        TraceAsked::make(&cluster, name, &curl, |trace| trace["spec"]["bytes"] = json!({ "most": 100 }))
            .unwrap();
        let why = cluster.wait_for_state("default", name, &node, "Refused").unwrap();
        assert!(why.contains("kubectl auth can-i create packetpayloads.tracer.dev -n default"), "{why}");
    }
    TraceAsked::make(&cluster, "own", &curl, |trace| {
        trace["spec"]["bytes"] = json!({ "most": 100 });
        payload("own", trace["spec"]["secretSha256"].as_str().unwrap());
    })
    .unwrap();
    cluster.wait_for_state("default", "own", &node, "Armed").unwrap();
}

#[test]
fn the_api_is_on_loopback_only_and_an_unknown_node_is_an_error() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(program().unwrap());
        command.arg("agent").args(arguments).args(["--probes", "127.0.0.1:0", "--kubeconfig"]);
        let output = command.arg(cluster.kubeconfig("agent").unwrap()).env("NO_COLOR", "1").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["--node-name", "n", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("not loopback"), "{said}");
    let (code, said) = run(&["--node-name", "nobody", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has no node nobody"), "{said}");
}
