//! `tracer capture` by agents: whose bytes, how many, and who may have them.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::path::Path;

use tracer_agents::{Installed, SOON, get};
use tracer_api_double::Rule;
use tracer_integration::{CaptureFile, Follow, run_to_its_end};

const PAYLOADS: &str = "packetpayloads.tracer.dev";
const MARK: &str = "PAYLOAD-THAT-NOT-EVERYBODY-MAY-SEE";

fn capture(installed: &Installed, user: &str, path: &Path, snaplen: &str) -> Follow {
    let path = path.to_str().unwrap();
    let arguments = ["--pod", "curl", "--to", "httpbin", "-w", path, "--snaplen", snaplen];
    Follow::start(&mut installed.command(user, "capture", &arguments).unwrap()).unwrap()
}

fn request(installed: &Installed) {
    get(&installed.lab.pod("curl"), &installed.lab.pod("httpbin"), &format!("/bytes/40?{MARK}"));
}

/// Packets of a file that have the payload, and all.
fn with_payload(path: &Path) -> (usize, usize) {
    let file = CaptureFile::read(path).unwrap();
    let has_it = |bytes: &[u8]| bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes());
    (file.packets.iter().filter(|packet| has_it(&packet.bytes)).count(), file.packets.len())
}

/// Waits until the follow beside the captures has told all packets of a request: then they have them, too.
fn until_told(follow: &Follow) {
    let whole = |told: &[tracer_integration::Trajectory]| {
        told.iter().filter(|told| told.is_complete() && told.hops.len() == 8).count()
    };
    follow.eventually(SOON, "the request's packets", |told| whole(told) >= 9);
}

#[test]
fn of_captures_at_the_same_time_each_has_what_it_asked_for_of_all_nodes_and_a_follow_has_no_bytes() {
    let installed = Installed::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let headers = capture(&installed, "ann", &path("headers"), "headers");
    let short = capture(&installed, "ann", &path("short"), "60");
    let payload = capture(&installed, "ann", &path("payload"), "2000");
    let follow = installed.follow("ann", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    assert_eq!(installed.names(PAYLOADS).len(), 2);

    request(&installed);

    until_told(&follow);
    for running in [headers, short, payload, follow] {
        let report = running.stop().unwrap();
        assert!(report.exit.success(), "{:?}", report.stderr);
    }
    let (marked, all) = with_payload(&path("payload"));
    assert_eq!(marked, 8, "the request, at each hop, of {all} packets");
    assert_eq!(with_payload(&path("headers")), (0, all));
    assert_eq!(with_payload(&path("short")), (0, all));
    let longest =
        |name| CaptureFile::read(&path(name)).unwrap().packets.iter().map(|packet| packet.bytes.len()).max();
    assert_eq!(longest("short"), Some(60));
    assert!(longest("headers") > Some(60) && longest("headers") < Some(140), "{:?}", longest("headers"));
    assert_eq!(installed.names(PAYLOADS), [], "they go with the traces");
}

#[test]
fn payload_needs_a_right_of_its_own_and_headers_do_not() {
    let installed = Installed::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let all = ["get", "list", "watch", "create", "patch", "delete"];
    let rule = |resources| Rule { verbs: Box::leak(Box::new(all)), resources, namespaces: &[] };
    let rights = [
        rule(&["pods", "services", "nodes", "endpointslices.discovery.k8s.io", "pods/portforward"]),
        rule(&["packettraces.tracer.dev"]),
    ];
    installed.cluster.api.allow_only("bob", &rights);

    let path = directory.path().join("payload");
    let arguments = ["--pod", "curl", "--to", "httpbin", "-w", path.to_str().unwrap(), "--snaplen", "2000"];
    let output = run_to_its_end(&mut installed.command("bob", "capture", &arguments).unwrap()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("kubectl auth can-i create packetpayloads.tracer.dev -n default"), "{stderr}");
    assert_eq!(installed.names("packettraces.tracer.dev"), [], "the trace is taken back");

    let path = directory.path().join("headers");
    let headers = capture(&installed, "bob", &path, "headers");
    let follow = installed.follow("bob", &["--pod", "curl", "--to", "httpbin"]).unwrap();
    request(&installed);
    until_told(&follow);
    assert!(headers.stop().unwrap().exit.success());
    let (marked, packets) = with_payload(&path);
    assert!(marked == 0 && packets >= 72, "{marked} of {packets}");
}
