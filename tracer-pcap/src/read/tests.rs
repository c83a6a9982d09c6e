//! Bytes by hand, and what is read of them.

use std::iter;

use super::*;
use crate::link::{COOKED_2, ETHERNET, RAW};
use crate::write::{NewInterface, NewPacket, PcapngWriter};

/// A pcap's header: order and unit by its magic number.
fn classic(magic: u32, big: bool, link_type: u32, packets: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let version = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
    let mut file = [word(magic), version, [0; 4], [0; 4], word(65_535), word(link_type)].concat();
    for (seconds, fraction, length, bytes) in packets {
        for value in [*seconds, *fraction, bytes.len() as u32, *length] {
            file.extend(word(value));
        }
        file.extend(*bytes);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])
}

/// All packets, and how it ended.
fn read_all(file: &[u8]) -> (Vec<Packet>, Result<(), ReadError>) {
    let mut reader = match CaptureReader::begin(file) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut packets = Vec::new();
    let mut packet = Packet::default();
    loop {
        match reader.read_packet(&mut packet) {
            Ok(true) => packets.push(packet.clone()),
            Ok(false) => return (packets, Ok(())),
            Err(error) => return (packets, Err(error)),
        }
    }
}

#[test]
fn a_pcap_is_read_in_both_byte_orders_and_both_units() {
    for (magic, unit_ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
        for big in [false, true] {
            let file = classic(magic, big, 1, &[(7, 9, 100, b"abc"), (8, 0, 2, b"de")]);
            let (packets, ended) = read_all(&file);
            ended.unwrap();
            assert_eq!(packets.len(), 2);
            assert_eq!(packets[0].time_ns, Some(7_000_000_000 + 9 * unit_ns));
            assert_eq!((packets[0].length, &*packets[0].bytes), (100, &b"abc"[..]));
            assert_eq!(&*packets[1].bytes, b"de");
        }
    }
}

#[test]
fn what_was_whole_before_a_cut_is_read_and_the_cut_is_said() {
    let file = classic(0xa1b2_c3d4, false, 1, &[(1, 0, 3, b"abc"), (2, 0, 3, b"def")]);
    for cut in 24 + 16 + 3 + 1..file.len() {
        let (packets, ended) = read_all(&file[..cut]);
        assert_eq!(packets.len(), 1, "cut at {cut}");
        assert!(matches!(ended, Err(ReadError::Truncated { at, .. }) if at == cut as u64), "{ended:?}");
    }
}

#[test]
fn what_is_no_capture_is_refused_with_what_it_is() {
    for (file, says) in [
        (&b""[..], "it is empty"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"apiVersion: v1", "neither"),
        (b"\xd4\xc3", "ends inside its first four bytes"),
    ] {
        let (_, ended) = read_all(file);
        assert!(ended.unwrap_err().to_string().contains(says), "{says}");
    }
}

