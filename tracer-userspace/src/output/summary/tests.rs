use serde_json::Value;

use super::{LossTotals, StreamEnd, Summary};
use crate::trajectory::testing::{CURL, HTTPBIN, ROUTED, SECOND, ping, two_nodes};

fn of_a_few_pings() -> Summary {
    let world = two_nodes(false, "vxlan");
    let mut sightings = Vec::new();
    for i in 0..4 {
        sightings.extend(world.walk(SECOND + u64::from(i) * 1_000_000, &ping(CURL, HTTPBIN, i), ROUTED));
    }
    sightings.extend(world.walk(2 * SECOND, &ping(CURL, HTTPBIN, 9), &ROUTED[..4]));
    let mut summary = Summary::default();
    for trajectory in world.correlate(sightings) {
        summary.add(&trajectory);
    }
    summary
}

#[test]
fn legs_verdicts_and_losses_are_told() {
    let mut out = Vec::new();
    let losses = LossTotals { ring_full: 7, ..LossTotals::default() };
    of_a_few_pings().write_text(&mut out, &[], &losses, &[]).unwrap();
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
    of_a_few_pings().write_json(&mut out, &[], &LossTotals::default(), &streams).unwrap();
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["schema"], "tracer.summary/v1");
    assert_eq!(line["packets"]["total"], 5);
    assert_eq!(line["packets"]["lost"], 1);
    assert_eq!(line["legs"].as_array().unwrap().len(), 7);
    let wire = line["legs"].as_array().unwrap().iter().find(|leg| leg["unknown"] == 4).unwrap();
    assert_eq!((&wire["count"], &wire["p50_ns"]), (&Value::from(4), &Value::Null));
    let documented = include_str!("../../../../docs/json.md");
    for object in [
        &line,
        &line["packets"],
        &line["losses"],
        &line["legs"][0],
        &line["legs"][0]["from"],
        &line["streams"][0],
    ] {
        for field in object.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/json.md");
        }
    }
}
