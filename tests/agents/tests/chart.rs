//! With the rights and capabilities that the chart gives, and no others, everything works.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use tracer_agents::{Chart, Installed, SOON, get};
use tracer_integration::{CaptureFile, Follow, Trajectory, run_to_its_end};

fn whole(told: &[Trajectory]) -> usize {
    told.iter().filter(|told| told.protocol == "tcp" && told.is_complete() && told.hops.len() == 8).count()
}

#[test]
fn agents_and_people_with_what_the_chart_gives_follow_and_are_told_that_all_is_well() {
    let chart = Chart::read().unwrap();
    let installed = Installed::by_chart(&chart).unwrap();
    let rules = [
        chart.rules("ClusterRole", "tracer-view", &[]).unwrap(),
        chart.rules("ClusterRole", "tracer-follow", &["default"]).unwrap(),
        chart.rules("Role", "tracer-reach", &["tracer-system"]).unwrap(),
    ]
    .concat();
    installed.cluster.api.allow_only("bob", &rules);
    let (curl, httpbin) = (installed.lab.pod("curl"), installed.lab.pod("httpbin"));

    let output = run_to_its_end(&mut installed.command("bob", "doctor", &[]).unwrap()).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");

    let follow = installed.follow("bob", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    get(&curl, &httpbin, "/bytes/100");
    follow.eventually(SOON, "every packet with all its hops on both nodes", |told| whole(told) >= 9);
    let report = follow.stop().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    assert_eq!(installed.names("packettraces.tracer.dev"), [], "{:?}", report.stderr);
    for agent in &installed.agents {
        let log = agent.log();
        assert!(!log.iter().any(|line| line.contains("may not")), "{log:?}");
    }
}

#[test]
fn payload_comes_with_the_role_for_it() {
    let chart = Chart::read().unwrap();
    let installed = Installed::by_chart(&chart).unwrap();
    let rules = [
        chart.rules("ClusterRole", "tracer-view", &[]).unwrap(),
        chart.rules("ClusterRole", "tracer-follow", &["default"]).unwrap(),
        chart.rules("ClusterRole", "tracer-payload", &["default"]).unwrap(),
        chart.rules("Role", "tracer-reach", &["tracer-system"]).unwrap(),
    ]
    .concat();
    installed.cluster.api.allow_only("bob", &rules);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.pcapng");
    let arguments = [
        "--pod",
        "curl",
        "--to",
        "httpbin",
        "-w",
        path.to_str().unwrap(),
        "--snaplen",
        "2000",
        "--count",
        "5",
    ];
    let capture = Follow::start(&mut installed.command("bob", "capture", &arguments).unwrap()).unwrap();

    get(&installed.lab.pod("curl"), &installed.lab.pod("httpbin"), "/bytes/100");

    let report = capture.until_its_end().unwrap();
    assert!(report.exit.success(), "{:?}", report.stderr);
    assert!(CaptureFile::read(&path).unwrap().packets.len() >= 5 * 8);
}
