//! The kernel's drop reasons: which of them end a packet, and what a person should look at.
//!
//! Reasons go by their names (enum skb_drop_reason in include/net/dropreason-core.h, without `SKB_DROP_REASON_`): the
//! numbers move from kernel to kernel, and so does which code gives which reason.

use crate::trajectory::model::{Directory, DropPlace, DropSighting, ObservationPoint, Owner, Packet};

const TCP: u8 = 6;
const ICMP_ECHO_REPLY: (u8, u8) = (1, 0);
const ICMPV6_ECHO_REPLY: (u8, u8) = (58, 129);

/// Whether a packet that has entered its destination counts as dropped when the kernel frees it there for this reason.
///
/// Behind the last hook the kernel also frees what it has used: bytes that came twice, acknowledgments that say nothing
/// new (all `TCP_*` but a wrong checksum), what nobody read before its socket was closed. An echo reply that a raw socket has taken is freed as `NO_SOCKET` (net/ipv4/ping.c).
#[must_use]
pub fn ends_delivered(reason: &str, packet: &Packet) -> bool {
    let is_echo_reply = packet
        .icmp
        .is_some_and(|icmp| [ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY].contains(&(packet.protocol, icmp.kind)));
    match reason {
        "NOT_SPECIFIED" | "QUEUE_PURGE" | "SOCKET_CLOSE" => false,
        "NO_SOCKET" => !is_echo_reply,
        "TCP_CSUM" => true,
        _ => !reason.starts_with("TCP_"),
    }
}

/// Whether only a copy was freed, so that nothing is said about the packet: one for a listener on the device (tcpdump),
/// or a fragment that came twice.
#[must_use]
pub fn frees_a_copy(drop: &DropSighting) -> bool {
    const LISTENERS: [&str; 3] = ["packet_rcv", "tpacket_rcv", "packet_rcv_fanout"];
    matches!(&*drop.reason, "PACKET_SOCK_ERROR" | "DUP_FRAG")
        || drop.place.function.as_deref().is_some_and(|function| LISTENERS.contains(&function))
}

/// One sentence on what to look at. `after` is the last hop before the drop.
#[must_use]
pub fn advice(
    drop: &DropSighting,
    after: Option<&ObservationPoint>,
    directory: &(impl Directory + ?Sized),
) -> String {
    let place = where_to_look(&drop.place);
    match &*drop.reason {
        "NETFILTER_DROP" => netfilter(drop, &place, directory),
        "NO_SOCKET" => no_socket(drop, &place),
        "TC_INGRESS" | "TC_EGRESS" | "XDP" => program(drop, after, &place),
        reason => match advice_by_reason(reason).or_else(|| advice_by_function(&drop.place)) {
            Some(advice) => format!("{advice} ({place})"),
            None => match &drop.place.function {
                Some(function) => format!(
                    "the kernel's function {function} freed it {place}; tracer has no advice for this reason"
                ),
                None => format!("the kernel freed it {place}; tracer has no advice for this reason"),
            },
        },
    }
}

fn advice_by_reason(reason: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(names, _)| names.contains(&reason)).map(|(_, advice)| *advice)
}

/// Where the reason says nothing, the function that freed the packet mostly does.
fn advice_by_function(place: &DropPlace) -> Option<&'static str> {
    let function = place.function.as_deref()?;
    BY_FUNCTION.iter().find(|(name, _)| *name == function).and_then(|(_, reason)| advice_by_reason(reason))
}

/// Kernel functions that freed packets without a reason on some versions, and the reason that others give.
const BY_FUNCTION: &[(&str, &str)] = &[
    ("ip_error", "IP_INNOROUTES"),
    ("ip6_pkt_drop", "IP_INNOROUTES"),
    ("ip6_pkt_discard", "IP_INNOROUTES"),
    ("ip_forward", "IP_INHDR"),
    ("ip6_forward", "IP_INHDR"),
    ("ip_rcv_finish_core", "IP_RPFILTER"),
    ("udp_queue_rcv_one_skb", "SOCKET_RCVBUFF"),
    ("enqueue_to_backlog", "CPU_BACKLOG"),
    ("arp_error_report", "NEIGH_FAILED"),
    ("neigh_invalidate", "NEIGH_FAILED"),
    ("__neigh_event_send", "NEIGH_FAILED"),
    ("vxlan_xmit", "VXLAN_NO_REMOTE"),
];

