//! What is wrong is said: what, where, and what to do; exit code 1 for what did not work, 2 for what was typed wrong.
//!
//! Not here: a kernel without a ring buffer. Whether the kernel has one is asked of the kernel itself, by the type of
//! a map behind a pointer, which nothing in between (seccomp, namespaces) can answer differently. It needs a kernel
//! before 5.8.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tracer_integration::{Tracer, Trajectory, program, run_to_its_end, wait_until};
use tracer_lab::{Lab, Topology};

const COMMAND: &str = "kubectl get pods,services,endpointslices,nodes -A -o yaml > FILE";
/// tracer says after 5 s that it sees nothing.
const SILENCE: Duration = Duration::from_secs(9);

struct Said {
    code: Option<i32>,
    stderr: String,
    stdout: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stderr: text(output.stderr), stdout: text(output.stdout) }
    }
}

impl Said {
    /// Asserts the exit code and the whole message.
    #[track_caller]
    fn is(&self, code: i32, message: &str) {
        assert_eq!(self.stderr.trim_end(), message);
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""));
    }

    /// Asserts the exit code and parts of the message.
    #[track_caller]
    fn has(&self, code: i32, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {}", self.stderr);
        }
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{}", self.stderr);
    }
}

fn follow(tracer: &Tracer, arguments: &[&str]) -> Said {
    tracer.run("follow", arguments).unwrap().into()
}

/// A follow that must fail before it looks at the machine, so that no lab is needed.
fn follow_with(inventory: &Path) -> Said {
    let mut command = Command::new(program().unwrap());
    command.args(["follow", "--local", "--pod", "curl", "--inventory"]).arg(inventory);
    run_to_its_end(&mut command).unwrap().into()
}

fn lab_and_tracer() -> (Lab, Tracer) {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    (lab, tracer)
}

fn edit(tracer: &Tracer, change: impl FnOnce(&str) -> String) {
    let text = fs::read_to_string(tracer.inventory()).unwrap();
    fs::write(tracer.inventory(), change(&text)).unwrap();
}

/// The item of a list that has all of these lines.
fn item<'a>(text: &'a str, lines: &[&str]) -> &'a str {
    let has_all = |item: &&str| lines.iter().all(|line| item.contains(&format!("\n{line}\n")));
    text.split("\n- ").find(has_all).unwrap()
}

#[test]
fn names_that_do_not_exist_are_told_with_near_ones() {
    let (_lab, tracer) = lab_and_tracer();

    follow(&tracer, &["--pod", "crul"])
        .is(1, "error: no pod `crul` in namespace default; did you mean curl?");
    follow(&tracer, &["--pod", "zzz"]).is(1, "error: no pod `zzz` in namespace default");
    follow(&tracer, &["--pod", "corends", "-n", "kube-system"])
        .is(1, "error: no pod `corends` in namespace kube-system; did you mean coredns?");
    follow(&tracer, &["--pod", "curl", "-n", "kube-sytem"])
        .is(1, "error: no namespace `kube-sytem` in the inventory; did you mean kube-system?");
    follow(&tracer, &["--pod", "coredns"]).is(
        1,
        "error: pod `coredns` is not in namespace default but in kube-system; type `--pod kube-system/coredns`",
    );
    follow(&tracer, &["--pod", "curl", "--to", "coredns"]).is(
        1,
        "error: pod `coredns` is not in namespace default but in kube-system; type `--to kube-system/coredns`",
    );
    follow(&tracer, &["--pod", "curl", "--to", "svc/htpbin"])
        .is(1, "error: no Service `htpbin` in namespace default; did you mean svc/default/httpbin?");
    follow(&tracer, &["--pod", "curl", "--to", "svc/kube-dns"]).is(
        1,
        "error: no Service `kube-dns` in namespace default; in another namespace: --to svc/kube-system/kube-dns",
    );
    follow(&tracer, &["--pod", "curl", "--to", "svc/httpbin", "--port", "9"])
        .is(1, "error: svc/default/httpbin has no port 9; its ports are 8000/tcp (http)");
    let points: Said = tracer.run("points", &["--pod", "crul"]).unwrap().into();
    points.is(1, "error: no pod `crul` in namespace default; did you mean curl?");
}

