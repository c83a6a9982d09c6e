use super::{Style, duration, write_trajectory};
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::model::Trajectory;
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, NODE_1, NODE_2, ROUTED, ROUTED_SERVICE, SECOND, SYN, Step, World,
    cut, gso, icmp_error, ping, run, stamp, tcp, two_nodes, udp,
};

fn tell(world: &World, trajectories: &[Trajectory]) -> String {
    let mut out = Vec::new();
    for trajectory in trajectories {
        let wall = |_, time_ns| 1_795_313_343_000_000_000 + time_ns % SECOND;
        write_trajectory(&mut out, trajectory, &world.book, &wall, Style::default()).unwrap();
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_service_over_vxlan_tells_names_nat_ttl_and_tunnel() {
    let world = two_nodes(false, "vxlan");
    let syn = tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN);
    let out = world.correlate(world.walk(SECOND + 123_456_000, &syn, ROUTED_SERVICE));
    insta::assert_snapshot!(tell(&world, &out));
}

#[test]
fn a_redirected_packet_tells_the_hop_that_it_passed_by() {
    let mut world = two_nodes(false, "cilium_vxlan");
    world.foreign("n1/vethcurl<", "cil_from_container");
    world.foreign("n2/cilium_vxlan<", "cil_from_overlay");
    let steps: &[Step<'_>] = &[
        ("n1/curl:eth0>", &[]),
        ("n1/vethcurl<", &[]),
        ("n1/cilium_vxlan>", &[]),
        ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
        ("n2/eth0<", &[]),
        ("n2/cilium_vxlan<", &[Change::Decap]),
        ("n2/httpbin:eth0<", &[Change::Ttl]),
    ];
    let out = world.correlate(world.walk(SECOND, &ping(CURL, HTTPBIN, 1), steps));
    insta::assert_snapshot!(tell(&world, &out));
}

#[test]
fn a_lost_packet_tells_where_and_its_retransmission_names_it() {
    let world = two_nodes(false, "vxlan");
    let original = tcp((CURL, 40000), (HTTPBIN, 80), 1000, 78, ACK);
    let mut again = original.clone();
    again.tcp_timestamps = Some((100_204, 200_000));
    let mut sightings = world.walk(SECOND, &original, &ROUTED[..4]);
    sightings.extend(world.walk(SECOND + 204_000_000, &stamp(again), ROUTED));
    let out = world.correlate(sightings);
    insta::assert_snapshot!(tell(&world, &out));
}

#[test]
fn an_icmp_error_tells_what_it_is_about_and_which_packet_that_is() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (CLUSTER_IP, 80), 1400, 77, 1);
    let mut sightings = world.walk(SECOND, &datagram, &ROUTED_SERVICE[..2]);
    let error = icmp_error(NODE_1, &datagram, 3, 4);
    sightings.extend(world.walk(SECOND + 9000, &error, &[("n1/vethcurl>", &[]), ("n1/curl:eth0<", &[])]));

    let told = tell(&world, &world.correlate(sightings));

    for line in [
        "note: node n1 answered: ICMP fragmentation needed (at most 1400 bytes), #2",
        "ICMP fragmentation needed, at most 1400 bytes  quotes #1",
        "    about UDP pod default/curl 10.244.0.153:5000 -> Service default/web 10.96.0.10:80",
    ] {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }
}

#[test]
fn a_copy_tells_of_what() {
    let world = two_nodes(false, "vxlan");
    let datagram = udp((CURL, 5000), (HTTPBIN, 53), 40, 77, 1);
    let mut sightings = world.walk(SECOND, &datagram, ROUTED);
    sightings.extend(world.walk(SECOND + 30_000, &datagram, ROUTED).drain(4..));
    let told = tell(&world, &world.correlate(sightings));
    assert!(told.contains("UDP (DNS), 40 bytes  duplicate of #1"), "{told}");
}

#[test]
fn segments_and_lost_records_are_told() {
    let world = two_nodes(false, "");
    let whole = gso(tcp((CURL, 40000), (HTTPBIN, 80), 0, 5000, ACK), 1398);
    let mut sightings = world.walk(
        SECOND,
        &whole,
        &[("n1/curl:eth0>", &[]), ("n1/vethcurl<", &[]), ("n1/eth0>", &[Change::Ttl])],
    );
    let mut routed = whole.clone();
    routed.ttl = 63;
    for piece in cut(&routed, 1398) {
        sightings.push(world.see("n2/eth0<", SECOND + 10_000, &piece));
    }
    routed.ttl = 62;
    sightings.push(world.see("n2/httpbin:eth0<", SECOND + 20_000, &routed));
    sightings.extend(world.walk(
        SECOND,
        &udp((CURL, 5353), ("192.0.2.7", 53), 40, 9, 1),
        &[("n1/vethcurl<", &[])],
    ));
    let mut correlator = world.correlator(CorrelatorConfig::default());
    correlator.report_loss(&"n2".into(), 3, SECOND);
    correlator.report_loss(&"n1".into(), 1, SECOND);
    let out = run(&mut correlator, sightings);
    insta::assert_snapshot!(tell(&world, &out));
}

#[test]
fn no_line_of_a_usual_walk_is_wider_than_100_columns_and_plain_has_no_escapes() {
    let world = two_nodes(false, "vxlan");
    let out =
        world.correlate(world.walk(SECOND, &tcp((CURL, 40000), (CLUSTER_IP, 80), 9, 0, SYN), ROUTED_SERVICE));
    let text = tell(&world, &out);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn durations_have_the_unit_that_reads_best() {
    let told: Vec<String> =
        [0, 999, 1_000, 1_234, 56_789, 999_999, 1_500_000, 2_500_000_000].into_iter().map(duration).collect();
    assert_eq!(told, ["0 ns", "999 ns", "1.00 us", "1.23 us", "56.8 us", "1000.0 us", "1.50 ms", "2.50 s"]);
}