#[test]
fn a_packet_longer_than_any_can_be_is_damage_and_takes_no_memory() {
    let mut file = classic(0xa1b2_c3d4, false, 1, &[(1, 0, 3, b"abc")]);
    file.extend([2, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    let (packets, ended) = read_all(&file);
    assert_eq!(packets.len(), 1);
    assert!(matches!(ended, Err(ReadError::Damaged { at: 43, .. })), "{ended:?}");
}

#[test]
fn interfaces_of_pcapng_have_names_resolutions_and_offsets_of_their_own() {
    let option = |code: u16, value: &[u8]| {
        let mut bytes = [code.to_le_bytes(), (value.len() as u16).to_le_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let interface = |link_type: u16, options: &[Vec<u8>]| {
        let head = [&link_type.to_le_bytes()[..], &[0, 0], &[0, 0, 4, 0]].concat();
        block(1, &iter::once(&head).chain(options).flatten().copied().collect::<Vec<_>>())
    };
    let packet = |interface: u32, ticks: u64, options: &[Vec<u8>]| {
        let words = [interface, (ticks >> 32) as u32, ticks as u32, 3, 60];
        let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        body.extend(b"abc\0");
        body.extend(options.concat());
        block(6, &body)
    };
    let file = [
        section(),
        interface(1, &[option(2, b"eth0"), option(9, &[9])]),
        // Sixty-fourths of a second, and an hour later.
        interface(101, &[option(9, &[0x86]), option(14, &3600_u64.to_le_bytes())]),
        interface(276, &[]),
        packet(0, 5, &[option(1, b"so \x1b[31mred"), option(2, &[2, 0, 0, 0])]),
        packet(1, 65, &[]),
        packet(2, 7, &[option(2, &[1, 0, 0, 0])]),
        block(0x0000_0bad, &[0; 40]),
        block(5, &[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(5, &9_u64.to_le_bytes())].concat()),
        section(),
        interface(101, &[]),
        packet(0, 1, &[]),
    ]
    .concat();
    let (packets, ended) = read_all(&file);
    ended.unwrap();
    let times: Vec<_> = packets.iter().map(|packet| packet.time_ns.unwrap()).collect();
    assert_eq!(times, [5, 3601 * 1_000_000_000 + 15_625_000, 7000, 1000]);
    assert_eq!(packets.iter().map(|packet| packet.interface).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(packets[0].way, Some(Way::Out));
    assert_eq!(packets[2].way, Some(Way::In));
    assert_eq!(packets[0].comments, ["so  [31mred"]);
    assert_eq!((packets[0].length, &*packets[0].bytes), (60, &b"abc"[..]));

    let mut reader = CaptureReader::begin(&*file).unwrap();
    while reader.read_packet(&mut Packet::default()).unwrap() {}
    let interfaces = reader.interfaces();
    assert_eq!(interfaces[0].name.as_deref(), Some("eth0"));
    let links: Vec<_> = interfaces.iter().map(|interface| interface.link_type).collect();
    assert_eq!(links, [ETHERNET, RAW, COOKED_2, RAW]);
    assert_eq!(interfaces[1].dropped, 9);
}

#[test]
fn a_block_that_contradicts_itself_ends_the_file_with_its_place() {
    let interface = block(1, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let whole = [section(), interface].concat();
    for (bad, says) in [
        (block(6, &[9; 20]), "contradicts itself"),
        (block(6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0]), "contradicts itself"),
        ([&6_u32.to_le_bytes()[..], &[13, 0, 0, 0, 0]].concat(), "a block of 13 bytes"),
        ([&6_u32.to_le_bytes()[..], &[0, 0, 0, 0x70]].concat(), "more than"),
        ([&9_u32.to_le_bytes()[..], &[16, 0, 0, 0], &[0; 4], &[20, 0, 0, 0]].concat(), "another length"),
    ] {
        let (packets, ended) = read_all(&[&whole[..], &bad].concat());
        assert!(packets.is_empty());
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(&format!("byte {}", whole.len())), "{error}");
    }
}

#[test]
fn a_huge_block_of_another_kind_is_passed_over_and_not_kept() {
    let file = [section(), block(0xbad, &vec![0; 3 << 20]), block(1, &[1, 0, 0, 0, 0, 0, 0, 0])].concat();
    let (packets, ended) = read_all(&file);
    ended.unwrap();
    assert!(packets.is_empty());
}

#[test]
fn what_the_writer_writes_is_read_as_it_was() {
    let mut file = Vec::new();
    let mut writer = PcapngWriter::begin(&mut file, "tracer", "all of it").unwrap();
    let interface = NewInterface {
        link_type: RAW,
        snaplen: 96,
        name: "n1/tunl0/egress",
        description: "node n1",
        custom_text: Some((32_473, "{}")),
        custom: None,
    };
    let number = writer.add_interface(&interface).unwrap();
    let packet = NewPacket {
        interface: number,
        time_ns: 1_795_313_343_000_000_001,
        length: 1500,
        bytes: b"Hello",
        way: Some(Way::Out),
        comment: "hop 1 of 2",
        custom_text: None,
        custom: Some((32_473, b"\x01\x02\x03")),
    };
    writer.packet(&packet).unwrap();
    writer.note(32_473, b"not a packet").unwrap();
    writer
        .names(&[("10.0.0.1".parse().unwrap(), "curl.default"), ("fd00::1".parse().unwrap(), "web")])
        .unwrap();
    writer.statistics(number, 1_795_313_344_000_000_000, 10, 3, "").unwrap();
    writer.flush().unwrap();

    let (packets, ended) = read_all(&file);
    ended.unwrap();
    let expected = Packet {
        interface: 0,
        time_ns: Some(1_795_313_343_000_000_001),
        length: 1500,
        bytes: b"Hello".to_vec(),
        way: Some(Way::Out),
        comments: vec!["hop 1 of 2".to_owned()],
        custom: vec![Custom { enterprise: 32_473, value: b"\x01\x02\x03".to_vec() }],
    };
    assert_eq!(packets, [expected]);

    let mut reader = CaptureReader::begin(&*file).unwrap();
    let (mut packet, mut note) = (Packet::default(), Custom::default());
    assert_eq!(reader.read_item(&mut packet, &mut note).unwrap(), Item::Packet);
    assert_eq!(reader.interfaces()[0].custom, [Custom { enterprise: 32_473, value: b"{}".to_vec() }]);
    assert_eq!(reader.read_item(&mut packet, &mut note).unwrap(), Item::Note);
    assert_eq!((note.enterprise, &*note.value), (32_473, &b"not a packet"[..]));
    assert_eq!(reader.read_item(&mut packet, &mut note).unwrap(), Item::End);
    assert_eq!(reader.interfaces()[0].dropped, 3);
}
