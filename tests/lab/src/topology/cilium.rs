//! Cilium's shape, with the stand-in programs of `tests/lab-ebpf` where Cilium has its own: at the tail of the TCX
//! hooks, or as clsact filters.
//!
//! As with Cilium, the pods' next hop is the address of `cilium_host`, whose routes lead every pod address (here
//! and on other nodes) out of `cilium_host`; the program at its egress takes over what the stack has forwarded.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use tracer_lab_ebpf::{
    Endpoint, EndpointKey, FAMILY_IPV4, FAMILY_IPV6, IDENTITY_HOST, IDENTITY_REMOTE_NODE,
    IPCACHE_STATIC_BITS, IpcacheEntry, IpcacheKey, Mac as MapMac, RUNS_FROM_CONTAINER, RUNS_FROM_HOST,
    RUNS_FROM_OVERLAY,
};

use super::{Datapath, OVERLAY_MTU, TUNNEL, add_pod_netkit, add_pod_veth, netkit};
use crate::lab::{Node, Pod};
use crate::netlink::{self, End, Route, Vxlan, VxlanKind};
use crate::netns::Netns;
use crate::options::{StandIns, Topology};
use crate::plan::{IDENTITY, Mac};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-lab-ebpf"));

/// MTU of Cilium's devices and of the pods; their routes have the overlay's.
const DEVICE_MTU: u32 = 1500;

const CILIUM_NET: u32 = 22;
const CILIUM_HOST: u32 = 23;

/// How packets are delivered to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routing {
    /// `bpf_redirect` to the lxc device.
    Legacy,
    /// `bpf_redirect_peer` into the pod (BPF host routing).
    Bpf,
}

/// Which of Cilium's datapaths it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    routing: Routing,
    geneve: bool,
    netkit: bool,
}

impl Shape {
    pub(super) fn of(topology: Topology) -> Self {
        let routing = match topology {
            Topology::CiliumHostRouting | Topology::CiliumNetkit => Routing::Bpf,
            _ => Routing::Legacy,
        };
        let (geneve, netkit) = (topology == Topology::CiliumGeneve, topology == Topology::CiliumNetkit);
        Self { routing, geneve, netkit }
    }
}

/// The programs of all nodes.
pub(super) struct Cilium {
    nodes: Vec<Programs>,
    shape: Shape,
}

/// The programs and maps of one node. Dropping it detaches them.
struct Programs {
    node: String,
    ebpf: Ebpf,
    stand_ins: StandIns,
    /// Interface index, and the link that keeps the program there. A filter needs none: it goes with its device.
    links: Vec<(u32, Attached)>,
}

/// What keeps a program at its hook; dropping it detaches the program.
enum Attached {
    Tcx { _link: FdLink },
    Netkit { _link: OwnedFd },
}

impl Cilium {
    pub(super) fn build(nodes: &[Node], shape: Shape, stand_ins: StandIns) -> Result<Self> {
        let nodes = nodes
            .iter()
            .map(|node| {
                add_devices(node, nodes, shape)?;
                let mut programs = Programs::load(node, shape, stand_ins)?;
                programs.attach(node.netns(), "cil_from_host", CILIUM_HOST, TcAttachType::Egress)?;
                programs.attach(node.netns(), "cil_from_overlay", TUNNEL, TcAttachType::Ingress)?;
                for other in nodes {
                    let identity = if programs.is_on(other) { IDENTITY_HOST } else { IDENTITY_REMOTE_NODE };
                    let gateways = [other.plan.gateway.into(), other.plan.gateway_ipv6().into()];
                    programs.add_identity(other, gateways, identity)?;
                }
                Ok(programs)
            })
            .collect::<Result<_>>()?;
        Ok(Self { nodes, shape })
    }
}

