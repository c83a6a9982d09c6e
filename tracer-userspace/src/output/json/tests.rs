use serde_json::{Value, json};

use super::{write_exchange, write_trajectory};
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::exchange::Exchange;
use crate::trajectory::exchange::testing::Talk;
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, HTTPBIN, MS, PSH, ROUTED, ROUTED_SERVICE, SECOND, SYN, World, drop_at, ping, tcp,
    two_nodes, two_nodes_with_one_clock,
};

#[test]
fn a_trajectory_is_one_line_with_every_documented_field() {
    let world = two_nodes(false, "vxlan");
    let out =
        world.correlate(world.walk(SECOND, &tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN), ROUTED_SERVICE));
    let mut bytes = Vec::new();
    let wall = |_, time_ns| 1_795_313_343_000_000_000 + time_ns % SECOND;

    write_trajectory(&mut bytes, &out[0], &world.book, &wall).unwrap();

    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
    let line: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(line["schema"], "tracer.trajectory/v1");
    assert_eq!(line["protocol"], "tcp");
    assert_eq!(
        line["src"],
        json!({"ip": CURL, "port": 40000, "pod": "curl", "namespace": "default", "node": "n1", "service": null})
    );
    assert_eq!(
        line["dst"],
        json!({"ip": CLUSTER_IP, "port": 80, "pod": null, "namespace": "default", "node": null, "service": "web"})
    );
    assert_eq!((&line["verdict"], &line["verdict_detail"]), (&json!("delivered"), &Value::Null));
    assert_eq!(line["tcp"], json!({"seq": 9, "ack": 0, "flags": ["syn"], "window": 502}));
    assert_eq!(line["hops"][3]["encapsulation"][0]["kind"], "vxlan");
    assert_eq!(line["hops"][3]["encapsulation"][0]["identifier"], 2735);
    assert_eq!(line["hops"][7]["dst"], json!({"ip": HTTPBIN, "port": 8080}));
    assert_eq!(line["hops"][0]["time_ns"], 1_795_313_343_000_001_000u64);
    assert_eq!(
        line["legs"][0],
        json!({"from": 0, "to": 1, "latency_ns": 1000, "latency_error_ns": 0, "latency_unknown": null})
    );
    assert_eq!(
        line["legs"][3],
        json!({"from": 3, "to": 4, "latency_ns": null, "latency_error_ns": null, "latency_unknown": "one direction only"})
    );

    let documented = include_str!("../../../../docs/json.md");
    for object in
        [&line, &line["src"], &line["hops"][3], &line["hops"][3]["encapsulation"][0], &line["legs"][0]]
    {
        for field in object.as_object().unwrap().keys() {
            assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/json.md");
        }
    }
}

#[test]
fn a_lost_packet_says_after_which_hop() {
    let world = two_nodes(false, "vxlan");
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), &ROUTED[..4]));
    let mut bytes = Vec::new();
    write_trajectory(&mut bytes, &out[0], &world.book, &|_, time_ns| time_ns).unwrap();
    let line: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(line["verdict"], "lost");
    assert_eq!(
        line["verdict_detail"],
        json!({"after_hop": 3, "expected": "eth0 ingress on n2", "reason": null, "drop": null})
    );
    assert_eq!(line["missing"][0]["after_hop"], 3);
    assert_eq!(line["icmp"], json!({"type": 8, "code": 0, "seq": 1}));
}

#[test]
fn a_dropped_packet_says_where_and_why_and_what_to_look_at() {
    let world = two_nodes(false, "vxlan");
    let packet = ping(CURL, HTTPBIN, 1);
    let mut correlator = world.correlator(CorrelatorConfig::default());
    correlator.push_drop(drop_at(&world, "n1/curl", "NETFILTER_DROP", SECOND, &packet));
    let mut out = Vec::new();
    correlator.finish(&mut |trajectory| out.push(trajectory));

    let mut bytes = Vec::new();
    write_trajectory(&mut bytes, &out[0], &world.book, &|_, time_ns| time_ns).unwrap();

    let line: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&line["verdict"], &line["hops"]), (&json!("dropped"), &json!([])));
    let detail = &line["verdict_detail"];
    assert_eq!((&detail["after_hop"], &detail["reason"]), (&Value::Null, &json!("NETFILTER_DROP")));
    assert_eq!((&detail["drop"]["node"], &detail["drop"]["pod"]), (&json!("n1"), &json!("curl")));
    assert_eq!((&line["src"]["pod"], &line["dst"]["pod"]), (&json!("curl"), &json!("httpbin")));
    let documented = include_str!("../../../../docs/json.md");
    for field in detail.as_object().unwrap().keys().chain(detail["drop"].as_object().unwrap().keys()) {
        assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/json.md");
    }
}

/// One exchange as its line, every field of which must be documented.
fn line_of(world: &World, exchange: &Exchange) -> Value {
    let mut bytes = Vec::new();
    let wall = |_, time_ns| 1_795_313_343_000_000_000 + time_ns % SECOND;
    write_exchange(&mut bytes, exchange, &world.book, &wall).unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
    let line: Value = serde_json::from_slice(&bytes).unwrap();
    let documented = include_str!("../../../../docs/json.md");
    for object in [&line, &line["packets"][0], &line["times"], &line["times"]["there"], &line["requester"]] {
        for field in object.as_object().into_iter().flat_map(|object| object.keys()) {
            assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/json.md");
        }
    }
    line
}

#[test]
fn an_exchange_is_one_line_with_every_documented_field() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.handshake(0);
    talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    talk.answer(9 * MS, (1, 79), 300, PSH | ACK, 8);

    let line = line_of(&world, &talk.exchanges()[0]);

    assert_eq!(line["schema"], "tracer.exchange/v1");
    assert_eq!((&line["kind"], &line["protocol"]), (&json!("tcp"), &json!("tcp")));
    assert_eq!((&line["outcome"], &line["ending"]), (&json!("answered"), &json!("run-ended")));
    assert_eq!(line["addressed"]["service"], "web");
    assert_eq!(line["responder"]["pod"], "httpbin");
    assert_eq!(line["start_time_ns"], 1_795_313_343_000_000_000u64);
    assert_eq!(
        line["packets"][4],
        json!({"id": 5, "role": "answer", "from_requester": false, "offset_ns": 9_007_000})
    );
    assert_eq!(line["handshake"]["total_ns"], 1_007_000);
    let exact = |ns: u64| json!({"latency_ns": ns, "latency_error_ns": 0, "latency_unknown": null});
    assert_eq!(
        line["times"],
        json!({
            "total_ns": 6_007_000, "resent_ns": 0, "there": exact(7_000), "application_ns": 5_993_000,
            "beyond_ns": null, "beyond": null, "back": exact(7_000), "paths": exact(14_000), "split_unknown": null
        })
    );
    assert_eq!(line["times_unknown"], Value::Null);
}

#[test]
fn an_exchange_without_an_answer_says_why_it_has_no_times() {
    let world = two_nodes_with_one_clock("vxlan");
    let mut talk = Talk::new(&world, 40_000);
    talk.ask(3 * MS, (1, 1), 78, PSH | ACK, 8);
    let line = line_of(&world, &talk.exchanges()[0]);
    assert_eq!((&line["outcome"], &line["times"]), (&json!("unanswered"), &Value::Null));
    assert_eq!(line["times_unknown"], "no answer seen");
}
