use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tracer::host::plan::{Scope, plan_points};
use tracer::host::survey::{ProblemKind, Survey, survey};
use tracer::inventory::{Inventory, file};
use tracer::trajectory::model::DeviceRole;

use crate::support::{Namespace, eventually, unique};

/// Two nodes on one machine, joined by a veth; a pod on each behind a veth, both with ifindex 2.
struct TwoNodes {
    nodes: [Namespace; 2],
    pods: [Namespace; 2],
    /// "198.18.N", unique to this test.
    network: String,
}

impl TwoNodes {
    fn new() -> Self {
        let number = unique();
        let network = format!("10.{}.{}", 100 + (number / 250) % 100, number % 250);
        let nodes = [Namespace::new("n1"), Namespace::new("n2")];
        let pods = [Namespace::new("p1"), Namespace::new("p2")];
        nodes[0].ip(&format!("link add eth0 type veth peer name eth0 netns {}", nodes[1].name));
        for (place, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
            let host = 1 + place;
            node.ip(&format!("addr add {network}.{host}/28 dev eth0"));
            node.ip("link set eth0 up");
            pod.ip(&format!("link add eth0 index 2 type veth peer name vethpod netns {}", node.name));
            pod.ip(&format!("addr add {network}.{}/32 dev eth0", 100 + place));
            pod.ip("link set eth0 up");
            node.ip("link set vethpod up");
        }
        Self { nodes, pods, network }
    }

    /// What kubectl would print, with more objects at the end.
    fn inventory(&self, more: &str) -> Inventory {
        let network = &self.network;
        let text = format!(
            "kind: List\napiVersion: v1\nitems:\n{}{}{}{}{more}",
            node("node-1", &format!("{network}.1")),
            node("node-2", &format!("{network}.2")),
            pod("one", "node-1", &format!("{network}.100"), ""),
            pod("two", "node-2", &format!("{network}.101"), ""),
        );
        file::parse(Path::new("test.yaml"), &text).unwrap()
    }
}

fn node(name: &str, ip: &str) -> String {
    format!(
        "- {{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, \
         status: {{addresses: [{{type: InternalIP, address: {ip}}}]}}}}\n"
    )
}

fn pod(name: &str, node: &str, ip: &str, more: &str) -> String {
    format!(
        "- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default, uid: uid-{name} {more}}}, \
         spec: {{nodeName: {node}, containers: []}}, status: {{phase: Running, podIP: {ip}}}}}\n"
    )
}

fn problem<'a>(survey: &'a Survey, name: &str) -> (ProblemKind, &'a str) {
    let found =
        survey.problems.iter().find(|problem| problem.pod.as_ref().is_some_and(|pod| pod.name == name));
    let found = found.unwrap_or_else(|| panic!("no problem of {name} in {:?}", survey.problems));
    (found.kind, &found.sentence)
}

#[test]
fn nodes_and_pods_are_found_by_their_addresses_with_both_ends_of_the_veth() {
    let lab = TwoNodes::new();
    let network = &lab.network;

    let survey = survey(&lab.inventory("")).unwrap();

    for place in 0..2 {
        let node = &survey.nodes[place];
        assert_eq!(node.netns, lab.nodes[place].open());
        assert_eq!(node.evidence, format!("holds the node's InternalIP {network}.{} on eth0", place + 1));
        let pod = &survey.pods[place];
        assert_eq!((&*pod.node, &pod.netns), (&*node.name, &lab.pods[place].open()));
        assert_eq!(pod.evidence, format!("has the pod's IP {network}.{} on eth0", 100 + place));
        assert_eq!(pod.interface.as_ref().unwrap().ifindex, 2, "the same in both pods");
        let peer = node.snapshot.links.iter().find(|link| Some(link.ifindex) == pod.peer).unwrap();
        assert_eq!(&*peer.name, "vethpod");
    }
    let own: Vec<_> = survey.node_addresses().map(|(node, address)| format!("{node} {address}")).collect();
    assert_eq!(own, [format!("node-1 {network}.1"), format!("node-2 {network}.2")]);
}

#[test]
fn the_plan_has_the_wire_as_nic_and_only_the_followed_pods_devices() {
    let lab = TwoNodes::new();
    let survey = survey(&lab.inventory("")).unwrap();
    let one = (*survey.pods[0].pod).clone();

    let planned =
        plan_points(&survey, &Scope { pods: Some(BTreeSet::from([one])), nodes: None, all_devices: false });

    let found: Vec<_> =
        planned.iter().map(|device| (&*device.node, &*device.link.name, device.role)).collect();
    assert_eq!(
        found,
        [
            ("node-1", "eth0", DeviceRole::Nic),
            ("node-1", "vethpod", DeviceRole::PodPeer),
            ("node-1", "eth0", DeviceRole::PodInterface),
            ("node-2", "eth0", DeviceRole::Nic),
        ]
    );
    let keys: BTreeSet<_> = planned.iter().map(tracer::host::plan::PlannedDevice::key).collect();
    assert_eq!(keys.len(), planned.len());
}

