//! `tracer capture` and `tracer read`: what is in a file is what was on the devices, and what it tells is what was told.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tracer_integration::{
    CaptureFile, FilePacket, Report, Tracer, Trajectory, Verdict, lab, program, run_to_its_end, trajectories,
};
use tracer_lab::{Captured, CapturedPacket, Direction, Lab, RecordType, Topology};

/// The name that the lab's DNS is asked for.
const NAME: &str = "kube-dns.kube-system.svc.cluster.local";
const MARK: &str = "PAYLOAD-THAT-NOBODY-ASKED-FOR";

/// Pings, a request with payload and its answer, and datagrams from curl to httpbin.
fn talk(lab: &Lab) {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = httpbin.serve_http(80).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 3).unwrap().received, 3);
    let url = format!("http://{}/bytes/40?{MARK}", SocketAddr::new(httpbin.ipv4().into(), 80));
    assert_eq!(curl.curl(&url).unwrap().body.len(), 40);
    drop(web);
}

/// Talks while everything is captured by both; gives tracer's file, and the packets of the lab's own capture between the
/// two pods by interface, named as in the file.
fn captured(topology: Topology, arguments: &[&str]) -> (CaptureFile, BTreeMap<String, Vec<CapturedPacket>>) {
    let lab = lab(topology).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let truth = lab.capture_everywhere().unwrap();
    let capture =
        tracer.capture(&path, &[&["--pod", "curl", "--to", "httpbin"], arguments].concat()).unwrap();
    talk(&lab);
    let report = capture.stop().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    let Captured { packets, dropped } = truth.stop().unwrap();
    assert_eq!(dropped, 0, "the lab's own capture is whole");
    let mut by_interface: BTreeMap<String, Vec<CapturedPacket>> = BTreeMap::new();
    let ends = [lab.pod("curl").ipv4(), lab.pod("httpbin").ipv4()];
    for packet in packets.into_iter().filter(|packet| is_between(&packet.bytes, ends)) {
        by_interface.entry(interface(&lab, &packet)).or_default().push(packet);
    }
    (CaptureFile::read(&path).unwrap(), by_interface)
}

/// Source and destination stand behind each other in an IPv4 header, wherever that is.
fn is_between(bytes: &[u8], [a, b]: [Ipv4Addr; 2]) -> bool {
    let pair = |from: Ipv4Addr, to: Ipv4Addr| [from.octets(), to.octets()].concat();
    let (there, back) = (pair(a, b), pair(b, a));
    bytes.windows(8).any(|window| window == there || window == back)
}

/// `node/device/direction`, and for a pod's own device `node/pod/device/direction`.
fn interface(lab: &Lab, packet: &CapturedPacket) -> String {
    let direction = match packet.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    match packet.place.split_once('/') {
        Some((_, pod)) => {
            format!("{}/{pod}/{}/{direction}", lab.node_of(&lab.pod(pod)).name(), packet.device)
        }
        None => format!("{}/{}/{direction}", packet.place, packet.device),
    }
}

/// The same packets at every interface, in the same order, each up to `snaplen` bytes.
fn assert_same_packets(file: &CaptureFile, truth: &BTreeMap<String, Vec<CapturedPacket>>, snaplen: usize) {
    let mut told: BTreeMap<&str, Vec<&FilePacket>> = BTreeMap::new();
    for packet in &file.packets {
        told.entry(&packet.interface).or_default().push(packet);
    }
    assert_eq!(
        told.keys().copied().collect::<Vec<_>>(),
        truth.keys().map(String::as_str).collect::<Vec<_>>()
    );
    for (interface, packets) in truth {
        let told = &told[interface.as_str()];
        assert_eq!(told.len(), packets.len(), "packets at {interface}");
        for (told, packet) in told.iter().zip(packets) {
            let expected = &packet.bytes[..packet.bytes.len().min(snaplen)];
            assert_eq!(told.bytes, expected, "at {interface}: {}", told.comment);
            assert_eq!(told.length as usize, packet.bytes.len(), "at {interface}: {}", told.comment);
            assert_eq!(told.ethernet, packet.hardware == 1, "at {interface}");
        }
    }
}