impl Datapath for Cilium {
    fn add_pod(&mut self, node: &Node, pod: &Pod) -> Result<()> {
        let plan = &pod.plan;
        if self.shape.netkit {
            add_pod_netkit(node, pod, DEVICE_MTU)?;
        } else {
            add_pod_veth(node, pod, DEVICE_MTU)?;
        }
        netlink::in_netns(node.netns(), async |link| link.set_up(plan.host_ifindex).await)?;
        for programs in &mut self.nodes {
            if programs.is_on(node) {
                programs.add_endpoint(pod)?;
                if self.shape.netkit {
                    programs.attach_to_netkit(node.netns(), "cil_from_container", plan.host_ifindex)?;
                } else {
                    let hook = TcAttachType::Ingress;
                    programs.attach(node.netns(), "cil_from_container", plan.host_ifindex, hook)?;
                }
            }
            programs.add_identity(node, pod.ips(), IDENTITY)?;
        }
        netlink::in_netns(pod.netns(), async |link| {
            let eth0 = plan.ifindex;
            link.set_up(eth0).await?;
            link.add_address(eth0, plan.ipv4, 32).await?;
            link.add_address(eth0, plan.ipv6, 128).await?;
            let gateways = [IpAddr::from(node.plan.gateway), node.plan.gateway_ipv6().into()];
            for gateway in gateways {
                let host_bits = if gateway.is_ipv4() { 32 } else { 128 };
                link.add_route(Route::to(gateway, host_bits, eth0)).await?;
                let default = Route::default_like(gateway, eth0).via(gateway);
                link.add_route(default.mtu(OVERLAY_MTU)).await?;
            }
            Ok(())
        })?;
        // Both ends are up now: older kernels forget whom a device answers for when they notice that it has no carrier,
        // which is some time after it was set up.
        if self.shape.netkit { Ok(()) } else { answer_for_gateway(node, pod) }
    }

    fn remove_pod(&mut self, node: &Node, pod: &Pod) -> Result<()> {
        for programs in &mut self.nodes {
            if programs.is_on(node) {
                programs.remove_endpoint(pod)?;
            }
            programs.remove_identity(pod)?;
        }
        Ok(())
    }

    fn program_runs(&self, node: usize, program: &str) -> Result<Option<u64>> {
        let index = match program {
            "cil_from_container" => RUNS_FROM_CONTAINER,
            "cil_from_host" => RUNS_FROM_HOST,
            "cil_from_overlay" => RUNS_FROM_OVERLAY,
            _ => return Ok(None),
        };
        let map = self.nodes[node].ebpf.map("lab_runs").context("the stand-ins have no map lab_runs")?;
        let runs = PerCpuArray::<_, u64>::try_from(map)?;
        let runs = runs.get(&index, 0).context("cannot read lab_runs")?;
        Ok(Some(runs.iter().sum()))
    }
}

/// The pods see their next hop at the MAC of the lxc device. The node's stack answers so for IPv4 by itself, as it does
/// for any address it has; for IPv6 it must be told.
fn answer_for_gateway(node: &Node, pod: &Pod) -> Result<()> {
    let (device, ifindex) = (&pod.plan.host_device, pod.plan.host_ifindex);
    node.netns().set_sysctls(&[
        (&format!("net/ipv6/conf/{device}/proxy_ndp"), "1"),
        // Otherwise the answer is held back for up to 0.8 s.
        (&format!("net/ipv6/neigh/{device}/proxy_delay"), "0"),
    ])?;
    netlink::in_netns(node.netns(), async |link| link.add_proxy(ifindex, node.plan.gateway_ipv6()).await)
}

/// `cilium_net`, `cilium_host`, the tunnel device, and the routes to all pods.
fn add_devices(node: &Node, nodes: &[Node], shape: Shape) -> Result<()> {
    let netns = node.netns();
    let mac = |end| Mac([0x5a, 0xc1, 0x11, 0x00, node.plan.number, end]);
    let end = |name, ifindex, mac| End { netns, name, ifindex, mac, mtu: DEVICE_MTU, gso_max_segs: None };
    let (host, net) = (end("cilium_host", CILIUM_HOST, mac(1)), end("cilium_net", CILIUM_NET, mac(2)));
    netlink::in_netns(netns, async |link| {
        link.add_veth(&host, &net).await?;
        let mac = node.plan.tunnel_mac;
        if shape.geneve {
            link.add_geneve("cilium_geneve", TUNNEL, mac, DEVICE_MTU, 6081).await?;
        } else {
            link.add_vxlan(&Vxlan {
                name: "cilium_vxlan",
                ifindex: TUNNEL,
                mac,
                mtu: DEVICE_MTU,
                port: 8472,
                kind: VxlanKind::Metadata,
            })
            .await?;
        }
        for device in [CILIUM_HOST, CILIUM_NET] {
            link.set_noarp(device).await?;
            link.set_up(device).await?;
        }
        link.set_up(TUNNEL).await?;
        let (gateway, gateway6) = (node.plan.gateway, node.plan.gateway_ipv6());
        link.add_address(CILIUM_HOST, gateway, 32).await?;
        link.add_address(CILIUM_HOST, gateway6, 128).await?;
        for pods in nodes.iter().map(|node| &node.plan) {
            let ipv4 = Route::to(pods.pod_net_ipv4(), 24, CILIUM_HOST).source(gateway).mtu(OVERLAY_MTU);
            let ipv6 = Route::to(pods.pod_net_ipv6(), 64, CILIUM_HOST).source(gateway6).mtu(OVERLAY_MTU);
            link.add_route(ipv4).await?;
            link.add_route(ipv6).await?;
        }
        Ok(())
    })
}

