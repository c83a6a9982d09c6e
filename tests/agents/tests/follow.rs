//! `tracer follow` by agents: names from a double of the Kubernetes API, records through its port-forward.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::process::Command;

use tracer_agents::{Agent, Cluster, SOON};
use tracer_api_double::Rule;
use tracer_integration::{Follow, Trajectory, lab, program, run_to_its_end};
use tracer_lab::{Lab, Pod, Topology};

/// The lab as a cluster with an agent on each node.
struct Installed {
    lab: Lab,
    cluster: Cluster,
    agents: Vec<Agent>,
}

impl Installed {
    fn new() -> Self {
        let lab = lab(Topology::RoutedVxlan).unwrap();
        let cluster = Cluster::of(&lab).unwrap();
        let agents = lab.nodes().iter().map(|node| start(&cluster, node.name())).collect();
        Self { lab, cluster, agents }
    }

    fn command(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program().unwrap());
        command.args(["follow", "-o", "json"]).args(arguments);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig(user).unwrap());
        command
    }

    fn follow(&self, arguments: &[&str]) -> Follow {
        Follow::start(&mut self.command("ann", arguments)).unwrap()
    }

    fn traces(&self) -> Vec<(String, String)> {
        self.cluster.api.names("packettraces.tracer.dev")
    }
}

/// Starts an agent that a port-forward reaches.
fn start(cluster: &Cluster, node: &str) -> Agent {
    let agent = Agent::start(cluster, node).unwrap();
    cluster.publish(&agent, node).unwrap();
    agent
}

/// A request from one pod to another, answered.
fn get(from: &Pod, to: &Pod) {
    let web = to.serve_http(80).unwrap();
    assert_eq!(from.curl(&format!("http://{}/bytes/100", to.ipv4())).unwrap().body.len(), 100);
    drop(web);
}

fn whole(told: &[Trajectory]) -> usize {
    told.iter().filter(|told| told.protocol == "tcp" && told.is_complete() && told.hops.len() == 8).count()
}

#[test]
fn pods_are_followed_by_name_across_nodes_and_the_trace_goes_with_the_follow() {
    let installed = Installed::new();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let follow = installed.follow(&["--pod", "curl", "--to", "httpbin"]);
    assert_eq!(installed.traces().len(), 1);

    get(&curl, &httpbin);

    let told =
        follow.eventually(SOON, "every packet with all its hops on both nodes", |told| whole(told) >= 9);
    let nodes: Vec<_> = installed.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
    assert!(told.iter().all(|told| told.hops.iter().all(|hop| nodes.contains(&hop.node))));
    let report = follow.stop().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    assert_eq!(installed.traces(), [], "{:?}", report.stderr);
}

#[test]
fn an_agent_that_is_killed_is_said_to_be_gone_and_asked_again_when_it_is_back() {
    let mut installed = Installed::new();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let node = installed.lab.node_of(&httpbin).name().to_owned();
    let follow = installed.follow(&["--pod", "curl", "--to", "httpbin"]);
    get(&curl, &httpbin);
    follow.eventually(SOON, "packets of both nodes", |told| whole(told) >= 9);

    let at = installed.lab.nodes().iter().position(|other| other.name() == node).unwrap();
    installed.agents.remove(at).kill().unwrap();
    let gone = format!("of the agent on {node}");
    follow.eventually_notices(SOON, "that the agent is gone", |line| {
        line.contains(&gone) && line.contains("are not visible from now on")
    });
    let before = whole(&follow.trajectories());
    installed.agents.push(start(&installed.cluster, &node));

    follow.eventually(SOON * 2, "packets of both nodes again", |told| {
        if whole(told) < before + 9 {
            get(&curl, &httpbin);
        }
        whole(told) >= before + 9
    });
    follow.stop().unwrap();
}

#[test]
fn a_node_without_an_agent_is_a_line_in_the_answer() {
    let mut installed = Installed::new();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let node = installed.lab.node_of(&httpbin).name().to_owned();
    let at = installed.lab.nodes().iter().position(|other| other.name() == node).unwrap();
    drop(installed.agents.remove(at));
    installed.cluster.api.remove("pods", "tracer-system", &format!("tracer-agent-{node}"));
    let follow = installed.follow(&["--pod", "curl", "--to", "httpbin"]);
    follow.eventually_notices(SOON, "that there is no agent", |line| {
        line.contains(&format!("the agent on node {node}")) && line.contains("not visible")
    });

    get(&curl, &httpbin);

    follow.eventually(SOON, "the hops of the other node", |told| {
        told.iter().filter(|told| told.hops.len() == 4).count() >= 9
    });
    follow.stop().unwrap();
}

#[test]
fn who_may_not_ask_is_told_the_verb_the_resource_the_namespace_and_the_command_that_proves_it() {
    let installed = Installed::new();
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
        let mut command = installed.command(user, &["--pod", "curl", "--to", "httpbin"]);
        let output = run_to_its_end(&mut command).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(installed.traces(), []);
}
