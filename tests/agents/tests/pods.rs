//! Pods come, go, take each other's place and each other's addresses while they are followed.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use tracer_agents::{Installed, SOON, get};
use tracer_integration::Trajectory;

/// Names of the pods that answered, of whole trajectories.
fn answered(told: &[Trajectory]) -> BTreeSet<String> {
    let whole = told.iter().filter(|told| told.protocol == "tcp" && told.is_complete());
    let names = whole.flat_map(|told| [told.src.name(), told.dst.name()]);
    names.flatten().filter(|name| name != "default/curl").collect()
}

fn label(installed: &Installed, pod: &str) {
    let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "r", "controller": true });
    installed.cluster.label(pod, &owner, json!({ "app": "web", "pod-template-hash": "5d4" })).unwrap();
}

/// Adds a pod of the Deployment "web".
fn add(installed: &mut Installed, node: &str, name: &str) {
    installed.lab.add_pod(node, name).unwrap();
    installed.cluster.update(&installed.lab).unwrap();
    label(installed, name);
}

#[test]
fn pods_of_a_deployment_and_those_with_a_label_are_followed_as_they_are_replaced() {
    let mut installed = Installed::new().unwrap();
    let nodes: Vec<_> = installed.lab.nodes().iter().map(|node| node.name().to_owned()).collect();
    let curl = installed.lab.pod("curl");
    add(&mut installed, &nodes[1], "web-5d4-aaaaa");
    let follows = [
        installed.follow("ann", &["--pod", "curl", "--to", "deploy/web"]).unwrap(),
        installed.follow("ann", &["-l", "app=web", "--to", "curl"]).unwrap(),
    ];
    get(&curl, &installed.lab.pod("web-5d4-aaaaa"), "/bytes/100");
    for follow in &follows {
        follow.eventually(SOON, "the first pod", |told| answered(told).contains("default/web-5d4-aaaaa"));
    }

    installed.lab.delete_pod("web-5d4-aaaaa").unwrap();
    // Beside curl: another node, another name, another address.
    add(&mut installed, &nodes[0], "web-5d4-bbbbb");

    for follow in &follows {
        follow.eventually(SOON, "the pod in its place", |told| {
            get(&curl, &installed.lab.pod("web-5d4-bbbbb"), "/bytes/100");
            answered(told).contains("default/web-5d4-bbbbb")
        });
    }
    for follow in follows {
        assert!(follow.stop().unwrap().exit.success());
    }
}

#[test]
fn an_address_that_moves_to_another_pod_is_not_followed_there() {
    let installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let api = &installed.cluster.api;
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    let all = installed.follow("ann", &["--pod", "curl"]).unwrap();
    get(&curl, &httpbin, "/bytes/100");
    follow.eventually(SOON, "packets of the pod", |told| answered(told).contains("default/httpbin"));
    let mut thief = api.get("pods", "default", "httpbin").unwrap();
    thief["metadata"] = json!({ "name": "thief", "namespace": "other", "uid": "another" });
    api.put(thief).unwrap();
    assert!(api.remove("pods", "default", "httpbin"));
    follow.eventually_notices(SOON, "that the pod is gone", |line| line.contains("no pod `httpbin`"));

    get(&curl, &httpbin, "/bytes/100");

    all.eventually(SOON, "the packets, whoever they are with", |told| answered(told).contains("other/thief"));
    let report = follow.stop().unwrap();
    let names: BTreeSet<_> =
        report.trajectories.iter().flat_map(|told| [told.src.name(), told.dst.name()]).collect();
    assert!(!names.contains(&Some("other/thief".to_owned())), "{names:?}");
}

/// Memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_thousand_pods_that_come_and_go_cost_neither_truth_nor_memory() {
    let installed = Installed::new().unwrap();
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));
    let node = installed.lab.node_of(&curl).name().to_owned();
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    let processes = [follow.pid(), installed.agents[0].pid()];
    let api = &installed.cluster.api;
    let churn = |round: u32| {
        for number in 0..1000 {
            api.put(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": format!("crowd-{number}"), "namespace": "crowd", "uid": format!("{round}-{number}") },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "phase": "Running", "podIP": format!("10.99.{}.{}", number / 250, number % 250 + 1) },
            }))
            .unwrap();
        }
        get(&curl, &httpbin, "/bytes/100");
        (0..1000).for_each(|number| assert!(api.remove("pods", "crowd", &format!("crowd-{number}"))));
    };
    churn(0);
    let wanted =
        |told: &[Trajectory]| told.iter().filter(|told| told.is_complete() && told.hops.len() == 8).count();
    follow.eventually(SOON, "the packets of the first round", |told| wanted(told) >= 9);
    let before = processes.map(resident);

    (1..6).for_each(churn);

    follow.eventually(SOON * 3, "the packets of all rounds", |told| wanted(told) >= 54);
    let after = processes.map(resident);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 16 * 1024, "{before} KiB after one round, {after} KiB after six");
    }
    let report = follow.stop().unwrap();
    assert!(report.trajectories.iter().all(|told| told.is_complete()), "{:?}", report.stderr);
}
