use super::{Attachment, DEFAULT_WIDTH, PointRow, ProgramRow, write_json, write_text};
use crate::host::kernel::{Feature, Kernel};
use crate::trajectory::model::{DeviceRole, Direction};

fn row(device: &str, ifindex: u32, direction: Direction, role: DeviceRole) -> PointRow {
    PointRow {
        node: "telekom-xwkb3".to_owned(),
        pod: None,
        netns: "/run/netns/telekom-xwkb3".to_owned(),
        netns_inode: 4_026_532_201,
        device: device.to_owned(),
        kind: String::new(),
        ifindex,
        direction,
        role,
        mechanism: Attachment::Tcx,
        attached: false,
        place: None,
        programs: Vec::new(),
        blind: None,
        evidence: "has the node's address 10.135.0.11".to_owned(),
    }
}

fn program(name: &str, id: u32, ours: bool) -> ProgramRow {
    ProgramRow {
        id: Some(id),
        name: name.to_owned(),
        tag: Some("2547a15a9196a2d0".to_owned()),
        loaded_at: Some("2023-12-05T07:09:11Z".to_owned()),
        mechanism: "tcx",
        priority: None,
        handle: None,
        ours,
    }
}

fn kernel() -> Kernel {
    Kernel::made_up("6.18.44", |feature| feature != Feature::Netkit)
}

fn rows() -> Vec<PointRow> {
    let pod = |row: PointRow| PointRow {
        pod: Some("default/curl".to_owned()),
        kind: "veth".to_owned(),
        evidence: "has the pod's IP 10.244.0.153 on eth0".to_owned(),
        ..row
    };
    let inside = |row: PointRow| PointRow {
        netns: "/run/netns/curl".to_owned(),
        netns_inode: 4_026_532_309,
        ..pod(row)
    };
    vec![
        row("eth0", 2, Direction::Ingress, DeviceRole::Nic),
        row("eth0", 2, Direction::Egress, DeviceRole::Nic),
        PointRow {
            attached: true,
            place: Some(1),
            programs: vec![
                program("tracer_ingress", 2501, true),
                program("cil_from_container", 2490, false),
                ProgramRow {
                    mechanism: "clsact",
                    priority: Some(1),
                    handle: Some(1),
                    ..program("cali_tc_preamble", 77, false)
                },
            ],
            ..pod(row("lxced3096cb2cb1", 257, Direction::Ingress, DeviceRole::PodPeer))
        },
        PointRow {
            blind: Some("cil_to_container is a TCX program".to_owned()),
            ..pod(row("lxced3096cb2cb1", 257, Direction::Egress, DeviceRole::PodPeer))
        },
        inside(row("eth0", 256, Direction::Ingress, DeviceRole::PodInterface)),
        inside(row("eth0", 256, Direction::Egress, DeviceRole::PodInterface)),
    ]
}

fn text(width: u16) -> String {
    let mut out = Vec::new();
    write_text(&mut out, &rows(), &kernel(), width).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn points_are_grouped_by_namespace_with_the_programs_in_full() {
    insta::assert_snapshot!(text(DEFAULT_WIDTH));
}

#[test]
fn the_table_fits_a_terminal_of_eighty_columns() {
    let text = text(80);
    let tables = text.lines().take_while(|line| !line.contains("observation points on"));
    for line in tables.filter(|line| line.starts_with("  ")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn json_has_its_schema_and_every_field() {
    let mut out = Vec::new();
    write_json(&mut out, &rows(), &kernel()).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&out).unwrap();

    assert_eq!(document["schema"], "tracer.points/v1");
    assert_eq!(
        (&document["kernel"]["release"], &document["kernel"]["tcx"]),
        (&"6.18.44".into(), &true.into())
    );
    assert_eq!(document["kernel"]["netkit"], false);
    assert!(document["points"][0]["blind"].is_null());
    let point = &document["points"][2];
    assert_eq!(point["device"], "lxced3096cb2cb1");
    assert_eq!(point["direction"], "ingress");
    assert_eq!(point["role"], "pod-peer");
    assert_eq!(point["mechanism"], "tcx");
    assert_eq!(point["place"], 1);
    assert_eq!(point["programs"][1]["name"], "cil_from_container");
    assert_eq!(point["programs"][2]["handle"], 1);
}

#[test]
fn no_points_is_said() {
    let mut out = Vec::new();
    write_text(&mut out, &[], &kernel(), 80).unwrap();

    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("no observation points\n\nkernel 6.18.44\n  no netkit (Linux 6.7"), "{text}");
}