#[test]
fn what_is_not_here_is_explained() {
    let lab = TwoNodes::new();
    let network = &lab.network;
    let more = node("node-3", &format!("{network}.3"))
        + &pod("remote", "node-3", &format!("{network}.103"), "")
        + &pod("missing", "node-1", &format!("{network}.104"), "")
        + &format!(
            "- {{apiVersion: v1, kind: Pod, metadata: {{name: proxy, namespace: default}}, spec: {{nodeName: node-1, \
             hostNetwork: true, containers: []}}, status: {{phase: Running, podIP: {network}.1}}}}\n"
        );

    let survey = survey(&lab.inventory(&more)).unwrap();

    assert_eq!(
        problem(&survey, "remote"),
        (
            ProblemKind::Elsewhere,
            "pod default/remote is not on this machine: it runs on node node-3, which is another one"
        )
    );
    let (kind, sentence) = problem(&survey, "missing");
    assert_eq!(kind, ProblemKind::NotFound);
    assert!(
        sentence.starts_with(&format!(
            "pod default/missing: no network namespace of this machine has its IP {network}.104: the inventory is older"
        )),
        "{sentence}"
    );
    let proxy = survey.pods.iter().find(|local| local.pod.name == "proxy").unwrap();
    assert!(proxy.host_network && proxy.interface.is_none());
    assert_eq!(proxy.netns, lab.nodes[0].open());
}

#[test]
fn an_address_in_two_namespaces_is_ambiguous_until_an_annotation_decides() {
    let lab = TwoNodes::new();
    let network = &lab.network;
    let copy = Namespace::new("copy");
    copy.ip("link add d0 type bridge");
    copy.ip(&format!("addr add {network}.100/32 dev d0"));

    let unclear = survey(&lab.inventory("")).unwrap();
    let (kind, sentence) = problem(&unclear, "one");
    assert_eq!(kind, ProblemKind::Ambiguous);
    assert!(sentence.contains("annotate the Pod") && sentence.contains(&copy.path()), "{sentence}");

    let annotation = format!(", annotations: {{tracer.dev/netns: {}}}", lab.pods[0].path());
    let decided = pod("one", "node-1", &format!("{network}.100"), &annotation);
    let clear = survey(&lab.inventory(&decided)).unwrap();
    let one = clear.pods.iter().find(|local| local.pod.name == "one").unwrap();
    assert_eq!(one.netns, lab.pods[0].open());
    assert_eq!(one.evidence, format!("annotation tracer.dev/netns: {}", lab.pods[0].path()));
}

#[test]
fn an_annotation_that_leads_nowhere_is_reported() {
    let lab = TwoNodes::new();
    let more =
        pod("lost", "node-1", "10.9.9.9", ", annotations: {tracer.dev/netns: /run/netns/no-such-netns}");

    let survey = survey(&lab.inventory(&more)).unwrap();

    let (kind, sentence) = problem(&survey, "lost");
    assert_eq!(kind, ProblemKind::NotFound);
    assert!(sentence.contains("/run/netns/no-such-netns: No such file"), "{sentence}");
}

/// A process in a namespace and in a cgroup as kubelet names them.
struct PodProcess {
    child: Child,
    cgroup: PathBuf,
}

impl PodProcess {
    fn start(namespace: &Namespace, uid: &str) -> Self {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|path| Path::new(path).join("cgroup.procs").exists())
            .expect("cgroup v2 is mounted");
        let cgroup = Path::new(root).join(format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_")));
        fs::create_dir(&cgroup).unwrap();
        let child =
            Command::new("ip").args(["netns", "exec", &namespace.name, "sleep", "300"]).spawn().unwrap();
        let process = Self { child, cgroup };
        fs::write(process.cgroup.join("cgroup.procs"), process.child.id().to_string()).unwrap();
        let inode = namespace.open().id().inode;
        eventually("the process in its namespace", || {
            let link = fs::read_link(format!("/proc/{}/ns/net", process.child.id())).ok()?;
            (link == Path::new(&format!("net:[{inode}]"))).then_some(())
        });
        process
    }
}

impl Drop for PodProcess {
    fn drop(&mut self) {
        // A panic here would hide the one that ended the test.
        let _ = self.child.kill().and_then(|()| self.child.wait());
        // The process leaves its cgroup a moment after it was reaped.
        for _ in 0..1000 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_pod_whose_address_is_nowhere_is_found_by_the_cgroup_of_its_process() {
    let lab = TwoNodes::new();
    let uid = format!("0c7d1c5e-2f3d-4c8e-9a3f-{:012}", unique());
    let namespace = Namespace::new("cg");
    let _process = PodProcess::start(&namespace, &uid);
    let more = format!(
        "- {{apiVersion: v1, kind: Pod, metadata: {{name: hidden, namespace: default, uid: {uid}}}, spec: \
         {{nodeName: node-1, containers: []}}, status: {{phase: Running, podIP: {}.77}}}}\n",
        lab.network
    );

    let survey = survey(&lab.inventory(&more)).unwrap();

    let hidden = survey.pods.iter().find(|local| local.pod.name == "hidden").unwrap();
    assert_eq!(hidden.netns, namespace.open());
    assert_eq!(hidden.evidence, "a process in it has the pod's UID in its cgroup");
    let (_, sentence) = problem(&survey, "hidden");
    assert!(sentence.contains("has no device with its IP"), "{sentence}");
}
