//! However a follow ends, nothing of ours stays on a hook and everything of others does.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tracer_integration::{
    Attach, Follow, Hooked, Report, Tracer, Trajectory, Verdict, assert_unloaded, attach, has_clsact,
    has_tcx, kernel_has_program, patient, program, run_in, run_to_its_end, tc_filters, wait_until,
};
use tracer_lab::Direction::{Egress, Ingress};
use tracer_lab::{Foreign, ForeignHook, ForeignProgram, ForeignVerdict, Lab, Topology};

const NODE_1: &str = "telekom-xwkb3";
const SOON: Duration = Duration::from_secs(10);
const ICMP: [&str; 6] = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"];

/// A lab with other tools' programs at both mechanisms.
struct Site {
    lab: Lab,
    tracer: Tracer,
    _foreign: [ForeignProgram; 2],
}

impl Site {
    fn new() -> Self {
        let lab = Lab::build(Topology::RoutedVxlan).unwrap();
        let foreign = |hook, device: &str, direction| {
            let foreign = Foreign { hook, verdict: ForeignVerdict::Ok };
            lab.attach_foreign(NODE_1, device, direction, &foreign).unwrap()
        };
        let device = lab.pod("curl").host_device().to_owned();
        let newest = if has_tcx() { ForeignHook::TcxTail } else { ForeignHook::Clsact };
        let tcx = foreign(newest, "eth0", Egress);
        let clsact = foreign(ForeignHook::Clsact, &device, Ingress);
        let tracer = Tracer::new(&lab).unwrap();
        Self { tracer, _foreign: [tcx, clsact], lab }
    }

    fn ping(&self, count: u32) {
        let answered =
            self.lab.pod("curl").ping(self.lab.pod("httpbin").ipv4().into(), count).unwrap().received;
        assert_eq!(answered, count, "no ping is lost");
    }

    /// Filters of ours that `tc` lists on the devices of curl's node, and the qdiscs.
    fn filters_of_ours(&self) -> usize {
        let netns = self.lab.node(NODE_1).netns().clone();
        let curl = self.lab.pod("curl");
        let devices = ["eth0", "vxlan.calico", curl.host_device()];
        let on = |device: &str| {
            let hooks = [Ingress, Egress].map(|direction| tc_filters(&netns, device, direction).unwrap());
            hooks.iter().flatten().filter(|filter| filter.name.starts_with("tracer_")).count()
        };
        devices.iter().map(|device| on(device)).sum()
    }

    /// Follows, lets `end` end it, and asserts what must hold after every end.
    fn ends(&self, arguments: &[&str], end: impl FnOnce(&Self, Follow) -> Report) -> Report {
        let before = self.tracer.hooked();
        assert!(before.ours.is_empty(), "nothing of ours is there to begin with: {before:?}");
        let follow = self.tracer.follow(&[&ICMP, arguments].concat()).unwrap();
        let during = self.tracer.hooked();
        assert!(during.ours.len() >= 16, "we are on all hooks of the path: {during:?}");
        assert_eq!(during.foreign, before.foreign);
        if attach() == Attach::Clsact {
            assert!(self.filters_of_ours() > 0, "tc sees our filters, by these names");
        }

        let report = end(self, follow);

        self.assert_clean(&before, &during);
        report
    }

    fn assert_clean(&self, before: &Hooked, during: &Hooked) {
        assert_eq!(self.tracer.hooked(), *before, "ours are gone, and others' are what they were");
        assert_eq!(self.filters_of_ours(), 0);
        assert_unloaded(&during.our_ids());
    }
}

#[track_caller]
fn assert_ended_well(report: &Report, packets: usize) {
    assert!(report.exit.success(), "{}\n{}", report.exit, report.stderr.join("\n"));
    assert_eq!(report.trajectories.len(), packets);
    assert_eq!(report.summary().packets.total, packets as u64);
    assert!(report.trajectories.iter().all(|told| told.verdict == Verdict::Delivered));
    assert_said_only_that_it_follows(&report.stderr);
}

