//! `tracer points`: every hook of the lab, with its device, role and evidence, and who else is on it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use tracer_integration::{Attach, Point, Tracer, attach, has_tcx, run_to_its_end};
use tracer_lab::Direction::{Egress, Ingress};
use tracer_lab::{Foreign, ForeignHook, ForeignVerdict, Lab, Pod, Topology};

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";

/// A device as it should be listed: place, name, ifindex, kind, role, whose.
type Listed = (String, String, u32, String, String, Option<String>);

fn listed(points: &[Point], direction: &str) -> BTreeSet<Listed> {
    let of = |point: &Point| {
        let place = point.place_name().to_owned();
        (
            place,
            point.device.clone(),
            point.ifindex,
            point.kind.clone(),
            point.role.clone(),
            point.pod.clone(),
        )
    };
    points.iter().filter(|point| point.direction == direction).map(of).collect()
}

/// What a lab of that topology has besides its pods, on each node.
fn shared_devices(topology: Topology) -> Vec<(&'static str, u32, &'static str, &'static str)> {
    let nic = ("eth0", 20, "veth", "nic");
    match topology {
        Topology::RoutedVxlan => vec![nic, ("vxlan.calico", 21, "vxlan", "tunnel")],
        Topology::BridgeVxlan => {
            vec![nic, ("flannel.1", 21, "vxlan", "tunnel"), ("cni0", 22, "bridge", "bridge")]
        }
        _ => vec![
            nic,
            ("cilium_vxlan", 21, "vxlan", "tunnel"),
            ("cilium_net", 22, "veth", "other"),
            ("cilium_host", 23, "veth", "other"),
        ],
    }
}

fn devices_of(lab: &Lab, pod: &Pod) -> [Listed; 2] {
    let (label, veth) = (pod.label(), "veth".to_owned());
    let node = lab.node_of(pod);
    let peer = node.netns().ifindex(pod.host_device()).unwrap();
    let role = |role: &str| role.to_owned();
    [
        (
            label.clone(),
            "eth0".to_owned(),
            pod.ifindex(),
            veth.clone(),
            role("pod-interface"),
            Some(label.clone()),
        ),
        (node.name().to_owned(), pod.host_device().to_owned(), peer, veth, role("pod-peer"), Some(label)),
    ]
}

fn expected(lab: &Lab) -> BTreeSet<Listed> {
    let mut expected: BTreeSet<Listed> = lab.pods().iter().flat_map(|pod| devices_of(lab, pod)).collect();
    for node in [NODE_1, NODE_2] {
        for (name, ifindex, kind, role) in shared_devices(lab.topology()) {
            expected.insert((
                node.to_owned(),
                name.to_owned(),
                ifindex,
                kind.to_owned(),
                role.to_owned(),
                None,
            ));
        }
    }
    expected
}

#[test]
fn every_point_of_the_lab_is_listed_with_its_role() {
    for topology in Topology::EVERYWHERE {
        let lab = tracer_integration::lab(topology).unwrap();
        let points = Tracer::new(&lab).unwrap().points(&[]).unwrap();

        for direction in ["ingress", "egress"] {
            assert_eq!(listed(&points, direction), expected(&lab), "{topology} {direction}");
        }
        assert_eq!(points.len(), 2 * expected(&lab).len(), "each once");
        assert!(points.iter().all(|point| !point.attached && point.place.is_none()), "it attaches nothing");
        let mechanism = if has_tcx() { "tcx" } else { "clsact" };
        assert!(points.iter().all(|point| point.mechanism == mechanism && point.blind.is_none()));
        for point in &points {
            let place = lab
                .pods()
                .iter()
                .find(|pod| pod.label() == point.place_name())
                .map(|pod| pod.netns().clone());
            let netns = place.unwrap_or_else(|| lab.node(&point.node).netns().clone());
            let inode =
                fs::metadata(netns.path()).map(|file| std::os::unix::fs::MetadataExt::ino(&file)).unwrap();
            assert_eq!(point.netns_inode, inode, "{point:?}");
        }
    }
}

/// `tracer points` where it can see this lab and the machine's own namespace only: every lab has the same addresses.
fn points_beside_no_other_lab(lab: &Lab, tracer: &Tracer) -> Vec<Point> {
    const SCRIPT: &str = "\
        set -e
        for path in $1; do
            touch \"$0/${path##*/}\"
            mount --bind \"$path\" \"$0/${path##*/}\"
        done
        mount --rbind \"$0\" /run/netns
        shift
        exec \"$@\"";
    let namespaces = lab.nodes().iter().map(|node| node.netns().path());
    let namespaces = namespaces.chain(lab.pods().iter().map(|pod| pod.netns().path()));
    let paths = namespaces.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    let directory = tempfile::tempdir().unwrap();
    let points = tracer.command("points", &["-o", "json"]);
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", SCRIPT]).arg(directory.path());
    alone.arg(paths).arg(points.get_program()).args(points.get_args());
    let output = run_to_its_end(&mut alone).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Point::read(&output.stdout).unwrap()
}