#[test]
fn a_name_in_two_namespaces_is_not_guessed() {
    let (lab, tracer) = lab_and_tracer();
    let uid = lab.pod("curl").uid().to_owned();
    edit(&tracer, |text| {
        let curl = item(text, &["  kind: Pod", "    name: curl"]);
        let other =
            curl.replace("namespace: default", "namespace: team-b").replace("10.244.0.153", "10.244.0.154");
        text.replacen(
            "items:\n",
            &format!(
                "items:\n- {}\n",
                other.replace("::153", "::154").replace(&uid, "00000000-1111-4222-8333-444444444444")
            ),
            1,
        )
    });

    follow(&tracer, &["--pod", "curl"]).is(
        1,
        "error: pod `curl` is in 2 namespaces (default, team-b); type `--pod default/curl` or `--pod team-b/curl`",
    );
    follow(&tracer, &["--pod", "httpbin", "--to", "curl"]).is(
        1,
        "error: pod `curl` is in 2 namespaces (default, team-b); type `--to default/curl` or `--to team-b/curl`",
    );
}

#[test]
fn an_inventory_that_cannot_be_used_is_told_with_file_and_line() {
    let (_lab, tracer) = lab_and_tracer();
    let good = fs::read_to_string(tracer.inventory()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.yaml");
    let shown = path.display();
    let with = |text: &str| {
        fs::write(&path, text).unwrap();
        follow_with(&path)
    };
    let line_of = |text: &str, part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;

    follow_with(&path).is(
        1,
        &format!(
            "error: cannot read the inventory {shown}: No such file or directory (os error 2)\n  make one with: {COMMAND}"
        ),
    );
    follow_with(directory.path()).has(1, &["cannot read the inventory", "Is a directory"]);
    let should = format!("\n  the file should be what this prints: {COMMAND}");
    with("")
        .is(1, &format!("error: {shown}: no pods and no nodes in it (0 pods, 0 nodes, 0 Services){should}"));
    with("just a text\n").has(1, &[&format!("{shown}:1:1: ")]);
    with("items:\n- kind: Pod\n  metadata: [\n").has(1, &[&format!("{shown}:3:"), &should]);
    with(r#"{"kind": "List", "items": [}"#).has(1, &[&format!("{shown}:1:")]);
    let wrong_type = good.replacen("    nodeName: telekom-xwkb3", "    nodeName: [3]", 1);
    let line = line_of(&wrong_type, "nodeName: [3]");
    with(&wrong_type).has(1, &[&format!("error: {shown}:{line}:"), "Pod default/curl: ", &should]);
    let wrong_value = good.replace("10.244.0.153", "10.244.0.999");
    let line = line_of(&wrong_value, "10.244.0.999");
    with(&wrong_value)
        .has(1, &[&format!("error: {shown}:{line}:"), "`10.244.0.999` is not an IPv4 or IPv6 address"]);
    fs::write(&path, [0x6b, 0x0a, 0xff, 0xfe]).unwrap();
    follow_with(&path).is(1, &format!("error: {shown}:2:1: not UTF-8 text{should}"));
}

#[test]
fn what_is_typed_wrong_ends_with_code_2() {
    let (_lab, tracer) = lab_and_tracer();
    let typed = |arguments: &[&str]| follow(&tracer, &[&["--pod", "curl"], arguments].concat());

    follow(&tracer, &["--pod", "a/b/c"]).has(
        2,
        &["error: --pod `a/b/c`: should be a pod (NAME or NAMESPACE/NAME)", "svc/NAME", "NAME.NAMESPACE"],
    );
    follow(&tracer, &[]).has(2, &["--pod <TARGET>"]);
    follow(&tracer, &["--selector", "app in web"])
        .has(2, &["error: --selector `app in web`: should be labels"]);
    typed(&["--selector", "app=web"]).has(2, &["'--pod <TARGET>' cannot be used with '--selector <LABELS>'"]);
    typed(&["--to", "ing/x"]).has(2, &["`ing/...` cannot be followed", "deploy/NAME", "svc/NAME"]);
    typed(&["--port", "70000"]).is(
        2,
        "error: --port `70000`: should be a number from 1 to 65535, or the name of a port of the Service",
    );
    typed(&["--port", "http"]).is(
        2,
        "error: --port http: ports have names only in Services, and no --to was given; give the number",
    );
    typed(&["--protocol", "xyz"])
        .is(2, "error: --protocol `xyz`: should be tcp, udp, icmp, icmpv6, sctp, or a number from 0 to 255");
    typed(&["--protocol", "icmp", "--port", "80"]).has(2, &["this protocol has no ports"]);
    typed(&["--for", "10"])
        .has(2, &["'--for <TIME>'", "'10' is no time: use a number and a unit, such as 10s"]);
    typed(&["--for", "0s"]).has(2, &["'0s' is not longer than nothing"]);
    typed(&["--count", "0"]).has(2, &["'--count <N>'"]);
    typed(&["--ring-bytes", "5000"]).has(2, &["a power of two from 4096"]);
    // How an agent attaches is not for those to say who follow by it.
    for here in
        [["--attach", "tcx"], ["--ring-bytes", "8192"], ["--vxlan-port", "6081"], ["--node", "node-1"]]
    {
        let mut command = Command::new(program().unwrap());
        command.args(["follow", "--pod", "curl"]).args(here);
        Said::from(run_to_its_end(&mut command).unwrap()).has(2, &["--local"]);
    }
    typed(&["--attach", "xdp"]).has(2, &["possible values: auto, tcx, clsact"]);
    typed(&["--no-such-flag"]).has(2, &["unexpected argument '--no-such-flag'"]);
    let mut command = Command::new(program().unwrap());
    command.args(["follow", "--pod", "curl", "--inventory"]).arg(tracer.inventory());
    Said::from(run_to_its_end(&mut command).unwrap()).has(2, &["--local"]);
}

#[test]
fn each_missing_capability_is_named_with_its_purpose() {
    const NET_ADMIN: &str = "CAP_NET_ADMIN (to attach programs to devices)";
    const SYS_ADMIN: &str =
        "CAP_SYS_ADMIN (to enter the network namespaces of pods and to load eBPF programs)";
    const SYS_PTRACE: &str = "CAP_SYS_PTRACE (to find the network namespaces of pods by their processes)";
    let advice = ": run as root (sudo), or give the process these capabilities";
    // Where it was built nobody else may look.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let tracer = directory.path().join("tracer");
    fs::copy(program().unwrap(), &tracer).unwrap();
    let run = |setpriv: &[&str]| -> Said {
        let mut command = Command::new("setpriv");
        command.args(setpriv).arg(&tracer).args([
            "follow",
            "--local",
            "--inventory",
            "x.yaml",
            "--pod",
            "curl",
        ]);
        run_to_its_end(&mut command).unwrap().into()
    };

    run(&["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .is(1, &format!("error: missing {NET_ADMIN} and {SYS_ADMIN} and {SYS_PTRACE}{advice}"));
    run(&["--bounding-set", "-net_admin"]).is(1, &format!("error: missing {NET_ADMIN}{advice}"));
    run(&["--bounding-set", "-sys_admin"]).is(1, &format!("error: missing {SYS_ADMIN}{advice}"));
    run(&["--bounding-set", "-sys_ptrace"]).is(1, &format!("error: missing {SYS_PTRACE}{advice}"));
}

#[test]
fn without_kernel_btf_it_says_so_and_works() {
    let (lab, tracer) = lab_and_tracer();
    let empty = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, which ends with it.
    let hidden = |command: &Command| {
        let mut outer = Command::new("unshare");
        outer
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /sys/kernel/btf && exec \"$@\""])
            .arg(empty.path());
        outer.arg(command.get_program()).args(command.get_args());
        outer
    };
    let arguments = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp", "-o", "json", "--for", "4s"];
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let pings = std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            // Not before it is everywhere: adding a clsact qdisc may cost a packet (docs/attach.md).
            wait_until(Duration::from_secs(10), "it follows", || {
                (tracer.hooked().ours.len() == 16).then_some(())
            });
            curl.ping(httpbin.ipv4().into(), 20).unwrap().received
        });
        let output: Said = run_to_its_end(&mut hidden(&tracer.follow_command(&arguments))).unwrap().into();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(
            output
                .stderr
                .contains("has no BTF (/sys/kernel/btf/vmlinux is missing): packets are followed without it"),
            "{}",
            output.stderr
        );
        assert!(output.stdout.contains(r#""verdict":"delivered""#), "{}", output.stdout);
        pings.join().unwrap()
    });
    assert_eq!(pings, 20);
}