/// And, where five seconds are over before the first packet, that it waits for one.
#[track_caller]
fn assert_said_only_that_it_follows<T: AsRef<str>>(said: &[T]) {
    let is_expected = |line: &str| line.starts_with("nothing seen so far") || line.starts_with("  no packet");
    let lines: Vec<_> = said.iter().map(AsRef::as_ref).collect();
    assert!(lines[0].starts_with("following "), "{lines:?}");
    assert!(lines[1..].iter().all(|line| is_expected(line)), "{lines:?}");
}

#[test]
fn ctrl_c_ends_with_a_summary() {
    let report = Site::new().ends(&[], |site, follow| {
        site.ping(3);
        follow.eventually(SOON, "all pings", |told| told.len() == 6);
        follow.stop().unwrap()
    });
    assert_ended_well(&report, 6);
}

#[test]
fn sigterm_ends_with_a_summary_and_what_was_still_under_way() {
    let report = Site::new().ends(&[], |site, follow| {
        site.ping(3);
        // At once: what has been recorded is told all the same.
        follow.signal(Signal::TERM).unwrap();
        follow.until_its_end().unwrap()
    });
    assert_ended_well(&report, 6);
}

#[test]
fn a_terminal_that_is_closed_ends_it_like_ctrl_c() {
    let report = Site::new().ends(&[], |site, follow| {
        site.ping(1);
        follow.eventually(SOON, "both ways", |told| told.len() == 2);
        follow.signal(Signal::HUP).unwrap();
        follow.until_its_end().unwrap()
    });
    assert_ended_well(&report, 2);
}

#[test]
fn count_tells_exactly_as_many_packets_and_ends() {
    let report = Site::new().ends(&["--count", "3"], |site, follow| {
        site.ping(5);
        follow.until_its_end().unwrap()
    });
    assert_ended_well(&report, 3);
}

#[test]
fn the_time_is_kept() {
    let begin = Instant::now();
    let report = Site::new().ends(&["--for", "2s"], |site, follow| {
        site.ping(2);
        follow.until_its_end().unwrap()
    });
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert_ended_well(&report, 4);
    let site = Site::new();
    let follow = site.tracer.follow(&[&ICMP[..], &["--for", "500ms"]].concat()).unwrap();
    let begin = Instant::now();
    assert_ended_well(&follow.until_its_end().unwrap(), 0);
    assert!(begin.elapsed() < patient(Duration::from_secs(3)), "{:?}", begin.elapsed());
}

#[test]
fn a_killed_follow_leaves_nothing_at_tcx() {
    let site = Site::new();
    let before = site.tracer.hooked();
    let follow = site.tracer.follow(&[&ICMP[..], &["--attach", "tcx"]].concat());
    if !has_tcx() {
        assert!(follow.is_err(), "there is no TCX");
        assert_eq!(site.tracer.hooked(), before);
        return;
    }
    let follow = follow.unwrap();
    let during = site.tracer.hooked();
    assert!(during.ours.iter().all(|(.., program)| program.mechanism == "tcx"), "{during:?}");

    let report = follow.kill().unwrap();

    assert!(!report.exit.success());
    let ids = during.our_ids();
    assert_unloaded(&ids);
    assert_eq!(site.tracer.hooked(), before);
}

