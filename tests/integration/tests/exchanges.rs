//! Requests and answers: real packets are tied together, and their times add up.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;
use std::time::Duration;

use tracer_integration::{Exchange, Report, Times, Tracer, Trajectory, lab};
use tracer_lab::{Lab, RecordType, Topology};

const SOON: Duration = Duration::from_secs(10);
/// What the server waits before it answers, milliseconds.
const DELAY_MS: u64 = 60;

/// A Service's address for HTTP.
fn web_address(lab: &Lab) -> SocketAddr {
    let service = lab.service("httpbin");
    SocketAddr::new(service.cluster_ips()[0], service.ports[0].port)
}

/// The exchanges of this kind, each of which was answered.
#[track_caller]
fn answered<'a>(report: &'a Report, kind: &str) -> Vec<&'a Exchange> {
    let found: Vec<_> = report.exchanges.iter().filter(|exchange| exchange.kind == kind).collect();
    assert!(found.iter().all(|exchange| exchange.outcome == "answered"), "{found:#?}");
    found
}

/// Whole and parts, nanoseconds, of times that are all exact.
#[track_caller]
fn exact_parts(times: &Times) -> [u64; 4] {
    let exact = |latency: &Option<tracer_integration::Latency>| {
        let latency = latency.as_ref().unwrap_or_else(|| panic!("a path is unknown: {times:?}"));
        assert_eq!(latency.latency_error_ns, Some(0), "the lab has one clock: {times:?}");
        latency.latency_ns.unwrap()
    };
    let parts = [exact(&times.there), times.application_ns.unwrap(), exact(&times.back)];
    assert_eq!(times.total_ns, times.resent_ns + parts.iter().sum::<u64>(), "{times:?}");
    [times.total_ns, parts[0], parts[1], parts[2]]
}

#[track_caller]
fn trajectory(report: &Report, id: u64) -> &Trajectory {
    report.trajectories.iter().find(|told| told.id == id).unwrap()
}

/// From the first hop to the last, by the hops' own times.
fn time_on_the_way(told: &Trajectory) -> u64 {
    told.hops.last().unwrap().time_ns - told.hops[0].time_ns
}

#[test]
fn an_http_request_to_a_service_is_one_exchange_whose_parts_add_up() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let _web = lab.pod("httpbin").serve_http(80).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "svc/httpbin"]).unwrap();

    let url = format!("http://{}/delay/{DELAY_MS}", web_address(&lab));
    assert_eq!(lab.pod("curl").curl(&url).unwrap().status, 200);
    follow.eventually(SOON, "the connection's end, both ways", |told| {
        let is_fin =
            |told: &&Trajectory| told.tcp.as_ref().is_some_and(|tcp| tcp.flags.contains(&"fin".into()));
        told.iter().filter(is_fin).count() == 2
    });
    let report = follow.stop().unwrap();

    let exchanges = answered(&report, "tcp");
    let [exchange] = exchanges[..] else { panic!("one request is one exchange: {exchanges:#?}") };
    assert_eq!(exchange.requester.pod.as_deref(), Some("curl"));
    assert_eq!(exchange.addressed.service.as_deref(), Some("httpbin"));
    assert_eq!(exchange.responder.pod.as_deref(), Some("httpbin"));
    assert_eq!(exchange.packets.len(), report.trajectories.len(), "no packet stands outside: {exchange:#?}");
    let [total, there, application, back] = exact_parts(exchange.times.as_ref().unwrap());
    assert!(application >= DELAY_MS * 1_000_000, "the server waits that long: {application} ns");
    let (asked, told) = (exchange.with_role("request")[0], exchange.with_role("answer")[0]);
    let (asked, told) = (trajectory(&report, asked), trajectory(&report, told));
    assert_eq!((there, back), (time_on_the_way(asked), time_on_the_way(told)));
    assert_eq!(total, told.hops.last().unwrap().time_ns - asked.hops[0].time_ns);
    let handshake = exact_parts(exchange.handshake.as_ref().unwrap());
    assert!(handshake[0] < total, "the kernel answers a SYN without the application: {handshake:?}");
}

#[test]
fn every_query_and_every_echo_request_has_its_answer() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, server) = (lab.pod("curl"), lab.pod("httpbin"));
    let _dns = server.serve_dns(53, lab.dns_records()).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin"]).unwrap();

    for kind in [RecordType::A, RecordType::Aaaa] {
        let name = "httpbin.default.svc.cluster.local";
        assert_eq!(curl.dns_query(SocketAddr::new(server.ipv4().into(), 53), name, kind).unwrap().len(), 1);
    }
    assert_eq!(curl.ping(server.ipv4().into(), 3).unwrap().received, 3);
    follow.eventually(SOON, "two queries and three pings, both ways", |told| told.len() == 10);
    let report = follow.stop().unwrap();

    let (queries, pings) = (answered(&report, "dns"), answered(&report, "echo"));
    assert_eq!((queries.len(), pings.len()), (2, 3));
    for exchange in queries.iter().chain(&pings) {
        assert_eq!(
            exchange.packets.iter().map(|packet| &*packet.role).collect::<Vec<_>>(),
            ["request", "answer"]
        );
        let [_, there, _, back] = exact_parts(exchange.times.as_ref().unwrap());
        let way = |index: usize| time_on_the_way(trajectory(&report, exchange.packets[index].id));
        assert_eq!((there, back), (way(0), way(1)));
    }
    assert_eq!(report.exchanges.len(), 5);
}

#[test]
fn text_shows_an_exchange_as_a_ladder_and_with_packets_every_packet() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let ping = || assert_eq!(lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1).unwrap().received, 1);
    let follow = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"];
    let ladders = tracer.follow_text(&follow).unwrap();
    let packets = tracer.follow_text(&[&follow[..], &["--packets"]].concat()).unwrap();

    ping();
    let has = |lines: &[String], beginning: &str| lines.iter().any(|line| line.starts_with(beginning));
    ladders.eventually_prints(SOON, "the exchange, while it runs", |lines| has(lines, "    answered after"));
    packets.eventually_prints(SOON, "both packets", |lines| has(lines, "#1 ") && has(lines, "#2 "));

    let (ladders, packets) = (ladders.stop().unwrap().text(), packets.stop().unwrap().text());
    assert!(
        ladders.contains("exchange 1 ") && ladders.contains("-- echo request 1, 56 bytes --"),
        "{ladders}"
    );
    assert!(!ladders.contains("\n#1 "), "delivered packets are rows of the ladder only: {ladders}");
    assert!(!packets.contains("exchange 1 ") && packets.contains("leaves pod curl"), "{packets}");
}
