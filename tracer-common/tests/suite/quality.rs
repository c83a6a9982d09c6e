//! Consecutive packets that differ in one field: no two fingerprints alike, and the low bits, by which a
//! sampler picks, uniform.

use tracer_common::packet::Link;

use crate::bytes::{ICMP, ICMPV6, TCP, Tcp, UDP, V4, V6, echo, join, udp, usual_timestamps};
use crate::observe;

const PACKETS: u32 = 100_000;
/// Buckets of the uniformity test: the lowest bits.
const BUCKETS: usize = 256;

#[test]
fn consecutive_segments_of_a_bulk_transfer() {
    assert_good("seq", |n| V6::default().around(TCP, &segment(0x1000_0000 + 1448 * n, 77, 5)));
}

#[test]
fn consecutive_acknowledgments() {
    assert_good("ack", |n| V6::default().around(TCP, &segment(77, 0xffff_0000_u32.wrapping_add(n), 5)));
}

#[test]
fn consecutive_timestamps() {
    assert_good("TSval", |n| V6::default().around(TCP, &segment(77, 78, n)));
}

#[test]
fn consecutive_sequence_numbers_without_timestamps() {
    let bare = |sequence| Tcp { sequence, ..Tcp::default() }.around(b"");
    assert_good("seq, no options", |n| V6::default().around(TCP, &bare(n << 8)));
}

#[test]
fn consecutive_dns_ids() {
    // An id has 16 bits; the second label makes up the rest.
    let query = |n: u32| {
        let id = (n as u16).to_be_bytes();
        join(&[
            &id,
            &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3],
            b"www",
            &[2, b'a', b'0' + (n >> 16) as u8, 0, 0, 1, 0, 1],
        ])
    };
    assert_good("DNS id", |n| V6::default().around(UDP, &udp(5353, 53, 0, &query(n))));
}

#[test]
fn consecutive_counters_at_any_place_of_the_payload() {
    for at in [0, 11, 28] {
        let payload = |n: u32| join(&[&vec![0x20; at], &n.to_be_bytes(), &[0x20; 40]]);
        assert_good("counter", |n| V6::default().around(UDP, &udp(9, 9, 0, &payload(n))));
    }
}

#[test]
fn consecutive_pings_of_both_families() {
    // A sequence number has 16 bits, then ping's own time stamp has moved on.
    let ping = |kind, n: u32| {
        let payload = join(&[&(n >> 16).to_le_bytes(), &[0x10; 52]]);
        echo(kind, 0, 4242, n as u16, &payload)
    };
    assert_good("ping 6", |n| V6::default().around(ICMPV6, &ping(128, n)));
    assert_good("ping 4", |n| V4 { identification: 0, ..V4::default() }.around(ICMP, &ping(8, n)));
}

fn segment(sequence: u32, acknowledgment: u32, timestamp: u32) -> Vec<u8> {
    let options = usual_timestamps(timestamp, 0);
    Tcp { sequence, acknowledgment, options, ..Tcp::default() }.around(b"")
}

/// No collision among [`PACKETS`], the lowest 8 bits (and the next) uniform by a chi-square test, and every one of
/// the 64 bits set in half of them.
fn assert_good(what: &str, packet: impl Fn(u32) -> Vec<u8>) {
    let mut fingerprints: Vec<u64> = (0..PACKETS)
        .map(|n| observe::observe(&packet(n), Link::None, 0).expect("a valid packet").fingerprint)
        .collect();

    for shift in [0, 8] {
        // 255 degrees of freedom: mean 255, standard deviation 22.6; five of them either way.
        let chi = chi_square(fingerprints.iter().map(|f| (f >> shift) as usize % BUCKETS));
        assert!((142.0..368.0).contains(&chi), "{what}: chi-square {chi} of bits from {shift}");
    }
    for bit in 0..u64::BITS {
        let set = fingerprints.iter().filter(|f| *f >> bit & 1 == 1).count();
        // Standard deviation 158.
        assert!((49_200..50_800).contains(&set), "{what}: bit {bit} set in {set}");
    }
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), PACKETS as usize, "{what}: collisions");
}

fn chi_square(buckets: impl Iterator<Item = usize>) -> f64 {
    let mut counts = [0_u32; BUCKETS];
    for bucket in buckets {
        counts[bucket] += 1;
    }
    let expected = f64::from(PACKETS) / BUCKETS as f64;
    counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}
