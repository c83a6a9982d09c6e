//! The lab: two nodes with pods, built and removed as a whole.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::capture::Capture;
use crate::foreign::{Direction, Foreign, ForeignProgram};
use crate::inventory;
use crate::netlink;
use crate::netns::{self, Netns};
use crate::options::{KubeProxy, Options, Topology};
use crate::plan::{
    self, Mac, NODES, NodePlan, PodPlan, Service, ServicePort, later_pod, reference_pods, reference_services,
};
use crate::service;
use crate::topology::{self, Datapath};
use crate::wire::{self, Relay};

/// Two nodes and their pods in network namespaces, joined by a wire. Dropping it removes everything.
pub struct Lab {
    topology: Topology,
    kube_proxy: KubeProxy,
    prefix: String,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    datapath: Box<dyn Datapath>,
    relay: Option<Relay>,
    births: u16,
    /// Of each node.
    births_on: [usize; NODES.len()],
}

/// A node: a namespace with its NIC (`eth0`), its tunnel device and the host sides of its pods.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) plan: Arc<NodePlan>,
    /// `None` for a node that is on another machine.
    netns: Option<Netns>,
    /// Interface index of `eth0`.
    pub(crate) nic: u32,
}

/// A pod: a namespace with `eth0`. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(crate) plan: Arc<PodPlan>,
    /// `None` for a pod of a node that is on another machine.
    netns: Option<Netns>,
}

/// A hook of a node's device where taps do not see what a program redirects: they sit behind tc's egress hook, and
/// behind a netkit pair's. At tc's ingress they sit before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    pub device: String,
    pub direction: Direction,
    /// The stand-in that is there.
    pub program: &'static str,
}

impl Lab {
    /// Builds the nodes, pods (`curl`, `httpbin-local`, `httpbin`, `kube-system/coredns`) and Services of
    /// `topology`. Whatever a killed earlier lab left behind is removed first.
    ///
    /// # Errors
    /// Without root, or where the kernel or a tool (nft) lacks something; the message names it.
    pub fn build(topology: Topology) -> Result<Self> {
        Self::build_with(topology, Options::default())
    }

    /// As [`Lab::build`], with a choice of where the stand-ins sit and how Services are done.
    ///
    /// # Errors
    /// As [`Lab::build`].
    pub fn build_with(topology: Topology, options: impl Into<Options>) -> Result<Self> {
        Self::build_here(topology, options.into(), None)
    }

    /// Builds one node of the lab with its pods, whose wire is `nic`, a device of this namespace that becomes the node's
    /// `eth0`. The rest of the lab is on another machine at its other end; it has names and addresses here, and nothing
    /// else.
    ///
    /// # Errors
    /// As [`Lab::build`]; and for a topology that cannot be built node by node.
    pub fn build_node(topology: Topology, node: &str, nic: &str) -> Result<Self> {
        if !matches!(topology, Topology::RoutedVxlan | Topology::BridgeVxlan | Topology::CalicoIpip) {
            bail!("topology {topology} cannot be built node by node");
        }
        if !NODES.iter().any(|plan| plan.name == node) {
            bail!("the lab has no node {node}; it has {}", NODES.map(|plan| plan.name).join(", "));
        }
        Self::build_here(topology, Options::default(), Some((node, nic)))
    }