#[test]
fn silence_is_explained_after_five_seconds() {
    let (lab, tracer) = lab_and_tracer();
    let (curl, local) = (lab.pod("curl"), lab.pod("httpbin-local"));
    let nothing =
        tracer.follow(&["--pod", "curl", "--to", "httpbin", "--port", "81", "--protocol", "tcp"]).unwrap();

    let first = "nothing seen so far; waiting for packets default/curl <-> default/httpbin, tcp, port 81";
    nothing.eventually_notices(SILENCE, "what it waits for", |line| line == first);
    nothing.eventually_notices(SILENCE, "no packet came", |line| {
        line.starts_with("  no packet at all has passed the 16 observed points")
            || line.contains("other packets")
    });
    assert_eq!(curl.ping(local.ipv4().into(), 10).unwrap().received, 10);
    nothing.eventually_notices(SILENCE, "others passed", |line| line.ends_with("likely reasons:"));
    let said = nothing.stop().unwrap();

    assert!(said.exit.success());
    let text = said.stderr.join("\n");
    for reason in [
        "other packets have passed the observed points; likely reasons:",
        "  - nobody sends between default/curl and default/httpbin now",
        "  - --protocol or --port leaves the packets out",
        "  - the connection is kept alive and idle",
    ] {
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn an_early_end_without_a_packet_explains_it_too_and_one_with_packets_does_not() {
    let (lab, tracer) = lab_and_tracer();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let said = tracer.follow(&["--pod", "curl", "--to", "httpbin"]).unwrap().stop().unwrap();
    assert!(said.exit.success());
    assert!(said.stderr.iter().any(|line| line.starts_with("nothing seen so far")), "{:?}", said.stderr);

    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin"]).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let told = follow.eventually(SILENCE, "the ping", |told| told.len() == 2);
    assert!(told.iter().all(Trajectory::is_complete));
    let said = follow.stop().unwrap();
    assert!(!said.stderr.iter().any(|line| line.contains("nothing seen")), "{:?}", said.stderr);
}

#[test]
fn an_inventory_of_another_machine_has_nothing_to_observe_here() {
    let (_lab, tracer) = lab_and_tracer();
    edit(&tracer, |text| {
        let lines =
            text.lines().filter(|line| !line.contains("tracer.dev/netns") && *line != "    annotations:");
        let text = lines.map(|line| format!("{line}\n")).collect::<String>();
        text.replace("10.135.0.", "192.0.2.").replace("fd00:10:135", "2001:db8")
    });

    follow(&tracer, &["--pod", "curl", "--to", "httpbin"]).has(
        1,
        &[
            "note: pod default/curl is not on this machine: it runs on node telekom-xwkb3, which is another one\n",
            "error: there is nothing to observe on this machine:\n",
            "  - this machine is none of the inventory's 2 nodes (telekom-xwkb3, telekom-xwkb8): run tracer on a node",
        ],
    );
    let said = follow(&tracer, &["--pod", "curl", "--to", "httpbin"]).stderr;
    assert!(!said.contains("coredns"), "what was not asked for is not spoken of: {said}");
    let points: Said = tracer.run("points", &[]).unwrap().into();
    assert_eq!(points.code, Some(0));
    assert!(points.stdout.starts_with("no observation points\n"), "{}", points.stdout);
    assert!(
        points.stderr.contains("2 nodes and 4 pods of the inventory are on other machines"),
        "{}",
        points.stderr
    );
}
