//! The relay is a wire, and does to frames what it is told. These tests need root.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;
use std::time::Duration;

use tracer_lab::{Captured, Fate, Flood, Impairment, Lab, RelayLog, RelayOptions, Topology, Wire};

const NEAR: &str = "telekom-xwkb3";
const FAR: &str = "telekom-xwkb8";
const PORT: u16 = 9000;
/// Bytes in each datagram of a flood, so that its frames are told from all others.
const PAYLOAD: usize = 333;
/// Outer and inner headers around such a datagram on the wire.
const FRAME: usize = PAYLOAD + 8 + 20 + 14 + 8 + 8 + 20 + 14;

fn lab(topology: Topology) -> Lab {
    Lab::build_with(topology, Wire::Relay(RelayOptions::default())).unwrap()
}

/// What happened on the way there while curl sent datagrams to httpbin.
fn flood(lab: &Lab, packets: u64, there: Impairment) -> (Captured, RelayLog) {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let relay = lab.relay().unwrap();
    // Neighbours are resolved first.
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let _sink = httpbin.udp_sink(PORT).unwrap();
    relay.forget().unwrap();
    relay.set([there, Impairment::NONE]);
    let capture = lab.capture_everywhere().unwrap();
    let to = SocketAddr::new(httpbin.ipv4().into(), PORT);
    let flood = Flood { packets, payload: PAYLOAD, rate: Some(10_000) };
    assert_eq!(curl.udp_flood(to, flood).unwrap(), packets);
    relay.settle().unwrap();
    let captured = capture.stop().unwrap();
    relay.set([Impairment::NONE; 2]);
    let log = relay.log();
    assert_eq!((captured.dropped, log.failed), (0, 0));
    (captured, log)
}

/// The numbers of the datagrams that came in at the far node's NIC, in order.
fn numbers_at_the_far_nic(captured: &Captured) -> Vec<u64> {
    let came_in = captured.packets.iter().filter(|packet| {
        *packet.place == *FAR
            && &*packet.device == "eth0"
            && packet.direction == tracer_lab::Direction::Ingress
            && packet.bytes.len() == FRAME
    });
    came_in.map(|packet| number(&packet.bytes)).collect()
}

/// A datagram of a flood begins with its number.
fn number(frame: &[u8]) -> u64 {
    let at = frame.len() - PAYLOAD;
    u64::from_be_bytes(frame[at..at + 8].try_into().unwrap())
}

#[test]
fn the_relay_is_a_wire_in_every_topology() {
    for topology in Topology::EVERYWHERE {
        let lab = lab(topology);
        let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
        for ip in httpbin.ips() {
            assert_eq!(curl.ping(ip, 2).unwrap().received, 2, "{topology} {ip}");
        }
        let _server = httpbin.serve_http(80).unwrap();
        let answer = curl.curl(&format!("http://{}/bytes/300000", httpbin.ipv4())).unwrap();
        assert_eq!(answer.body.len(), 300_000, "{topology}");
        let log = lab.relay().unwrap().log();
        assert!(log.departures.len() > 200 && log.failed == 0, "{topology}: {}", log.departures.len());
        // What a cable carries.
        let longest = log.arrivals.iter().map(|arrival| arrival.frame.len()).max();
        assert_eq!(longest, Some(1514), "{topology}");
    }
}

#[test]
fn frames_arrive_as_they_were_sent_and_in_order() {
    let (captured, log) = flood(&lab(Topology::RoutedVxlan), 500, Impairment::NONE);
    assert_eq!(numbers_at_the_far_nic(&captured), (0..500).collect::<Vec<_>>());
    // The nodes' own multicast may fall between the beginnings of log and capture.
    let at = |place: &str, direction| {
        let there = captured.packets.iter().filter(move |packet| {
            *packet.place == *place && &*packet.device == "eth0" && packet.direction == direction
        });
        there.map(|packet| packet.bytes.as_slice()).filter(|frame| frame.len() == FRAME).collect::<Vec<_>>()
    };
    let logged: Vec<_> = log.arrivals.iter().map(|arrival| &*arrival.frame).collect();
    let logged: Vec<_> = logged.into_iter().filter(|frame| frame.len() == FRAME).collect();
    assert!(at(NEAR, tracer_lab::Direction::Egress) == logged, "sent is not what the relay had");
    assert!(at(FAR, tracer_lab::Direction::Ingress) == logged, "what the relay had did not arrive");
}

#[test]
fn a_loss_of_all_loses_all_until_it_is_taken_back() {
    let lab = lab(Topology::RoutedVxlan);
    let lossy = Impairment { loss: 1.0, ..Impairment::NONE };
    let (captured, log) = flood(&lab, 50, lossy);
    assert_eq!(numbers_at_the_far_nic(&captured), []);
    let lost = log.arrivals.iter().filter(|arrival| arrival.from == 0 && arrival.fate == Fate::Lost);
    assert!(lost.count() >= 50);

    let (captured, _) = flood(&lab, 50, Impairment::NONE);
    assert_eq!(numbers_at_the_far_nic(&captured).len(), 50);
}

#[test]
fn a_doubled_frame_arrives_twice() {
    let twice = Impairment { duplicate: 1.0, ..Impairment::NONE };
    let (captured, _) = flood(&lab(Topology::RoutedVxlan), 50, twice);
    assert_eq!(numbers_at_the_far_nic(&captured), (0..50).flat_map(|n| [n, n]).collect::<Vec<_>>());
}

#[test]
fn a_frame_that_is_held_back_is_overtaken() {
    let held = Impairment { reorder: 0.1, reorder_by: Duration::from_millis(5), ..Impairment::NONE };
    let (captured, _) = flood(&lab(Topology::RoutedVxlan), 500, held);
    let mut numbers = numbers_at_the_far_nic(&captured);
    assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "in order: {numbers:?}");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

#[test]
fn delay_and_jitter_hold_for_every_frame_and_keep_the_order() {
    let (delay, jitter) = (Duration::from_millis(3), Duration::from_millis(2));
    let late = Impairment { delay, jitter, ..Impairment::NONE };
    let (captured, log) = flood(&lab(Topology::RoutedVxlan), 300, late);
    assert_eq!(numbers_at_the_far_nic(&captured), (0..300).collect::<Vec<_>>());
    for departure in &log.departures {
        let arrival = &log.arrivals[departure.arrival];
        let took = Duration::from_nanos(departure.time_ns - arrival.time_ns);
        assert!(arrival.from == 1 || took >= delay, "took {took:?}");
    }
}

#[test]
fn a_cut_of_the_mtu_takes_what_is_longer() {
    let cut = Impairment { mtu: Some(300), ..Impairment::NONE };
    let lab = lab(Topology::RoutedVxlan);
    let (captured, log) = flood(&lab, 20, cut);
    assert_eq!(numbers_at_the_far_nic(&captured), []);
    assert_eq!(log.arrivals.iter().filter(|arrival| arrival.fate == Fate::TooLong).count(), 20);

    lab.relay().unwrap().set([cut; 2]);
    assert_eq!(lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 2).unwrap().received, 2);
}

#[test]
fn a_loss_of_some_loses_about_as_many() {
    let (captured, log) =
        flood(&lab(Topology::RoutedVxlan), 500, Impairment { loss: 0.3, ..Impairment::NONE });
    let arrived = numbers_at_the_far_nic(&captured).len();
    assert!((275..425).contains(&arrived), "{arrived} of 500");
    assert!(log.arrivals.iter().any(|arrival| arrival.fate == Fate::Lost));
}
