use std::fs;
use std::process::{Child, Command};

use tracer::host::netns::{Netns, discover};

use crate::support::{Namespace, eventually};

/// A process in a namespace that has no name; ended with the test.
struct Anonymous(Child);

impl Anonymous {
    fn start() -> Self {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare").args(["--net", "sleep", "300"]).spawn().unwrap();
        let process = Self(child);
        eventually("a namespace of its own", || {
            let theirs = fs::read_link(format!("/proc/{}/ns/net", process.0.id())).ok()?;
            (theirs != own).then_some(())
        });
        process
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        // A panic here would hide the one that ended the test.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn links_here() -> Vec<String> {
    // /proc/net is that of the calling thread, unlike /proc/self/net.
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[test]
fn a_closure_runs_inside_the_namespace_and_the_caller_stays_outside() {
    let namespace = Namespace::new("run");
    namespace.ip("link add inside type bridge");
    let before = links_here();

    let inside = namespace.open().run(links_here).unwrap();

    assert!(inside.contains(&"inside".to_owned()), "{inside:?}");
    assert_eq!(links_here(), before);
    assert!(!before.contains(&"inside".to_owned()));
}

#[test]
fn a_panic_inside_a_namespace_is_the_callers_panic() {
    let namespace = Namespace::new("panic");
    let netns = namespace.open();

    let result = std::panic::catch_unwind(|| netns.run(|| assert!(links_here().is_empty(), "as expected")));

    assert!(result.is_err());
}

#[test]
fn a_namespace_that_we_know_goes_with_its_devices_when_its_last_user_goes() {
    let (node, pod) = (Namespace::new("stays"), Namespace::new("goes"));
    node.ip(&format!("link add host-side type veth peer name eth0 netns {}", pod.name));
    let (on_node, in_pod) = (node.open(), pod.open());
    let has_host_side = || on_node.run(links_here).unwrap().contains(&"host-side".to_owned());
    assert!(has_host_side() && in_pod.run(links_here).unwrap().contains(&"eth0".to_owned()));

    drop(pod);

    eventually("the other end of its device is gone", || (!has_host_side()).then_some(()));
    let error = in_pod.run(links_here).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
}

#[test]
fn namespaces_with_a_name_and_with_only_a_process_are_found_once_each() {
    let named = Namespace::new("found");
    let anonymous = Anonymous::start();
    let anonymous_netns = Netns::open(format!("/proc/{}/ns/net", anonymous.0.id()).as_ref()).unwrap();

    let (found, _) = discover().unwrap();

    assert_eq!(found[0].netns, Netns::own().unwrap());
    let by_name: Vec<_> = found.iter().filter(|found| found.netns == named.open()).collect();
    assert_eq!(by_name.len(), 1);
    assert_eq!(by_name[0].netns.label(), named.path());
    let by_process: Vec<_> = found.iter().filter(|found| found.netns == anonymous_netns).collect();
    assert_eq!(by_process.len(), 1);
    assert_eq!(by_process[0].processes, [anonymous.0.id()]);
}

#[test]
fn a_file_that_is_no_namespace_is_refused_with_the_reason() {
    let file = tempfile::NamedTempFile::new().unwrap();

    let message = Netns::open(file.path()).unwrap_err().to_string();

    assert!(message.contains("it is an ordinary file, not a namespace"), "{message}");
}
