//! What the kernel can do is told truly, and tracer does with it what it says. Expectations come from the kernel's
//! version and from tools that ask it, not from tracer.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tracer_integration::{Tracer, fact, has_tcx, kernel_version};
use tracer_lab::Direction::{Egress, Ingress};
use tracer_lab::{Lab, Topology};

const NODE_1: &str = "telekom-xwkb3";
const ICMP: [&str; 6] = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"];

/// Features by the version that brought them; all kernels of the tests have what can be left out of these.
const SINCE: [(&str, (u32, u32)); 3] = [("ring_buffer", (5, 8)), ("drop_reasons", (5, 17)), ("tcx", (6, 6))];

/// What text says about the lack of a feature, until the colon.
const LACKS: [(&str, &str); 5] = [
    ("ring_buffer", "no BPF ring buffer (Linux 5.8): "),
    ("kernel_btf", "no BTF (/sys/kernel/btf/vmlinux is missing): "),
    ("drop_reasons", "no drop reasons (Linux 5.17): "),
    ("tcx", "no TCX (Linux 6.6): legacy clsact filters are used"),
    ("netkit", "no netkit (Linux 6.7, CONFIG_NETKIT): "),
];

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn kernel_has(feature: &str) -> bool {
    match feature {
        "kernel_btf" => Path::new("/sys/kernel/btf/vmlinux").exists(),
        // Distributions may leave it out.
        "netkit" => {
            let mut trial = Command::new("unshare");
            trial.args(["--net", "ip", "link", "add", "try0", "type", "netkit"]);
            trial.output().unwrap().status.success()
        }
        _ => SINCE.iter().any(|(name, since)| *name == feature && kernel_version() >= *since),
    }
}

#[test]
fn what_the_kernel_has_is_in_json_and_what_it_lacks_at_the_end_of_text() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();

    let json = tracer.run("points", &["-o", "json"]).unwrap();
    let text = tracer.run("points", &[]).unwrap();

    assert!(json.status.success() && text.status.success());
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(document["kernel"]["release"], release());
    let text = String::from_utf8(text.stdout).unwrap();
    let mut end = text.rsplit("\n\n").next().unwrap().lines();
    assert!(end.next().unwrap().starts_with(&format!("kernel {}", release())), "{text}");
    let mut lines: Vec<&str> = end.map(str::trim_start).collect();
    for (feature, sentence) in LACKS {
        let has = kernel_has(feature);
        assert_eq!(document["kernel"][feature], has, "{feature} on {}", release());
        let told = lines.iter().position(|line| line.starts_with(sentence));
        assert_eq!(told.is_none(), has, "{feature} on {}: {text}", release());
        told.map(|place| lines.remove(place));
        fact(&format!("the kernel has: {feature}"), if has { "yes" } else { "no" });
    }
    assert!(lines.is_empty(), "nothing else is said: {lines:?}");
}

#[test]
fn tcx_is_used_where_the_kernel_has_it_and_asking_for_it_fails_with_a_way_out_where_not() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let arguments = [&ICMP[..], &["--attach", "tcx"]].concat();

    if has_tcx() {
        let follow = tracer.follow(&arguments).unwrap();
        for direction in [Ingress, Egress] {
            let point = tracer.hook(NODE_1, "eth0", direction);
            assert_eq!((point.attached, point.mechanism.as_str()), (true, "tcx"), "{point:?}");
        }
        assert!(follow.stop().unwrap().exit.success());
    } else {
        let output = tracer.run("follow", &arguments).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = "error: this kernel has no TCX (it came with Linux 6.6): use --attach clsact, or --attach auto, \
                        which picks it\n";
        assert_eq!(said, expected);
        assert!(output.stdout.is_empty());
    }
    assert!(tracer.hooked().ours.is_empty());
}

#[test]
fn left_to_itself_tracer_attaches_by_tcx_where_there_is_tcx_and_by_clsact_where_not() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let mechanism = if has_tcx() { "tcx" } else { "clsact" };
    let before = tracer.hook(NODE_1, "eth0", Ingress);
    let follow = tracer.follow(&[&ICMP[..], &["--attach", "auto"]].concat()).unwrap();

    let point = tracer.hook(NODE_1, "eth0", Ingress);

    assert_eq!((before.attached, before.mechanism.as_str()), (false, mechanism), "what would be is told");
    assert_eq!((point.attached, point.mechanism.as_str()), (true, mechanism));
    fact("attached by", if has_tcx() { "TCX, clsact on demand" } else { "clsact" });
    assert!(follow.stop().unwrap().exit.success());
}