/// What to look at, by reason. Several names: kernels differ in which of them they give.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["IP_RPFILTER"],
        "reverse path filter: the route back to the source leaves by another device; see ip route get SOURCE and \
         net.ipv4.conf.*.rp_filter",
    ),
    (
        &["IP_INNOROUTES", "IP_OUTNOROUTES", "IP_INNOROUTES6", "IP6_INNOROUTES", "IP_ROUTE_BLACKHOLE"],
        "no route to the destination, or one that says blackhole, unreachable or prohibit; see ip route get DESTINATION",
    ),
    (
        &["IP_INHDR", "IP_TTL_EXCEEDED"],
        "the IP header was refused, mostly because its TTL had run out: a routing loop, or a sender that set it low; compare \
         the TTLs of the hops",
    ),
    (
        &["PKT_TOO_BIG", "IP_FRAG_NEEDED"],
        "larger than the next device's MTU and not to be fragmented; compare ip link's mtu along the way and see that \
         ICMP fragmentation needed reaches the sender",
    ),
    (
        &["SOCKET_RCVBUFF", "SOCKET_RCVBUF"],
        "the receiver's socket buffer is full: its program reads too slowly, or net.core.rmem_max is small; see ss -m and \
         nstat -az UdpRcvbufErrors",
    ),
    (
        &["PROTO_MEM"],
        "the protocol's memory is used up; see net.ipv4.udp_mem and net.ipv4.tcp_mem against /proc/net/sockstat",
    ),
    (
        &["SOCKET_BACKLOG"],
        "the socket's backlog is full: its program does not keep up; see nstat -az TcpExtTCPBacklogDrop",
    ),
    (&["SOCKET_FILTER"], "a filter at the socket (SO_ATTACH_FILTER, SO_ATTACH_BPF) refused it; see ss -b"),
    (
        &["CPU_BACKLOG"],
        "the queue of a CPU is full (net.core.netdev_max_backlog); see the second column of /proc/net/softnet_stat",
    ),
    (
        &["QDISC_DROP", "FULL_RING", "QDISC_OVERLIMIT", "QDISC_CONGESTED"],
        "a full queue of the device; see tc -s qdisc show",
    ),
    (&["DEV_READY"], "the device is down; see ip link"),
    (
        &["NEIGH_FAILED", "NEIGH_CREATEFAIL", "NEIGH_QUEUEFULL", "NEIGH_DEAD"],
        "the next hop's MAC address is not known: nobody answers ARP or neighbour solicitation; see ip neigh",
    ),
    (&["BPF_CGROUP_EGRESS"], "a BPF program at the sender's cgroup refused it; see bpftool cgroup tree"),
    (&["XFRM_POLICY"], "an IPsec policy refused it; see ip xfrm policy"),
    (
        &["IP_CSUM", "TCP_CSUM", "UDP_CSUM", "ICMP_CSUM", "SKB_CSUM"],
        "a wrong checksum: a device or program that changes packets",
    ),
    (
        &["OTHERHOST"],
        "addressed to another MAC address: a stale neighbour entry or FDB entry; see ip neigh and bridge fdb",
    ),
    (&["UNICAST_IN_L2_MULTICAST"], "a unicast packet in a multicast frame"),
    (&["IP_NOPROTO", "UNHANDLED_PROTO"], "nothing here handles this protocol"),
    (
        &[
            "TUNNEL_TXINFO",
            "VXLAN_VNI_NOT_FOUND",
            "VXLAN_INVALID_HDR",
            "VXLAN_NO_REMOTE",
            "VXLAN_ENTRY_EXISTS",
        ],
        "the tunnel device refused it; see ip -d link and bridge fdb show dev of the tunnel device",
    ),
    (&["NOMEM"], "the kernel had no memory for it"),
];

/// "on node n1", "in pod default/curl on n1", with the device.
fn where_to_look(place: &DropPlace) -> String {
    let netns = match &place.pod {
        Some(pod) => format!("in pod {}/{} on {}", pod.namespace, pod.name, place.node),
        None => format!("on {}", place.node),
    };
    match &place.device {
        Some(device) => format!("{netns}, device {device}"),
        None => netns,
    }
}