    fn build_here(topology: Topology, options: Options, only: Option<(&str, &str)>) -> Result<Self> {
        let Options { stand_ins, kube_proxy, wire } = options;
        netns::sweep();
        if let Some(lack) = topology.lacking()? {
            bail!("cannot build topology {topology}: {lack}");
        }
        if let Some(lack) = kube_proxy.lacking()? {
            bail!("cannot do Services in kube-proxy's mode {kube_proxy}: {lack}");
        }
        let prefix = netns::unique_prefix();
        let mut nodes = NODES
            .iter()
            .map(|plan| {
                let is_here = only.is_none_or(|(name, _)| name == plan.name);
                let netns = is_here.then(|| new_netns(&prefix, plan.name)).transpose()?;
                Ok(Node { plan: Arc::new(plan.clone()), netns, nic: wire::NIC })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut relay = None;
        match only {
            None => relay = wire::connect(&nodes[0], &nodes[1], wire, &prefix)?,
            Some((_, nic)) => {
                for node in nodes.iter_mut().filter(|node| node.is_here()) {
                    node.nic = wire::adopt(node, nic)?;
                }
            }
        }
        let datapath = topology::build(topology, stand_ins, &nodes)?;
        let mut lab = Self {
            topology,
            kube_proxy,
            prefix,
            nodes,
            pods: Vec::new(),
            services: reference_services(),
            datapath,
            relay,
            births: 0,
            births_on: [0; NODES.len()],
        };
        for plan in reference_pods(topology) {
            lab.start(plan)?;
        }
        lab.apply_services()?;
        Ok(lab)
    }

    /// Gives the device that was a node's wire back to this thread's namespace.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn release_nic(&self, node: &str) -> Result<()> {
        let node = self.node(node);
        let here = fs::File::open("/proc/thread-self/ns/net").context("cannot open this namespace")?;
        netlink::in_netns(node.netns(), async |link| link.move_to(node.nic, &here).await)
    }

    /// The topology that was built.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The wire between the nodes, where it is a relay.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The nodes: `telekom-xwkb3` with curl, then `telekom-xwkb8` with httpbin.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The pods that exist.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The Services.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// A node by name.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the test.
    #[must_use]
    pub fn node(&self, name: &str) -> Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.cloned().unwrap_or_else(|| panic!("the lab has no node {name}"))
    }

