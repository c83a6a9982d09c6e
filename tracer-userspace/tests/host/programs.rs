use std::time::{Duration, SystemTime};

use tracer::host::links::dump;
use tracer::host::programs::{HookProgram, Mechanism, of_device, of_devices};

use crate::bpf::{BpfFs, Program};
use crate::support::{Namespace, run};

const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const NEXT: i32 = -1;

/// A namespace with one dummy device, and its ifindex.
fn device() -> (Namespace, u32) {
    let namespace = Namespace::new("progs");
    namespace.ip("link add d0 type bridge");
    let links = dump(&namespace.open()).unwrap().links;
    let ifindex = links.iter().find(|link| &*link.name == "d0").unwrap().ifindex;
    (namespace, ifindex)
}

fn names(programs: &[HookProgram]) -> Vec<&str> {
    programs.iter().map(|program| program.name.as_str()).collect()
}

#[test]
fn tcx_runs_before_legacy_filters_and_names_are_whole() {
    let (namespace, ifindex) = device();
    let netns = namespace.open();
    let file_system = BpfFs::new();
    let ours = Program::load("tracer_ingress_ethernet", NEXT);
    let cilium = Program::load("cil_from_container", NEXT);
    let calico = Program::load("cali_tc_preamble", NEXT);
    let calico_pin = calico.pin(&file_system, "calico");
    let _links = netns
        .run(|| [ours.attach_tcx(ifindex, TCX_INGRESS), cilium.attach_tcx(ifindex, TCX_INGRESS)])
        .unwrap();
    let tc = |arguments: &str| run("tc", &format!("-n {} {arguments}", namespace.name));
    tc("qdisc add dev d0 clsact");
    tc(&format!("filter add dev d0 ingress prio 2 handle 7 bpf da object-pinned {calico_pin}"));
    // A classic BPF filter, which is no eBPF program: "return -1".
    let classic = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(classic.path(), "1,6 0 0 4294967295").unwrap();
    tc(&format!("filter add dev d0 ingress prio 1 bpf bytecode-file {}", classic.path().display()));

    let found = of_device(&netns, ifindex).unwrap();

    assert_eq!(
        names(&found.ingress),
        ["tracer_ingress_ethernet", "cil_from_container", "bpf filter", "cali_tc_preamble"]
    );
    assert!(found.egress.is_empty() && found.netkit_peer.is_empty());
    assert!(found.ingress[0].is_ours() && !found.ingress[1].is_ours());
    assert_eq!(found.ingress[0].mechanism, Mechanism::Tcx);
    assert_eq!(found.ingress[2].id, None);
    let Mechanism::Clsact { priority, handle, chain, direct_action } = found.ingress[3].mechanism else {
        panic!("{:?}", found.ingress[3])
    };
    assert_eq!((priority, handle, chain, direct_action), (2, 7, 0, true));
    for program in [&found.ingress[0], &found.ingress[1], &found.ingress[3]] {
        assert!(program.id.is_some() && program.tag.is_some_and(|tag| tag != [0; 8]));
        let age = SystemTime::now().duration_since(program.loaded_at.unwrap()).unwrap_or_default();
        assert!(age < Duration::from_secs(60), "{age:?}");
    }
}

#[test]
fn the_two_directions_and_devices_with_the_same_ifindex_stay_apart() {
    let ((one, ifindex), (other, same)) = (device(), device());
    assert_eq!(ifindex, same);
    let program = Program::load("observer_with_a_long_name", NEXT);
    let _link = one.open().run(|| program.attach_tcx(ifindex, TCX_EGRESS)).unwrap();

    let found = of_devices(&one.open(), &[1, ifindex]).unwrap();

    assert_eq!(names(&found[&ifindex].egress), ["observer_with_a_long_name"]);
    assert!(found[&ifindex].ingress.is_empty() && found[&1].egress.is_empty());
    assert!(of_device(&other.open(), ifindex).unwrap().egress.is_empty());
}

#[test]
fn a_device_that_is_gone_is_an_error_that_names_it() {
    let (namespace, ifindex) = device();
    namespace.ip("link del d0");

    let message = of_device(&namespace.open(), ifindex).unwrap_err().to_string();

    assert!(message.contains(&format!("device {ifindex} in {}", namespace.path())), "{message}");
}
