//! Other programs. What people took with tcpdump is joined. Captures of ours tshark reads without complaint, and shows what
//! tracer knows; a pipe shows packets while they come; what cannot be kept is counted where such programs look.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tracer_integration::{
    CaptureFile, Report, Tracer, Verdict, attach, lab, program, run_to_its_end, trajectories, wait_until,
};
use tracer_lab::{Flood, Lab, Topology};

const FOLLOWED: [&str; 4] = ["--pod", "curl", "--to", "httpbin"];
/// Points on the way from curl to httpbin.
const POINTS: u64 = 8;
const SOON: Duration = Duration::from_secs(30);

/// A capture of a request and its answer.
fn capture(lab: &Lab, path: &Path, arguments: &[&str]) -> Report {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = httpbin.serve_http(80).unwrap();
    let tracer = Tracer::new(lab).unwrap();
    let capture = tracer.capture(path, &[&FOLLOWED, arguments].concat()).unwrap();
    let url = format!("http://{}/bytes/40", SocketAddr::new(httpbin.ipv4().into(), 80));
    assert_eq!(curl.curl(&url).unwrap().body.len(), 40);
    drop(web);
    let report = capture.stop().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    report
}

/// What tshark prints of a file. It must not complain.
fn tshark(path: &Path, arguments: &[&str]) -> Vec<String> {
    let output = Command::new("tshark").arg("-r").arg(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = said.lines().filter(|line| !line.contains("Running as user")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn tshark_shows_interfaces_comments_and_names_and_has_no_complaint() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let report = capture(&lab, &path, &["--snaplen", "200"]);

    let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-e", "vxlan.vni"];
    let shown = tshark(&path, &fields);

    let packets = CaptureFile::read(&path).unwrap().packets;
    assert_eq!(shown.len(), packets.len(), "tshark sees packets and nothing else");
    assert!(
        report.stdout[0].starts_with(&format!("{} packets captured", packets.len())),
        "{:?}",
        report.stdout
    );
    let on_the_wire: Vec<_> =
        shown.iter().filter(|line| line.starts_with("telekom-xwkb3/eth0/egress")).collect();
    assert!(
        on_the_wire.iter().all(|line| line.contains("hop 4 of 8") && line.ends_with("4096")),
        "{on_the_wire:?}"
    );
    let names = tshark(&path, &["-N", "n", "-T", "fields", "-e", "ip.src_host", "-Y", "tcp.flags.syn == 1"]);
    assert!(names.iter().any(|names| names.contains("curl.default")), "{names:?}");
    assert!(
        names.iter().any(|names| names.contains("telekom-xwkb3")),
        "outer addresses have names: {names:?}"
    );
    assert_eq!(tshark(&path, &["-q", "-z", "expert,error"]).join("").matches("Malformed").count(), 0);
}

#[test]
fn a_pipe_shows_packets_while_they_come() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let mut command = tracer.command("capture", &[&FOLLOWED[..], &["--write", "-"]].concat());
    command.args(["--attach", if format!("{:?}", attach()) == "Tcx" { "tcx" } else { "clsact" }]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = child.stdout.take().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut reader = Command::new("tshark")
        .args(["-l", "-i", "-", "-T", "fields", "-e", "frame.interface_name"])
        .stdin(Stdio::from(pipe))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(said.any(|line| line.unwrap().starts_with("following ")));

    lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1).unwrap();

    // While the capture goes on.
    let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let shown: Vec<_> = lines.take(16).map(|line| line.unwrap()).collect();
    assert_eq!(shown.len(), 16, "a request and a reply at eight points each");
    assert!(shown.contains(&"telekom-xwkb8/httpbin/eth0/ingress".to_owned()), "{shown:?}");
    assert!(child.try_wait().unwrap().is_none(), "it still captures");
    // Who has seen enough closes the pipe: that is no failure.
    reader.kill().unwrap();
    reader.wait().unwrap();
    let ended = wait_until(SOON, "the capture ends when nobody reads it", || {
        let _ = lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1);
        child.try_wait().unwrap()
    });
    assert!(ended.success(), "{ended}");
}

#[test]
fn at_a_hundred_thousand_packets_a_second_every_packet_is_in_the_file_or_counted_as_lost() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let _sink = httpbin.udp_sink(9000).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 1).unwrap().received, 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let arguments = [&FOLLOWED[..], &["--protocol", "udp"]].concat();
    let capture = Tracer::new(&lab).unwrap().capture(&path, &arguments).unwrap();

    // Each passes eight points.
    let flood = Flood { packets: 25_000, payload: 64, rate: Some(12_500) };
    assert_eq!(curl.udp_flood(SocketAddr::new(httpbin.ipv4().into(), 9000), flood).unwrap(), flood.packets);
    let report = capture.stop().unwrap();

    assert!(report.exit.success(), "{:?}", report.stderr);
    let file = CaptureFile::read(&path).unwrap();
    let counted = figures(&report, "records lost:");
    let lost: u64 = counted[..4].iter().sum();
    let evicted = counted[4] * POINTS;
    let sent = flood.packets * POINTS;
    assert!(
        file.packets.len() as u64 + lost + evicted >= sent,
        "{} in the file, {counted:?}",
        file.packets.len()
    );
    assert!(file.packets.len() as u64 + lost <= sent, "{} in the file, {counted:?}", file.packets.len());
    // Where it is known at which interface, the file says so; it is for all records that a ring or a channel lost.
    assert_eq!(file.dropped.values().sum::<u64>(), counted[0] + counted[1], "{:?}", file.dropped);
}