    /// A pod by name.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the test.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        found.cloned().unwrap_or_else(|| panic!("the lab has no pod {name}"))
    }

    /// A Service by name.
    ///
    /// # Panics
    /// When there is none of that name: a mistake in the test.
    #[must_use]
    pub fn service(&self, name: &str) -> Service {
        let found = self.services.iter().find(|service| service.name == name);
        found.cloned().unwrap_or_else(|| panic!("the lab has no Service {name}"))
    }

    /// The node on which a pod runs.
    #[must_use]
    pub fn node_of(&self, pod: &Pod) -> Node {
        self.nodes[pod.plan.node].clone()
    }

    /// Starts one more pod, in namespace default. It is on the network when this returns.
    ///
    /// # Errors
    /// When the name is taken on that node, or the kernel refuses.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<Pod> {
        let Some(node) = self.nodes.iter().position(|candidate| candidate.name() == node) else {
            panic!("the lab has no node {node}");
        };
        if self.pods.iter().any(|pod| pod.name() == name) {
            bail!("there is a pod {name} already");
        }
        let on_node = self.births_on[node];
        let plan = later_pod(self.topology, node, name, self.births, on_node).with_context(|| {
            format!("no address is left for pod {name}: {on_node} were added to its node")
        })?;
        self.births += 1;
        self.births_on[node] += 1;
        let pod = self.start(plan)?;
        self.apply_services()?;
        Ok(pod)
    }

    /// Deletes a pod with its devices and its name below `/run/netns`. Clones of it lose their network.
    ///
    /// # Errors
    /// When its host side cannot be deleted.
    ///
    /// # Panics
    /// When there is no such pod.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name);
        self.pods.retain(|other| other.name() != name);
        let node = &self.nodes[pod.plan.node];
        self.datapath.remove_pod(node, &pod)?;
        let host_ifindex = pod.plan.host_ifindex;
        // The host side may be gone already: a test deleted the device.
        if node.netns().ifindex(pod.host_device()).is_ok() {
            netlink::in_netns(node.netns(), async |link| link.delete_link(host_ifindex).await)?;
        }
        pod.netns().remove();
        self.apply_services()
    }

    /// Deletes a device of a node (a pod's host side, say) or of a pod, while everything else stays. `place` is a
    /// node's name or a pod's `namespace/name`.
    ///
    /// # Errors
    /// When there is no such device.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn delete_device(&self, place: &str, device: &str) -> Result<()> {
        let netns = self.place(place);
        let ifindex = netns.ifindex(device)?;
        netlink::in_netns(netns, async |link| link.delete_link(ifindex).await)
    }

    /// Lets through the pods' netkit pairs what no program decides about. As Cilium makes them they drop it.
    ///
    /// # Errors
    /// When the pods are not on netkit pairs.
    pub fn let_netkit_pass(&self) -> Result<()> {
        self.pods.iter().try_for_each(|pod| {
            let ifindex = pod.plan.host_ifindex;
            netlink::in_netns(self.node_of(pod).netns(), async |link| link.let_netkit_pass(ifindex).await)
        })
    }

    /// Adds a Service in namespace default with ClusterIPs 10.96.0.`host` and fd00:10:96::`host` (`host` in
    /// hexadecimal) for pods of that namespace, and programs it on all nodes.
    ///
    /// # Errors
    /// When nft refuses the rules.
    pub fn add_service(
        &mut self,
        name: &str,
        host: u8,
        ports: Vec<ServicePort>,
        pods: &[&str],
    ) -> Result<Service> {
        let service = plan::service("default", name, host, ports, pods);
        self.services.push(service.clone());
        self.apply_services()?;
        Ok(service)
    }

    /// What `kubectl get pods,services,endpointslices,nodes -A -o yaml` would print.
    #[must_use]
    pub fn inventory_yaml(&self) -> String {
        inventory::yaml(&self.nodes, &self.pods, &self.services)
    }

    /// Writes [`Lab::inventory_yaml`] to `inventory.yaml` in `directory` and returns the path. Nodes and pods are
    /// annotated with their namespaces, so that several labs on one machine, which have the same addresses, are
    /// told apart.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_inventory(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join("inventory.yaml");
        fs::write(&path, inventory::annotated_yaml(&self.nodes, &self.pods, &self.services))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Starts to capture every packet on every device (but `lo`) of all nodes and pods.
    ///
    /// # Errors
    /// When a packet socket cannot be made.
    pub fn capture_everywhere(&self) -> Result<Capture> {
        let mut capture = Capture::new();
        for node in self.nodes.iter().filter(|node| node.is_here()) {
            capture.add(node.name(), node.netns())?;
        }
        for pod in self.pods.iter().filter(|pod| pod.is_here()) {
            capture.add(&pod.label(), pod.netns())?;
        }
        Ok(capture)
    }

    /// Hooks whose program takes packets away before a tap sees them. [`Lab::program_runs`] counts them.
    #[must_use]
    pub fn redirections(&self) -> Vec<Redirection> {
        let mut hooks = Vec::new();
        if self.topology.is_cilium() {
            let device = "cilium_host".to_owned();
            hooks.push(Redirection { device, direction: Direction::Egress, program: "cil_from_host" });
        }
        if self.topology == Topology::CiliumNetkit {
            hooks.extend(self.pods.iter().map(|pod| Redirection {
                device: pod.host_device().to_owned(),
                direction: Direction::Ingress,
                program: "cil_from_container",
            }));
        }
        hooks
    }

    /// Attaches a test's own program to a device, as another tool or CNI would. `place` is a node's name or a pod's
    /// `namespace/name`.
    ///
    /// # Errors
    /// When the device does not exist or the kernel refuses the program.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn attach_foreign(
        &self,
        place: &str,
        device: &str,
        direction: Direction,
        foreign: &Foreign,
    ) -> Result<ForeignProgram> {
        ForeignProgram::attach(self.place(place), device, direction, foreign)
    }

    /// How often a stand-in program (`cil_from_container`, `cil_from_host`, `cil_from_overlay`) ran on a node.
    ///
    /// # Errors
    /// When the topology has no such program.
    pub fn program_runs(&self, node: &str, program: &str) -> Result<u64> {
        let position = self.nodes.iter().position(|candidate| candidate.name() == node);
        let position = position.unwrap_or_else(|| panic!("the lab has no node {node}"));
        self.datapath
            .program_runs(position, program)?
            .with_context(|| format!("topology {} has no program {program}", self.topology))
    }

    fn place(&self, name: &str) -> &Netns {
        let nodes = self.nodes.iter().filter(|node| node.name() == name).map(Node::netns);
        let pods = self.pods.iter().filter(|pod| pod.label() == name).map(Pod::netns);
        nodes.chain(pods).next().unwrap_or_else(|| panic!("the lab has no node or pod {name}"))
    }

    fn start(&mut self, plan: PodPlan) -> Result<Pod> {
        let node = &self.nodes[plan.node];
        let netns = node.is_here().then(|| new_netns(&self.prefix, &plan.name)).transpose()?;
        let pod = Pod { plan: Arc::new(plan), netns };
        if node.is_here() {
            self.datapath
                .add_pod(node, &pod)
                .with_context(|| format!("cannot start pod {} on {}", pod.name(), node.name()))?;
        }
        self.pods.push(pod.clone());
        Ok(pod)
    }

    fn apply_services(&self) -> Result<()> {
        self.nodes
            .iter()
            .filter(|node| node.is_here())
            .try_for_each(|node| service::apply(self.kube_proxy, node, &self.services, &self.pods))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Not left to the fields: a test may still hold clones.
        self.pods.iter().filter_map(|pod| pod.netns.as_ref()).for_each(Netns::remove);
        self.nodes.iter().filter_map(|node| node.netns.as_ref()).for_each(Netns::remove);
    }
}

