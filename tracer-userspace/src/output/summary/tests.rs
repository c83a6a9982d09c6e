use serde_json::Value;

use super::{LossTotals, StreamEnd, Summary};
use crate::trajectory::exchange::testing::{ROUTED_BACK, RST, Talk};
use crate::trajectory::model::Latency;
use crate::trajectory::testing::{
    ACK, CURL, HTTPBIN, MS, PSH, ROUTED, SECOND, SYN, ping, two_nodes, two_nodes_with_one_clock,
};

/// Four pings and two that are lost: on the wire, and behind a pod from which nothing else came.
fn of_a_few_pings() -> Summary {
    let world = two_nodes(false, "vxlan");
    let mut sightings = Vec::new();
    for i in 0..4 {
        sightings.extend(world.walk(SECOND + u64::from(i) * 1_000_000, &ping(CURL, HTTPBIN, i), ROUTED));
    }
    sightings.extend(world.walk(2 * SECOND, &ping(CURL, HTTPBIN, 9), &ROUTED[..4]));
    sightings.extend(world.walk(2 * SECOND, &ping(HTTPBIN, CURL, 10), &ROUTED_BACK[..1]));
    let mut summary = Summary::default();
    for trajectory in world.correlate(sightings) {
        summary.add(&trajectory);
    }
    summary
}

/// An HTTP request of 6 ms, one without an answer, and a refused connection.
fn with_exchanges(mut summary: Summary) -> Summary {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(0, (1, 1), 78, PSH | ACK, 8);
    talk.answer(6 * MS, (1, 79), 300, PSH | ACK, 8);
    talk.ask(7 * MS, (79, 301), 78, PSH | ACK, 8);
    let mut refused = Talk::new(&world, 40_001);
    refused.ask(0, (0, 0), 0, SYN, 8);
    refused.answer(MS, (0, 1), 0, RST | ACK, 8);
    for exchange in talk.exchanges().iter().chain(&refused.exchanges()) {
        summary.add_exchange(exchange);
    }
    summary
}

#[test]
fn legs_verdicts_and_losses_are_told() {
    let mut out = Vec::new();
    let losses = LossTotals { ring_full: 7, ..LossTotals::default() };
    with_exchanges(of_a_few_pings()).write_text(&mut out, &[], &losses, &[]).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn the_json_form_has_the_same_figures() {
    let mut out = Vec::new();
    let streams = [StreamEnd {
        path: "n1.stream".to_owned(),
        nodes: vec!["n1".to_owned()],
        kernel: "6.12.95".to_owned(),
        end: "interrupted".to_owned(),
    }];
    with_exchanges(of_a_few_pings()).write_json(&mut out, &[], &LossTotals::default(), &streams).unwrap();
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["schema"], "tracer.summary/v1");
    assert_eq!(line["packets"]["total"], 6);
    assert_eq!(line["packets"]["lost"], 2);
    assert_eq!(line["legs"].as_array().unwrap().len(), 7);
    let wire = line["legs"].as_array().unwrap().iter().find(|leg| leg["unknown"] == 4).unwrap();
    assert_eq!((&wire["lost"], &wire["max_error_ns"]), (&Value::from(1), &Value::from(0)));
    assert_eq!(line["lost_after"][0]["lost"], 1, "the packet that was seen in its pod only");
    let tcp = &line["exchanges"]["kinds"][0];
    assert_eq!((&tcp["count"], &tcp["answered"], &tcp["max_ns"]), (&3.into(), &1.into(), &6_007_000.into()));
    assert_eq!((&wire["count"], &wire["p50_ns"]), (&Value::from(4), &Value::Null));
    let documented = include_str!("../../../../docs/json.md");
    for object in [
        &line,
        &line["packets"],
        &line["losses"],
        &line["legs"][0],
        &line["legs"][0]["from"],
        &line["exchanges"],
        &line["exchanges"]["kinds"][0],
        &line["lost_after"][0],
        &line["streams"][0],
    ] {
        for field in object.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/json.md");
        }
    }
}

#[test]
fn the_slowest_leg_is_named_and_an_estimate_has_its_error() {
    let world = two_nodes(false, "vxlan");
    let mut summary = Summary::default();
    let mut trajectories = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), ROUTED));
    trajectories[0].legs[3].latency = Latency::Estimated { ns: 210_000, error_ns: 40_000 };
    summary.add(&trajectories[0]);
    let (mut text, mut json) = (Vec::new(), Vec::new());

    summary.write_text(&mut text, &[], &LossTotals::default(), &[]).unwrap();
    summary.write_json(&mut json, &[], &LossTotals::default(), &[]).unwrap();

    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("slowest: n1 eth0 egress -> n2 eth0 ingress, p99 210.0 us +/- 40.0 us"), "{text}");
    assert!(text.contains("times without it are exact"), "{text}");
    let line: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(line["slowest_leg"], 3);
    assert_eq!(line["legs"][3]["max_error_ns"], 40_000);
}