/// Which chain: by whose packet it is in that network namespace.
fn netfilter(drop: &DropSighting, place: &str, directory: &(impl Directory + ?Sized)) -> String {
    let is_here = |address| match (directory.owner(address, drop.time_ns), &drop.place.pod) {
        (Owner::Pod { pod, .. }, Some(here)) => pod.is_same(here),
        (Owner::Node(node), None) => node == drop.place.node,
        _ => false,
    };
    let chains = match (is_here(drop.packet.source), is_here(drop.packet.destination)) {
        (true, false) => "output (or postrouting)",
        (false, true) => "input (or prerouting)",
        (true, true) => "output or input",
        (false, false) => "forward (or prerouting, postrouting)",
    };
    format!(
        "a netfilter rule dropped or rejected it {place}: list the chains with hook {chains} there, with nft list ruleset or \
         iptables-save -c"
    )
}

fn no_socket(drop: &DropSighting, place: &str) -> String {
    let Some((_, port)) = drop.packet.ports else {
        return format!("nothing waits for it {place}");
    };
    let (protocol, options) = if drop.packet.protocol == TCP { ("TCP", "-ltn") } else { ("UDP", "-lun") };
    format!(
        "nothing listens on {protocol} port {port} {place}: see ss {options} there, whether the program runs and binds to \
         this address, and the Service's targetPort"
    )
}

fn program(drop: &DropSighting, after: Option<&ObservationPoint>, place: &str) -> String {
    let device = drop.place.device.as_deref().unwrap_or("DEVICE");
    let on_hook = after.filter(|point| drop.place.device.as_deref() == Some(&*point.device));
    match on_hook.map(|point| point.foreign_programs.as_slice()) {
        Some([only]) => {
            format!("the BPF program {only} on {device} dropped it {place}: ask the CNI that owns it")
        }
        Some(several) if !several.is_empty() => format!(
            "one of the BPF programs {} on {device} dropped it {place}: ask the CNI that owns them",
            several.join(", ")
        ),
        _ => format!("a BPF program or tc filter dropped it {place}: see bpftool net show dev {device}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::testing::{CURL, HTTPBIN, ROUTED, SECOND, World, drop_at, ping, two_nodes, udp};

    fn advise(world: &World, place: &str, reason: &str, function: Option<&str>, packet: &Packet) -> String {
        let mut drop = drop_at(world, place, reason, SECOND, packet);
        let place = std::sync::Arc::make_mut(&mut drop.place);
        place.function = function.map(std::sync::Arc::from);
        place.device = Some("vethcurl".into());
        advice(&drop, Some(&world.at(ROUTED[1].0)), &world.book)
    }

    #[test]
    fn netfilter_names_the_hook_by_whose_packet_it_is_there() {
        let world = two_nodes(false, "vxlan");
        let packet = ping(CURL, HTTPBIN, 1);
        for (place, hook) in
            [("n1", "hook forward"), ("n1/curl", "hook output"), ("n2/httpbin", "hook input")]
        {
            let advice = advise(&world, place, "NETFILTER_DROP", None, &packet);
            assert!(advice.contains(hook), "{place}: {advice}");
        }
    }

    #[test]
    fn a_tc_drop_names_the_program_that_sits_there() {
        let mut world = two_nodes(false, "vxlan");
        let packet = ping(CURL, HTTPBIN, 1);
        let nobody = advise(&world, "n1", "TC_INGRESS", None, &packet);
        world.foreign(ROUTED[1].0, "cil_from_container");

        let one = advise(&world, "n1", "TC_INGRESS", None, &packet);

        assert!(nobody.contains("bpftool net show dev vethcurl"), "{nobody}");
        assert!(one.contains("cil_from_container on vethcurl"), "{one}");
    }

    #[test]
    fn no_socket_says_protocol_port_and_pod() {
        let world = two_nodes(false, "vxlan");
        let packet = udp((CURL, 5000), (HTTPBIN, 53), 20, 0, 7);
        let advice = advise(&world, "n2/httpbin", "NO_SOCKET", None, &packet);
        assert!(advice.contains("nothing listens on UDP port 53 in pod default/httpbin"), "{advice}");
    }

    #[test]
    fn without_a_reason_the_function_says_what_to_look_at() {
        let world = two_nodes(false, "vxlan");
        let packet = ping(CURL, HTTPBIN, 1);
        let known = advise(&world, "n1", "NOT_SPECIFIED", Some("ip_error"), &packet);
        let unknown = advise(&world, "n1", "NOT_SPECIFIED", Some("some_driver_xmit"), &packet);
        assert!(known.contains("ip route get"), "{known}");
        assert!(unknown.contains("some_driver_xmit"), "{unknown}");
    }

    #[test]
    fn every_reason_is_listed_once() {
        let mut names: Vec<_> = ADVICE.iter().flat_map(|(names, _)| *names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