#[test]
fn without_annotations_namespaces_are_found_by_addresses_and_the_evidence_says_so() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let annotated = tracer.points(&[]).unwrap();
    fs::write(tracer.inventory(), lab.inventory_yaml()).unwrap();
    let unannotated = points_beside_no_other_lab(&lab, &tracer);

    assert_eq!(listed(&annotated, "ingress"), listed(&unannotated, "ingress"));
    let evidence = |points: &[Point], place: &str, device: &str| {
        let point = points.iter().find(|point| point.place_name() == place && point.device == device);
        point.unwrap().evidence.clone()
    };
    let curl = lab.pod("curl");
    let path = curl.netns().path().display().to_string();
    let by_annotation = evidence(&annotated, &curl.label(), "eth0");
    assert!(by_annotation.contains("tracer.dev/netns") && by_annotation.contains(&path), "{by_annotation}");
    let by_address = evidence(&unannotated, &curl.label(), "eth0");
    assert!(by_address.contains(&curl.ipv4().to_string()), "{by_address}");
    let of_peer = evidence(&unannotated, NODE_1, curl.host_device());
    assert!(of_peer.starts_with("the other end of eth0"), "{of_peer}");
    let of_nic = evidence(&unannotated, NODE_1, "eth0");
    assert!(of_nic.contains(&lab.node(NODE_1).ipv4().to_string()), "{of_nic}");
}

#[test]
fn a_follow_narrows_the_points() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();

    let points = tracer.points(&["--pod", "curl", "--to", "svc/httpbin-local"]).unwrap();

    let pods: BTreeSet<_> = points.iter().filter_map(|point| point.pod.as_deref()).collect();
    assert_eq!(pods, BTreeSet::from(["default/curl", "default/httpbin-local"]));
    assert!(points.iter().all(|point| point.node == NODE_1), "both are on one node");
}

#[test]
fn others_are_listed_by_full_name_and_id_in_text_and_json() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, ok) = (lab.pod("curl"), || ForeignVerdict::Ok);
    let attach_foreign = |device: &str, direction, hook| {
        lab.attach_foreign(NODE_1, device, direction, &Foreign { hook, verdict: ok() }).unwrap()
    };
    let newest = if has_tcx() { ForeignHook::TcxTail } else { ForeignHook::Clsact };
    let tcx = has_tcx().then(|| attach_foreign(curl.host_device(), Ingress, ForeignHook::TcxTail));
    let filter = attach_foreign(curl.host_device(), Ingress, ForeignHook::Clsact);
    let egress = attach_foreign("eth0", Egress, newest);
    assert!(filter.name().len() > 15 && egress.name().len() > 15, "names that the kernel cuts");

    let point = tracer.hook(NODE_1, curl.host_device(), Ingress);
    let found: Vec<_> = point
        .programs
        .iter()
        .map(|program| (program.name.as_str(), program.id, program.mechanism.as_str()))
        .collect();
    let first = tcx.iter().map(|tcx| (tcx.name(), Some(tcx.id()), "tcx"));
    let expected: Vec<_> = first.chain([(filter.name(), Some(filter.id()), "clsact")]).collect();
    assert_eq!(found, expected, "in running order");
    let last = point.programs.last().unwrap();
    assert_eq!((last.priority, last.handle), (Some(1), Some(1)));
    assert!(tracer.hook(NODE_1, curl.host_device(), Egress).programs.is_empty());

    let output = tracer.run("points", &[]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // A narrow table may break between words, not within names; then words of the column before stand between.
    let words: Vec<&str> = text.split_whitespace().collect();
    for program in tcx.iter().chain([&filter, &egress]) {
        let id = program.id().to_string();
        let is_named = |words: &[&str]| {
            words[0] == program.name() && words[1..].iter().any(|word| word.trim_end_matches(',') == id)
        };
        assert!(words.windows(6).any(is_named), "{} {id} in {text}", program.name());
    }
    for pod in lab.pods() {
        assert!(text.contains(&format!("pod {} on node {}", pod.label(), lab.node_of(pod).name())), "{text}");
        assert!(text.contains(pod.host_device()), "{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours on a pipe");
    assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
}

#[test]
fn our_place_is_shown_while_we_follow() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin"]).unwrap();

    let points = tracer.points(&["--pod", "curl", "--to", "httpbin"]).unwrap();

    let mechanism = if attach() == Attach::Tcx { "tcx" } else { "clsact" };
    for point in &points {
        assert_eq!(
            (point.attached, point.place, point.mechanism.as_str()),
            (true, Some(1), mechanism),
            "{point:?}"
        );
        let ours: Vec<_> = point.programs.iter().filter(|program| program.ours).collect();
        let name = if point.is(Ingress) { "tracer_in_eth" } else { "tracer_out_eth" };
        assert_eq!(ours.len(), 1);
        assert!(ours[0].name == name && ours[0].mechanism == mechanism, "{point:?}");
    }
    let text = String::from_utf8(tracer.run("points", &["--pod", "curl", "--to", "httpbin"]).unwrap().stdout)
        .unwrap();
    assert!(
        text.contains(&format!("{mechanism} 1 of 1")) && text.contains("tracer is attached to 16"),
        "{text}"
    );
    assert!(follow.stop().unwrap().exit.success());
}