fn read(files: &[&Path], arguments: &[&str]) -> Output {
    let mut command = Command::new(program().unwrap());
    command.arg("read").args(files).args(arguments).stdin(Stdio::null());
    run_to_its_end(&mut command).unwrap()
}

/// What a trajectory says, without its number.
fn in_words(told: &Trajectory) -> String {
    let hops: Vec<_> =
        told.hops.iter().map(|hop| format!("{} {} {}", hop.place(), hop.device, hop.direction)).collect();
    format!(
        "{:?} {} {} {}: {}",
        told.verdict,
        told.protocol,
        told.src.ip,
        told.hops[0].time_ns,
        hops.join(", ")
    )
}

#[test]
fn a_capture_has_the_packets_of_every_device_byte_for_byte() {
    let (file, truth) = captured(Topology::RoutedVxlan, &["--snaplen", "160"]);

    assert_eq!(truth.len(), 16, "eight points there and back");
    assert_same_packets(&file, &truth, 160);
    let hop = file.packets.iter().find(|packet| packet.interface == "telekom-xwkb3/eth0/egress").unwrap();
    assert!(hop.comment.contains("hop 4 of 8: leaves the node; in VXLAN VNI 4096"), "{}", hop.comment);
    assert!(hop.comment.contains("pod default/curl -> pod default/httpbin\ndelivered"), "{}", hop.comment);
}

#[test]
fn without_being_asked_for_no_byte_of_payload_is_in_a_capture() {
    let (file, truth) = captured(Topology::RoutedVxlan, &[]);

    let contains = |bytes: &[u8]| bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
    assert!(truth.values().flatten().any(|packet| contains(&packet.bytes)), "the payload was on the devices");
    let mut cut = 0;
    for packet in &file.packets {
        assert!(!contains(&packet.bytes), "{packet:?}");
        let (all, headers) = (packet.length as usize, packet.bytes.len());
        if packet.interface.ends_with("curl/eth0/egress") {
            let parsed = etherparse::LaxPacketHeaders::from_ethernet(&packet.bytes).unwrap();
            assert!(parsed.transport.is_some(), "the headers are whole: {packet:?}");
            assert!(parsed.payload.slice().is_empty(), "{packet:?}");
            cut += usize::from(headers < all);
        }
    }
    assert!(cut >= 4, "three pings and a request were longer than their headers");
}

#[test]
fn a_capture_that_is_read_again_tells_what_was_told() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let selection = ["--pod", "curl", "--to", "httpbin"];
    let capture = tracer.capture(&path, &selection).unwrap();
    talk(&lab);
    let httpbin = lab.pod("httpbin");
    // Nobody listens: an answer that says so, and where drops are told, their reason.
    assert!(
        lab.pod("curl").curl(&format!("http://{}/", SocketAddr::new(httpbin.ipv4().into(), 81))).is_err()
    );
    let said: Report = capture.stop().unwrap();

    let output = read(&[&path], &["-o", "json", "--packets"]);

    let told = trajectories(&output);
    let count = |verdict| told.iter().filter(|told| told.verdict == verdict).count();
    let summary = said.stdout.iter().find(|line| line.contains(" packets: ")).unwrap();
    let expected = format!(
        "{} packets: {} delivered, {} dropped, {} lost, {} not known",
        told.len(),
        count(Verdict::Delivered),
        count(Verdict::Dropped),
        count(Verdict::Lost),
        count(Verdict::Unknown)
    );
    assert!(summary.starts_with(&expected), "{summary:?} is not {expected:?}");
    for told in &told {
        assert_eq!(told.src.namespace.as_deref(), Some("default"), "names are in the file: {told}");
        assert_eq!(
            told.legs.iter().filter(|leg| leg.latency_ns.is_some()).count(),
            told.legs.len(),
            "{told}"
        );
    }
    let words: Vec<_> = told.iter().map(in_words).collect();
    let again: Vec<_> =
        trajectories(&read(&[&path], &["-o", "json", "--packets"])).iter().map(in_words).collect();
    assert_eq!(words, again, "and it tells the same each time");
}

