use tokio::sync::mpsc;
use tracer::host::links::{Link, LinkEvent, dump, watch};

use crate::support::{DEADLINE, Namespace, eventually};

fn link<'a>(links: &'a [Link], name: &str) -> &'a Link {
    links.iter().find(|link| &*link.name == name).unwrap_or_else(|| panic!("no {name} among {links:?}"))
}

#[test]
fn links_are_read_as_the_kernel_has_them() {
    let (namespace, other) = (Namespace::new("links"), Namespace::new("other"));
    namespace.ip("link add br0 type bridge");
    namespace.ip("link add vx0 type vxlan id 42 dstport 8472 dev br0");
    namespace.ip("link add vx1 type vxlan external dstport 4789");
    namespace.ip(&format!("link add v0 mtu 1400 type veth peer name v1 netns {}", other.name));
    namespace.ip("link set v0 address 02:00:00:00:00:17 master br0 up");
    namespace.ip("tuntap add dev tun0 mode tun");
    namespace.ip("link add local0 type veth peer name local1");
    namespace.ip("addr add 198.18.0.1/24 dev br0");
    namespace.ip("addr add 2001:db8::1/64 dev br0 nodad");
    namespace.ip("link set br0 up");
    namespace.ip("route add default via 198.18.0.254");

    let snapshot = dump(&namespace.open()).unwrap();
    let theirs = dump(&other.open()).unwrap();

    let lo = link(&snapshot.links, "lo");
    assert!(lo.loopback && lo.up);
    let bridge = link(&snapshot.links, "br0");
    assert_eq!((&*bridge.kind, bridge.up), ("bridge", true));
    assert!(bridge.addresses.contains(&"198.18.0.1".parse().unwrap()));
    assert!(bridge.addresses.contains(&"2001:db8::1".parse().unwrap()));
    assert_eq!(snapshot.default_route_devices, [bridge.ifindex]);
    let veth = link(&snapshot.links, "v0");
    assert_eq!((&*veth.kind, veth.mtu, veth.master), ("veth", 1400, Some(bridge.ifindex)));
    assert_eq!(veth.mac, [2, 0, 0, 0, 0, 0x17]);
    let peer = link(&theirs.links, "v1");
    assert_eq!((veth.peer_ifindex, peer.peer_ifindex), (Some(peer.ifindex), Some(veth.ifindex)));
    assert!(veth.peer_netns_id.is_some() && veth.has_ethernet_header && !peer.up);
    let local = link(&snapshot.links, "local0");
    assert_eq!(local.peer_ifindex, Some(link(&snapshot.links, "local1").ifindex));
    assert_eq!(local.peer_netns_id, None, "both ends are here");
    let vxlan = link(&snapshot.links, "vx0").vxlan.unwrap();
    assert_eq!((vxlan.identifier, vxlan.port), (42, 8472));
    assert_eq!(link(&snapshot.links, "vx1").vxlan.unwrap().port, 4789);
    assert!(!link(&snapshot.links, "tun0").has_ethernet_header);
}

#[test]
fn new_changed_and_gone_links_are_reported_as_they_happen() {
    let namespace = Namespace::new("watch");
    let netns = namespace.open();
    let (sender, mut events) = mpsc::channel(64);
    let _watch = watch(&netns, sender).unwrap();
    let mut next = |what: &str, wanted: &dyn Fn(&LinkEvent) -> bool| {
        eventually(what, || events.try_recv().ok().filter(|event| wanted(event)));
    };

    namespace.ip("link add d0 type bridge");
    next("a new link", &|event| matches!(event, LinkEvent::Changed { link, .. } if &*link.name == "d0"));
    namespace.ip("link set d0 up");
    next("a changed link", &|event| matches!(event, LinkEvent::Changed { link, .. } if link.up));
    namespace.ip("link del d0");
    next(
        "a link that is gone",
        &|event| matches!(event, LinkEvent::Gone { link, netns: of } if &*link.name == "d0" && *of == netns.id()),
    );
}

#[test]
fn events_that_do_not_fit_are_announced_as_lost() {
    let namespace = Namespace::new("flood");
    let (sender, mut events) = mpsc::channel(2);
    let _watch = watch(&namespace.open(), sender).unwrap();

    for number in 0..8 {
        namespace.ip(&format!("link add d{number} type bridge"));
    }

    eventually("word of the loss", || {
        matches!(events.try_recv(), Ok(LinkEvent::Resync { .. })).then_some(())
    });
    namespace.ip("link add after type bridge");
    eventually("life after the loss", || {
        events
            .try_recv()
            .ok()
            .filter(|event| matches!(event, LinkEvent::Changed { link, .. } if &*link.name == "after"))
    });
}

#[test]
fn a_watch_ends_at_once_when_it_is_dropped() {
    let namespace = Namespace::new("drop");
    let (sender, mut events) = mpsc::channel(1);
    let watch = watch(&namespace.open(), sender).unwrap();
    // The channel is full: the watching thread must not wait for room.
    namespace.ip("link add d0 type bridge");
    namespace.ip("link add d1 type bridge");

    let start = std::time::Instant::now();
    drop(watch);

    assert!(start.elapsed() < DEADLINE / 2);
    while events.try_recv().is_ok() {}
    assert!(matches!(events.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
}