impl Programs {
    fn load(node: &Node, shape: Shape, stand_ins: StandIns) -> Result<Self> {
        let ebpf = EbpfLoader::new()
            .override_global("TUNNEL_IFINDEX", &TUNNEL, true)
            .override_global("HOST_ROUTING", &u32::from(shape.routing == Routing::Bpf), true)
            .override_global("PODS_ON_NETKIT", &u32::from(shape.netkit), true)
            .load(OBJECT)
            .context("cannot load the stand-ins for Cilium's programs")?;
        let mut programs = Self { node: node.name().to_owned(), ebpf, stand_ins, links: Vec::new() };
        for (name, program) in programs.ebpf.programs_mut() {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        Ok(programs)
    }

    fn is_on(&self, node: &Node) -> bool {
        self.node == node.name()
    }

    /// Attaches a program where Cilium attaches it.
    fn attach(&mut self, netns: &Netns, name: &str, ifindex: u32, hook: TcAttachType) -> Result<()> {
        match self.stand_ins {
            StandIns::Tcx => self.attach_at_tail(netns, name, ifindex, hook),
            StandIns::Clsact => self.attach_filter(netns, name, ifindex, hook),
        }
        .with_context(|| format!("cannot attach {name} to the device with index {ifindex} of {}", self.node))
    }

    fn attach_filter(&self, netns: &Netns, name: &str, ifindex: u32, hook: TcAttachType) -> Result<()> {
        let program: &SchedClassifier = self.ebpf.program(name).context("not in the object")?.try_into()?;
        let program = program.fd().context("the program is not loaded")?.as_fd();
        let device = netns.run(|| index_to_name(ifindex))??;
        netlink::in_netns(netns, async |link| {
            link.add_filter(ifindex, hook, format!("{name}-{device}"), program).await
        })
    }

    fn attach_at_tail(&mut self, netns: &Netns, name: &str, ifindex: u32, hook: TcAttachType) -> Result<()> {
        let ebpf = &mut self.ebpf;
        let link = netns.run(|| -> Result<FdLink> {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context("not in the object")?.try_into()?;
            let device = index_to_name(ifindex)?;
            let order = TcAttachOptions::TcxOrder(LinkOrder::last());
            let id = program.attach_with_options(&device, hook, order)?;
            Ok(program.take_link(id)?.try_into()?)
        })??;
        self.links.push((ifindex, Attached::Tcx { _link: link }));
        Ok(())
    }

    /// Attaches a program to what a pod sends through its netkit pair.
    fn attach_to_netkit(&mut self, netns: &Netns, name: &str, ifindex: u32) -> Result<()> {
        let program: &SchedClassifier = self.ebpf.program(name).context("not in the object")?.try_into()?;
        let program = program.fd().context("the program is not loaded")?.as_fd();
        let link = netkit::attach_to_peer(netns, program, ifindex)?;
        self.links.push((ifindex, Attached::Netkit { _link: link }));
        Ok(())
    }

    fn add_endpoint(&mut self, pod: &Pod) -> Result<()> {
        let plan = &pod.plan;
        let endpoint = Endpoint {
            ifindex: plan.host_ifindex,
            unused: 0,
            lxc_id: plan.endpoint_id,
            flags: 0,
            pad: 0,
            mac: MapMac { address: plan.mac.0, pad: 0 },
            node_mac: MapMac { address: plan.host_mac.0, pad: 0 },
            sec_id: IDENTITY,
            parent_ifindex: 0,
            pad2: 0,
        };
        let mut endpoints = self.endpoints()?;
        for ip in pod.ips() {
            endpoints
                .insert(EndpointMapKey(endpoint_key(ip)), EndpointMapValue(endpoint), 0)
                .with_context(|| format!("cannot add {ip} to cilium_lxc"))?;
        }
        Ok(())
    }

    fn remove_endpoint(&mut self, pod: &Pod) -> Result<()> {
        let mut endpoints = self.endpoints()?;
        for ip in pod.ips() {
            endpoints
                .remove(&EndpointMapKey(endpoint_key(ip)))
                .with_context(|| format!("cannot remove {ip} from cilium_lxc"))?;
        }
        self.links.retain(|(ifindex, _)| *ifindex != pod.plan.host_ifindex);
        Ok(())
    }

    /// Notes who has the addresses, and that they are behind `node` unless that is this one.
    fn add_identity(&mut self, node: &Node, ips: [IpAddr; 2], sec_identity: u32) -> Result<()> {
        let tunnel_endpoint = if self.is_on(node) { 0 } else { u32::from(node.ipv4()).to_be() };
        let entry = IpcacheEntry { sec_identity, tunnel_endpoint, node_id: 0, key: 0, flags: 0 };
        let mut ipcache = self.ipcache()?;
        for ip in ips {
            ipcache
                .insert(&ipcache_key(ip), IpcacheMapValue(entry), 0)
                .with_context(|| format!("cannot add {ip} to cilium_ipcache"))?;
        }
        Ok(())
    }

    fn remove_identity(&mut self, pod: &Pod) -> Result<()> {
        let mut ipcache = self.ipcache()?;
        for ip in pod.ips() {
            ipcache
                .remove(&ipcache_key(ip))
                .with_context(|| format!("cannot remove {ip} from cilium_ipcache"))?;
        }
        Ok(())
    }

    fn endpoints(&mut self) -> Result<HashMap<&mut MapData, EndpointMapKey, EndpointMapValue>> {
        let map = self.ebpf.map_mut("cilium_lxc").context("the stand-ins have no map cilium_lxc")?;
        Ok(HashMap::try_from(map)?)
    }

    fn ipcache(&mut self) -> Result<LpmTrie<&mut MapData, IpcacheMapKey, IpcacheMapValue>> {
        let map = self.ebpf.map_mut("cilium_ipcache").context("the stand-ins have no map cilium_ipcache")?;
        Ok(LpmTrie::try_from(map)?)
    }
}

/// The maps' layouts, as the loader wants them typed.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct EndpointMapKey(EndpointKey);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct EndpointMapValue(Endpoint);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct IpcacheMapKey(IpcacheKey);
#[repr(transparent)]
#[derive(Clone, Copy)]
struct IpcacheMapValue(IpcacheEntry);

// SAFETY: repr(C), integers only, no padding (the sizes are asserted beside the definitions).
unsafe impl aya::Pod for EndpointMapKey {}
// SAFETY: as above.
unsafe impl aya::Pod for EndpointMapValue {}
// SAFETY: as above.
unsafe impl aya::Pod for IpcacheMapKey {}
// SAFETY: as above.
unsafe impl aya::Pod for IpcacheMapValue {}

fn endpoint_key(ip: IpAddr) -> EndpointKey {
    let (family, address, _) = map_address(ip);
    EndpointKey { address, family, key: 0, cluster_id: 0 }
}

fn ipcache_key(ip: IpAddr) -> Key<IpcacheMapKey> {
    let (family, address, bits) = map_address(ip);
    Key::new(IPCACHE_STATIC_BITS + bits, IpcacheMapKey(IpcacheKey { cluster_id: 0, pad: 0, family, address }))
}

/// Family, address words in network order, and length in bits.
fn map_address(ip: IpAddr) -> (u8, [u32; 4], u32) {
    match ip {
        IpAddr::V4(ip) => (FAMILY_IPV4, [u32::from(ip).to_be(), 0, 0, 0], 32),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            let word = |shift: u32| ((bits >> shift) as u32).to_be();
            (FAMILY_IPV6, [word(96), word(64), word(32), word(0)], 128)
        }
    }
}

/// The name of a device in the calling thread's namespace.
fn index_to_name(ifindex: u32) -> Result<String> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    rustix::net::netdevice::index_to_name(&socket, ifindex).context("no such device")
}
