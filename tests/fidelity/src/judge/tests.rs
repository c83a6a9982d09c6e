use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tracer::stream::{Hello, Sighted};
use tracer::trajectory::model::{ClockId, DeviceRole, Direction, ObservationPoint, Packet, PodRef, PointId};

use super::*;
use crate::stream::Item;
use crate::truth::{Arrived, Emission};

const CLOCK: Clock = Clock { origin_ns: 0, offset_ns: 0, drift_ppb: 0, wall_ns: 1_000_000 };

/// Two packets leave pod a at 100 and 200; the first comes to pod b at 150, the second is lost on the wire.
fn recorded() -> ([Stream; 2], Truth) {
    let near = stream("a", Direction::Egress, &[100, 200]);
    let far = stream("b", Direction::Ingress, &[150]);
    let emission = |number, arrived: bool| Emission {
        what: String::new(),
        bytes: None,
        twin: number,
        copies: arrived
            .then_some((0, Arrived { whole: true, ..Arrived::default() }))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        on_the_wire: String::new(),
    };
    let carried = |emission, copy| vec![Carried { emission, copy }];
    let truth = Truth {
        emissions: vec![emission(0, true), emission(1, false)],
        labels: [vec![carried(0, ORIGINAL), carried(1, ORIGINAL)], vec![carried(0, 0)]],
    };
    ([near, far], truth)
}

fn stream(pod: &str, direction: Direction, times: &[u64]) -> Stream {
    let point = Arc::new(ObservationPoint {
        id: PointId(0),
        node: format!("node-{pod}").into(),
        clock: ClockId(0),
        pod: Some(Arc::new(PodRef {
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            uid: String::new(),
        })),
        device: "eth0".into(),
        kind: "veth".into(),
        ifindex: 2,
        has_ethernet_header: true,
        direction,
        role: DeviceRole::PodInterface,
        bridge: None,
        foreign_programs: Vec::new(),
        hidden_by: None,
    });
    let packet = Packet {
        fingerprint: 1,
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        ports: None,
        protocol: 17,
        ttl: 64,
        length: 100,
        payload_length: 50,
        gso_segments: 1,
        gso_size: 0,
        sequence: 0,
        acknowledgment: 0,
        tcp_timestamps: None,
        tcp_flags: 0,
        window: 0,
        identification: 0,
        fragment: None,
        icmp: None,
        quote: None,
        encapsulation: Vec::new(),
    };
    let sighting = |(number, time_ns): (usize, &u64)| {
        Item::Sighting(
            number,
            Box::new(Sighted { point: 0, time_ns: *time_ns, packet: packet.clone(), frame: None }),
        )
    };
    let hello = Hello {
        tracer: String::new(),
        kernel_release: String::new(),
        boot_id: pod.to_owned(),
        nodes: vec![format!("node-{pod}")],
        watches_drops: false,
        monotonic_ns: 0,
        wall_ns: 0,
    };
    Stream { hello, items: times.iter().enumerate().map(sighting).collect(), points: vec![point] }
}

/// A trajectory with hops at these times, as tracer prints it.
fn told(hops: &[(&str, &str, u64)], verdict: &str, after: Option<usize>) -> Trajectory {
    let hops: Vec<_> = hops
        .iter()
        .map(|(pod, direction, time_ns)| {
            json!({
                "node": format!("node-{pod}"), "pod": pod, "namespace": "default", "device": "eth0",
                "role": "pod-interface", "direction": direction, "time_ns": CLOCK.wall(*time_ns),
            })
        })
        .collect();
    let line = json!({
        "schema": "tracer.trajectory/v1", "id": 1, "protocol": "udp", "verdict": verdict,
        "verdict_detail": { "after_hop": after }, "hops": hops, "legs": [], "lost_records": 0,
        "retransmission_of": null, "ambiguous": null, "notes": [], "tcp": null, "payload_length": 50,
    });
    crate::told::parse(&[line.to_string()]).unwrap().remove(0)
}

fn judged(told: &[Trajectory]) -> Judgement {
    let (streams, truth) = recorded();
    judge(told, &streams, &[CLOCK, CLOCK], &truth, false).unwrap()
}

const SENT: (&str, &str, u64) = ("a", "egress", 100);
const SENT_LATER: (&str, &str, u64) = ("a", "egress", 200);
const CAME: (&str, &str, u64) = ("b", "ingress", 150);

#[test]
fn the_truth_is_right() {
    let judgement = judged(&[told(&[SENT, CAME], "delivered", None), told(&[SENT_LATER], "lost", Some(0))]);
    assert_eq!((judgement.packets, judgement.right), (2, 2));
    assert!(!judgement.is_wrong(), "{:?}", judgement.explanations);
}

#[test]
fn hops_of_two_packets_in_one_are_wrong() {
    let judgement = judged(&[told(&[SENT_LATER, CAME], "delivered", None)]);
    assert_eq!((judgement.wrong_joins, judgement.right), (1, 0));
    // And that neither of the two was told whole.
    assert_eq!(judgement.explanations.len(), 3);
}

#[test]
fn one_packet_told_as_two_is_wrong() {
    let judgement = judged(&[told(&[SENT], "unknown", None), told(&[CAME], "delivered", None)]);
    assert_eq!(judgement.wrong_joins, 1);
}

#[test]
fn a_hop_that_nobody_recorded_is_wrong() {
    assert_eq!(judged(&[told(&[("a", "egress", 101)], "unknown", None)]).wrong_joins, 1);
}

#[test]
fn a_verdict_is_wrong_in_both_directions() {
    assert_eq!(judged(&[told(&[SENT], "lost", Some(0))]).verdicts_wrong, 1);
    assert_eq!(judged(&[told(&[SENT_LATER], "delivered", None)]).verdicts_wrong, 1);
}

#[test]
fn what_is_not_known_is_incomplete_and_not_wrong() {
    let judgement = judged(&[told(&[SENT], "unknown", None)]);
    assert!(!judgement.is_wrong());
    assert_eq!((judgement.right, judgement.incomplete, judgement.untold), (0, 1, 1));
}