#[test]
fn filters_of_a_killed_follow_are_removed_by_the_next_one_and_no_others() {
    let site = Site::new();
    let clsact = [&ICMP[..], &["--attach", "clsact"]].concat();
    let before = site.tracer.hooked();
    let living = site.tracer.follow(&clsact).unwrap();
    let of_the_living = site.tracer.hooked();
    let killed = site.tracer.follow(&clsact).unwrap();
    let of_both = site.tracer.hooked();
    assert_eq!(of_both.ours.len(), 2 * of_the_living.ours.len());

    killed.kill().unwrap();
    assert_eq!(site.tracer.hooked(), of_both, "filters outlive their process: they are still there");
    let next = site.tracer.follow(&clsact).unwrap();

    let now = site.tracer.hooked();
    assert_eq!(now.foreign, before.foreign, "nothing foreign was touched");
    assert_eq!(now.ours.len(), of_both.ours.len(), "the killed one's are gone, and the new one's are there");
    for hook in &of_the_living.ours {
        assert!(now.ours.contains(hook), "a living tracer's filters stay: {hook:?}");
    }
    let of_the_killed: Vec<u32> =
        of_both.our_ids().into_iter().filter(|id| !of_the_living.our_ids().contains(id)).collect();
    assert_unloaded(&of_the_killed);
    site.ping(3);
    for follow in [next, living] {
        follow.eventually(SOON, "all pings", |told| told.len() == 6);
        let report = follow.stop().unwrap();
        assert!(report.exit.success());
        // It would have come back within a second.
        let removed: Vec<_> = report.stderr.iter().filter(|line| line.contains("removed us")).collect();
        assert!(removed.is_empty(), "nobody touched a living tracer's filters: {removed:?}");
    }
    site.assert_clean(&before, &now);
    let netns = site.lab.node(NODE_1).netns().clone();
    for device in ["eth0", "vxlan.calico", site.lab.pod("curl").host_device()] {
        assert!(has_clsact(&netns, device).unwrap(), "the qdisc of {device} may be in use, and stays");
    }
}

#[test]
fn a_qdisc_that_somebody_deletes_is_made_again() {
    let site = Site::new();
    let follow = site.tracer.follow(&[&ICMP[..], &["--attach", "clsact"]].concat()).unwrap();
    let netns = site.lab.node(NODE_1).netns().clone();

    run_in(&netns, "tc", "qdisc del dev vxlan.calico clsact");

    wait_until(Duration::from_secs(3), "our filters are back", || {
        let hooks = [Ingress, Egress].map(|way| tc_filters(&netns, "vxlan.calico", way).unwrap_or_default());
        hooks.iter().all(|filters| filters.len() == 1).then_some(())
    });
    site.ping(3);
    let told = follow.eventually(SOON, "all pings", |told| told.len() == 6);
    let passes = |told: &Trajectory| {
        told.path().iter().any(|(node, device, _)| (node.as_str(), *device) == (NODE_1, "vxlan.calico"))
    };
    assert!(told.iter().all(passes), "and see what they should");
    let report = follow.stop().unwrap();
    assert!(report.exit.success());
    assert!(tc_filters(&netns, "vxlan.calico", Ingress).unwrap().is_empty());
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let site = Site::new();
    let before = site.tracer.hooked();
    let mut child = spawn(site.tracer.follow_command(&ICMP).args(["-o", "json"]), Stdio::piped());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.starts_with("following "), "{said}");
    let during = site.tracer.hooked();

    drop(child.stdout.take());
    site.ping(1);

    let exit = end_of(&mut child);
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(exit.code(), Some(0), "{said}");
    assert_said_only_that_it_follows(&said.lines().collect::<Vec<_>>());
    site.assert_clean(&before, &during);
}

#[test]
fn a_closed_stderr_does_no_harm() {
    let site = Site::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = site.tracer.follow_command(&ICMP);
    // Something is logged all the time.
    command.args(["-o", "json", "--count", "2"]).env("TRACER_LOG", "trace");
    let mut child = spawn(&mut command, writer);
    drop(command);
    let mut stderr = BufReader::new(reader);
    let mut said = String::new();
    while !said.starts_with("following ") {
        said.clear();
        assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it followed");
    }

    drop(stderr);
    // It says this, to nobody.
    let filter = Foreign { hook: ForeignHook::Clsact, verdict: ForeignVerdict::Ok };
    let _in_front = site.lab.attach_foreign("telekom-xwkb8", "eth0", Ingress, &filter).unwrap();
    site.ping(1);

    assert_eq!(end_of(&mut child).code(), Some(0));
    let mut told = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told.lines().count(), 4, "two packets, their exchange and the summary: {told}");
    assert!(site.tracer.hooked().ours.is_empty());
}