#[test]
fn only_packets_of_which_the_filter_holds_are_captured() {
    let (file, _) = captured(Topology::RoutedVxlan, &["--filter", "icmp and icmp[icmptype] = icmp-echo"]);

    assert_eq!(file.packets.len(), 3 * 8, "three requests at eight points each");
}

#[test]
fn files_follow_each_other_and_each_can_be_read_alone() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let capture = tracer
        .capture(&path, &["--pod", "curl", "--to", "httpbin", "--rotate-every", "400ms", "--for", "2s"])
        .unwrap();
    lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 6).unwrap();
    let report = capture.until_its_end().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);

    let mut files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    let packets: usize = files.iter().map(|file| CaptureFile::read(file).unwrap().packets.len()).sum();
    assert_eq!(packets, 6 * 2 * 8);
    let each: usize =
        files.iter().map(|file| trajectories(&read(&[file], &["-o", "json", "--packets"])).len()).sum();
    assert!(each >= 12, "a packet whose hops are in two files is told from both");
    let files: Vec<_> = files.iter().map(|file| file.as_path()).collect();
    assert_eq!(trajectories(&read(&files, &["-o", "json", "--packets"])).len(), 12);
}

#[test]
fn what_is_no_capture_or_a_damaged_one_is_said_and_what_was_whole_is_told() {
    let (lab, directory) = (lab(Topology::RoutedVxlan).unwrap(), tempfile::tempdir().unwrap());
    let path = directory.path().join("all.pcapng");
    let capture = Tracer::new(&lab).unwrap().capture(&path, &["--pod", "curl", "--to", "httpbin"]).unwrap();
    lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 3).unwrap();
    assert!(capture.stop().unwrap().exit.success());
    let whole = std::fs::read(&path).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };

    let mut damaged = whole.clone();
    let at = whole.len() * 3 / 4;
    damaged[at..at + 2000].fill(0xff);
    for (path, says) in [
        (file("cut", &whole[..whole.len() * 3 / 4]), "is cut short"),
        (file("damaged", &damaged), "is damaged at byte"),
        (file("text", b"apiVersion: v1"), "is no capture file"),
        (file("empty", b""), "it is empty"),
        (directory.path().join("nowhere"), "cannot be opened"),
    ] {
        let output = read(&[&path], &["--packets"]);
        let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{}: {said}", path.display());
        assert!(said.contains(says), "{}: {said}", path.display());
        let partial = said.contains("before that are told");
        assert_eq!(told.contains("delivered, 8 of 8 hops"), partial, "{}: {told}", path.display());
    }
}

/// A Service by its name, from a pod: DNS first, then the Service at the pod and its endpoint behind the translation.
fn assert_shows_dns_the_service_and_its_endpoint(topology: Topology, behind: &str) {
    let lab = lab(topology).unwrap();
    let (curl, httpbin, coredns) = (lab.pod("curl"), lab.pod("httpbin"), lab.pod("coredns"));
    let (dns_service, web_service) = (lab.service("kube-dns"), lab.service("httpbin"));
    let _dns = coredns.serve_dns(53, lab.dns_records()).unwrap();
    let _web = httpbin.serve_http(80).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let capture = Tracer::new(&lab).unwrap().capture(&path, &["--pod", "curl"]).unwrap();

    let server = SocketAddr::new(dns_service.cluster_ipv4.into(), 53);
    assert_eq!(curl.dns_query(server, NAME, RecordType::A).unwrap().len(), 1);
    let url = format!("http://{}/bytes/40", SocketAddr::new(web_service.cluster_ipv4.into(), 8000));
    assert_eq!(curl.curl(&url).unwrap().body.len(), 40);

    assert!(capture.stop().unwrap().exit.success());
    let file = CaptureFile::read(&path).unwrap();
    let at = |device: &str, from: Ipv4Addr, to: Ipv4Addr| {
        let pair = [from.octets(), to.octets()].concat();
        let fits = |packet: &&FilePacket| {
            packet.interface.contains(device) && packet.bytes.windows(8).any(|window| window == pair)
        };
        file.packets.iter().find(fits).map(|packet| packet.time_ns)
    };
    let from_curl = |device: &str, to: Ipv4Addr| at(device, curl.ipv4(), to);
    for (service, pod) in [(&dns_service, &coredns), (&web_service, &httpbin)] {
        let asked = from_curl("/curl/eth0/egress", service.cluster_ipv4).unwrap();
        let translated = from_curl(behind, pod.ipv4()).unwrap();
        assert!(asked < translated, "the Service at the pod, the endpoint behind the translation");
        assert_eq!(from_curl(behind, service.cluster_ipv4), None, "the Service does not leave the node");
        assert_eq!(from_curl("/curl/eth0/egress", pod.ipv4()), None, "the pod knows the Service alone");
        assert!(
            at("/curl/eth0/ingress", service.cluster_ipv4, curl.ipv4()).is_some(),
            "and is answered by it"
        );
    }
    let first = |to| from_curl("/curl/eth0/egress", to).unwrap();
    assert!(first(dns_service.cluster_ipv4) < first(web_service.cluster_ipv4), "DNS comes first");
}

