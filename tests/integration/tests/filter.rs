//! What the kernel's filter lets through.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::Ipv4Addr;
use std::time::Duration;

use tracer_common::filter::{known_place, mapped, words};
use tracer_integration::{Tracer, patient};
use tracer_lab::{Lab, Topology};

const SOON: Duration = Duration::from_secs(10);

/// The first address that has a place in the filter gets it; the others are looked up.
#[test]
fn addresses_that_share_a_place_in_the_filter_are_all_followed() {
    let lab = Lab::build(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let place = |address: Ipv4Addr| known_place(words(&mapped(address.octets())));
    let mut before = (0..=u16::MAX).map(|number| Ipv4Addr::from(0x0a00_0000 + u32::from(number)));
    let other = before.find(|other| place(*other) == place(httpbin.ipv4())).unwrap();
    assert!(other < httpbin.ipv4(), "{other} takes the place");
    let text = std::fs::read_to_string(tracer.inventory()).unwrap();
    let endpoint = format!("  - addresses:\n    - {}\n", httpbin.ipv4());
    let both = text.replace(&endpoint, &format!("  - addresses:\n    - {other}\n{endpoint}"));
    assert_ne!(text, both, "the Service has an endpoint more");
    std::fs::write(tracer.inventory(), both).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "svc/httpbin", "--protocol", "icmp"]).unwrap();

    assert_eq!(curl.ping(httpbin.ipv4().into(), 2).unwrap().received, 2);

    let told = follow.eventually(patient(SOON), "all pings", |told| told.len() == 4);
    assert!(told.iter().all(tracer_integration::Trajectory::is_complete));
    follow.stop().unwrap();
}