/// The numbers of a line of the summary.
fn figures(report: &Report, line: &str) -> Vec<u64> {
    let line = report.stdout.iter().find(|found| found.starts_with(line)).unwrap();
    line.split([' ', ';', ',']).filter_map(|word| word.parse().ok()).collect()
}

/// Walk 2 of a platform engineer: tcpdump by hand on every device on the way, here joined.
#[test]
fn captures_that_people_took_by_hand_are_joined() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let directory = tempfile::tempdir().unwrap();
    let nodes = ["telekom-xwkb3", "telekom-xwkb8"].map(|name| lab.node(name));
    let taps = [
        ("telekom-xwkb3/default/curl", curl.netns().clone(), "eth0"),
        ("telekom-xwkb3", nodes[0].netns().clone(), curl.host_device()),
        ("telekom-xwkb3", nodes[0].netns().clone(), "vxlan.calico"),
        ("telekom-xwkb3", nodes[0].netns().clone(), "eth0"),
        ("telekom-xwkb8", nodes[1].netns().clone(), "eth0"),
        ("telekom-xwkb8", nodes[1].netns().clone(), "vxlan.calico"),
        ("telekom-xwkb8", nodes[1].netns().clone(), httpbin.host_device()),
        ("telekom-xwkb8/default/httpbin", httpbin.netns().clone(), "eth0"),
    ];
    let mut files = Vec::new();
    let mut dumps = Vec::new();
    for (number, (place, netns, device)) in taps.iter().enumerate() {
        let file = directory.path().join(format!("{number}.pcap"));
        let mut command = netns.command("tcpdump");
        command
            .args(["-p", "-n", "--immediate-mode", "-s", "128", "-i", device, "-w"])
            .arg(&file)
            .stderr(Stdio::piped());
        dumps.push(Dump::start(&mut command));
        files.push(format!("{place}/{device}={}", file.display()));
    }
    let web = httpbin.serve_http(80).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), 3).unwrap().received, 3);
    let url = format!("http://{}/bytes/40", SocketAddr::new(httpbin.ipv4().into(), 80));
    assert_eq!(curl.curl(&url).unwrap().body.len(), 40);
    drop(web);
    for dump in dumps {
        dump.stop();
    }

    let mut command = Command::new(program().unwrap());
    command.arg("read").args(&files).arg("--inventory").arg(tracer.inventory());
    command.args(["-o", "json", "--packets", "--filter", "host 10.244.0.153 and host 10.244.1.246"]);
    let output = run_to_its_end(command.stdin(Stdio::null())).unwrap();
    let told = trajectories(&output);

    assert!(told.len() >= 6 + 8, "{output:?}");
    for told in &told {
        assert_eq!((told.hops.len(), told.verdict), (8, Verdict::Delivered), "{told}");
        assert_eq!(told.hops[3].encapsulation.len(), 1, "{told}");
        assert_eq!(told.hops[3].place(), told.hops[2].place());
        assert_ne!(told.hops[4].place(), told.hops[3].place());
    }
}

/// A running tcpdump.
struct Dump {
    child: Child,
}

impl Dump {
    /// It captures when this returns.
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut lines = stderr.lines();
        let listening = lines.find(|line| line.as_ref().unwrap().contains("listening on"));
        assert!(listening.is_some(), "tcpdump ended");
        // What it says later goes nowhere, but it must not be stopped by that.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    fn stop(mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn manual_pages_and_completions_name_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new(program().unwrap()).arg("man").arg(directory.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let bash = Command::new(program().unwrap()).args(["completion", "bash"]).output().unwrap();
    let bash = String::from_utf8(bash.stdout).unwrap();
    for command in ["follow", "capture", "read", "observe", "metrics", "points", "completion"] {
        let page = std::fs::read_to_string(directory.path().join(format!("tracer-{command}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS") || page.contains(".SH SYNOPSIS"), "{command}");
        assert!(
            bash.contains(&format!("tracer__{command}"))
                || bash.contains(&format!("tracer__subcmd__{command}")),
            "{command}"
        );
    }
    assert!(directory.path().join("tracer.1").exists());
}
