//! `tracer doctor`: what is said before anything is followed.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use serde_json::Value;
use tracer_agents::Installed;
use tracer_api_double::Rule;
use tracer_integration::run_to_its_end;

/// Exit code and what was printed.
fn doctor(installed: &Installed, user: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_to_its_end(&mut installed.command(user, "doctor", arguments).unwrap()).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn where_all_is_well_it_says_so_of_every_node_and_ends_with_0() {
    let installed = Installed::new().unwrap();

    let (code, said) = doctor(&installed, "ann", &[]);

    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("PROBLEM"), "{said}");
    for node in installed.lab.nodes() {
        let pods = installed
            .lab
            .pods()
            .iter()
            .filter(|pod| installed.lab.node_of(pod).name() == node.name())
            .count();
        let found = format!("{pods} of {pods} pods found");
        let is_it = |line: &&str| {
            line.starts_with(&format!("good     {}: tracer ", node.name())) && line.contains(&found)
        };
        assert_eq!(said.lines().filter(is_it).count(), 1, "{found}: {said}");
    }
    assert!(said.contains("good     wall clocks: from this machine's: "), "{said}");
    let (code, json) = doctor(&installed, "ann", &["-o", "json"]);
    let json: Value = serde_json::from_str(json.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!((code, &json["type"], &json["works"]), (Some(0), &Value::from("doctor"), &Value::from(true)));
}

#[test]
fn a_node_without_an_agent_and_a_missing_right_are_problems_that_are_named_and_end_with_1() {
    let mut installed = Installed::new().unwrap();
    let node = installed.lab.nodes()[1].name().to_owned();
    drop(installed.agents.remove(1));
    installed.cluster.api.remove("pods", "tracer-system", &format!("tracer-agent-{node}"));
    let (code, said) = doctor(&installed, "ann", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("PROBLEM  {node}: no agent there")), "{said}");

    let rule = Rule { verbs: &["get", "list", "watch"], resources: &["pods", "nodes"], namespaces: &[] };
    installed.cluster.api.allow_only("bob", &[rule]);
    let (code, said) = doctor(&installed, "bob", &["-n", "shop"]);
    assert_eq!(code, Some(1), "{said}");
    for missing in [
        "you may not create packettraces.tracer.dev in namespace shop (kubectl auth can-i create packettraces.tracer.dev -n shop)",
        "you may not get pods/portforward in namespace tracer-system",
        "you may not list services in the whole cluster (kubectl auth can-i list services -A)",
    ] {
        assert!(said.contains(&format!("PROBLEM  rights: {missing}")), "{missing}: {said}");
    }
    assert!(
        said.contains(
            "note     rights: no payload, which may be meant so: you may not create packetpayloads"
        ),
        "{said}"
    );
}

#[test]
fn an_agent_that_cannot_be_reached_is_a_problem_of_its_node_alone() {
    let mut installed = Installed::new().unwrap();
    let node = installed.lab.nodes()[0].name().to_owned();
    installed.agents.remove(0).kill().unwrap();

    let (code, said) = doctor(&installed, "ann", &[]);

    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("PROBLEM  {node}: the agent there (pod tracer-system/tracer-agent-{node})")),
        "{said}"
    );
    assert_eq!(said.matches("PROBLEM").count(), 1, "{said}");
}