impl Node {
    /// The node's name in Kubernetes.
    #[must_use]
    pub fn name(&self) -> &str {
        self.plan.name
    }

    /// Whether the node is on this machine.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.netns.is_some()
    }

    /// The node's namespace.
    ///
    /// # Panics
    /// When the node is on another machine.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        self.netns.as_ref().unwrap_or_else(|| panic!("node {} is on another machine", self.name()))
    }

    /// The node's address on the wire, which is also its tunnel endpoint.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.plan.ipv4
    }

    /// The node's IPv6 address on the wire.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.plan.ipv6
    }
}

impl Pod {
    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// The pod's Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.plan.namespace
    }

    /// `metadata.uid`; another pod of the same name has another.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.plan.uid
    }

    /// `namespace/name`, as captures label it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.plan.namespace, self.plan.name)
    }

    /// Whether the pod is on this machine.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.netns.is_some()
    }

    /// The pod's network namespace.
    ///
    /// # Panics
    /// When the pod is on another machine.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        self.netns.as_ref().unwrap_or_else(|| panic!("pod {} is on another machine", self.label()))
    }

    /// The pod's IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.plan.ipv4
    }

    /// The pod's IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.plan.ipv6
    }

    /// Both addresses, IPv4 first.
    #[must_use]
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.plan.ipv4.into(), self.plan.ipv6.into()]
    }

    /// MAC address of the pod's eth0.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.plan.mac
    }

    /// Interface index of eth0 in the pod's namespace.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.plan.ifindex
    }

    /// Name of the device on the node that is the other end of eth0.
    #[must_use]
    pub fn host_device(&self) -> &str {
        &self.plan.host_device
    }

    /// MAC address of [`Pod::host_device`].
    #[must_use]
    pub fn host_mac(&self) -> Mac {
        self.plan.host_mac
    }

    /// Interface index of [`Pod::host_device`] in the node's namespace.
    #[must_use]
    pub fn host_ifindex(&self) -> u32 {
        self.plan.host_ifindex
    }
}

/// A namespace with its loopback up, as a container runtime makes it.
fn new_netns(prefix: &str, label: &str) -> Result<Netns> {
    let netns = Netns::create(&format!("{prefix}-{label}"))?;
    // Fixed addresses need no detection of duplicates, which would delay their first use by seconds; and nobody
    // here advertises routes.
    netns.set_sysctls(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/dad_transmits", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/router_solicitations", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ])?;
    netlink::in_netns(&netns, async |link| link.set_up(1).await)?;
    Ok(netns)
}