#[test]
fn a_request_to_a_service_shows_dns_the_service_and_its_endpoint() {
    assert_shows_dns_the_service_and_its_endpoint(Topology::RoutedVxlan, "/vxlan.calico/egress");
}

#[test]
fn a_request_to_a_service_over_ipip_shows_dns_the_service_and_its_endpoint() {
    if can_build_ipip() {
        assert_shows_dns_the_service_and_its_endpoint(Topology::CalicoIpip, "/tunl0/egress");
    }
}

#[test]
fn streams_of_several_machines_become_one_capture() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let streams = ["telekom-xwkb3", "telekom-xwkb8"].map(|node| (node, directory.path().join(node)));
    let observers = streams.each_ref().map(|(node, path)| {
        let arguments = ["--pod", "curl", "--to", "httpbin", "--node", node, "--snaplen", "headers"];
        tracer.observe(&arguments, File::create(path).unwrap()).unwrap()
    });
    talk(&lab);
    for observe in observers {
        observe.stop().unwrap();
    }

    let path = directory.path().join("all.pcapng");
    let mut command = Command::new(program().unwrap());
    command.args(["capture", "--pod", "curl", "--to", "httpbin", "--inventory"]).arg(tracer.inventory());
    for (_, stream) in &streams {
        command.arg("--from").arg(stream);
    }
    let output = run_to_its_end(command.arg("--write").arg(&path).stdin(Stdio::null())).unwrap();

    assert!(output.status.success(), "{output:?}");
    let file = CaptureFile::read(&path).unwrap();
    let interfaces: BTreeSet<_> = file.packets.iter().map(|packet| packet.interface.as_str()).collect();
    assert_eq!(interfaces.len(), 16, "{interfaces:?}");
    assert!(file.packets.iter().all(|packet| packet.comment.ends_with("delivered")));
    assert_eq!(file.packets.len() % 8, 0, "each at eight points");
}

/// Where the kernel has no such devices, the lab says so.
fn can_build_ipip() -> bool {
    let Some(lacking) = Topology::CalicoIpip.lacking().unwrap() else { return true };
    let error = format!("{:#}", Lab::build(Topology::CalicoIpip).err().unwrap());
    assert!(error.ends_with(&lacking), "{error}");
    false
}

/// Calico's tunnel has no Ethernet header: one capture has interfaces of both kinds.
#[test]
fn a_capture_of_ipip_has_raw_packets_at_the_tunnel_and_frames_elsewhere() {
    if !can_build_ipip() {
        return;
    }
    let (file, truth) = captured(Topology::CalicoIpip, &["--snaplen", "160"]);
    assert_same_packets(&file, &truth, 160);
    let raw: Vec<_> = file.packets.iter().filter(|packet| !packet.ethernet).collect();
    assert!(raw.iter().all(|packet| packet.interface.contains("/tunl0/")) && !raw.is_empty());
}