#[test]
fn json_is_all_that_stdout_gets_and_every_line_is_an_object() {
    let site = Site::new();
    let follow = site.tracer.follow(&[&ICMP[..], &["--count", "4"]].concat()).unwrap();
    site.ping(2);
    let report = follow.until_its_end().unwrap();

    assert_eq!(report.stdout.len(), 7, "{:?}", report.stdout);
    let schemas: Vec<String> = report
        .stdout
        .iter()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["schema"].as_str().unwrap().to_owned()
        })
        .collect();
    let count = |schema: &str| schemas.iter().filter(|other| *other == schema).count();
    assert_eq!((count("tracer.trajectory/v1"), count("tracer.exchange/v1")), (4, 2));
    assert_eq!(schemas[6], "tracer.summary/v1", "the summary is last, and there is one");
}

#[test]
fn json_of_packets_alone_and_of_the_summary_alone_has_nothing_else() {
    let site = Site::new();
    let follow = |arguments: &[&str]| site.tracer.follow(&[&ICMP[..], &["--count", "2"], arguments].concat());
    let (packets, quiet) = (follow(&["--packets"]).unwrap(), follow(&["--quiet"]).unwrap());
    site.ping(1);
    let (packets, quiet) = (packets.until_its_end().unwrap(), quiet.until_its_end().unwrap());

    assert_eq!((packets.trajectories.len(), packets.exchanges.len(), packets.stdout.len()), (2, 0, 3));
    assert_eq!((quiet.summary().packets.total, quiet.stdout.len()), (2, 1));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let site = Site::new();
    let printed = |terminal: bool, arguments: &[&str], no_color: Option<&str>| {
        let mut command = site.tracer.follow_command(&[&ICMP[..], &["--count", "1"], arguments].concat());
        if terminal {
            command = on_a_terminal(&command);
        }
        command.env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        let mut child = spawn(&mut command, Stdio::piped());
        wait_until(SOON, "it follows", || (site.tracer.hooked().ours.len() == 16).then_some(()));
        while child.try_wait().unwrap().is_none() {
            site.ping(2);
        }
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains("delivered") || text.contains("unknown"), "{text}");
        text
    };
    let has_escapes = |text: &str| text.contains('\u{1b}');

    assert!(!has_escapes(&printed(false, &[], None)), "a pipe is no terminal");
    assert!(has_escapes(&printed(false, &["--color", "always"], None)), "but may be asked for");
    assert!(has_escapes(&printed(true, &[], None)), "a terminal has colours");
    assert!(!has_escapes(&printed(true, &[], Some("1"))), "unless NO_COLOR is set");
    assert!(has_escapes(&printed(true, &[], Some(""))), "to something");
}

#[test]
fn a_program_of_ours_is_seen_by_bpftool_while_we_follow() {
    let site = Site::new();
    let follow = site.tracer.follow(&ICMP).unwrap();
    let ids = site.tracer.hooked().our_ids();
    assert!(ids.iter().all(|id| kernel_has_program(*id).unwrap()), "what assert_unloaded asks would notice");
    assert!(follow.stop().unwrap().exit.success());
}

fn spawn(command: &mut Command, stderr: impl Into<Stdio>) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()
}

#[track_caller]
fn end_of(child: &mut Child) -> ExitStatus {
    wait_until(SOON, "it ends", || child.try_wait().unwrap())
}

/// The same command with a terminal as its output.
fn on_a_terminal(command: &Command) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script
}

#[test]
fn help_and_version_need_no_privileges_and_no_inventory() {
    for arguments in [&["--help"][..], &["--version"], &["follow", "--help"], &["completion", "bash"]] {
        let mut command = Command::new(program().unwrap());
        let output = run_to_its_end(command.args(arguments)).unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
}
