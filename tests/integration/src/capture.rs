//! What is in a pcapng file, as the crate pcap-file reads it, and as `tracer read` does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::Block;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;

use crate::told::Trajectory;

/// A file.
#[derive(Debug, Default)]
pub struct CaptureFile {
    pub packets: Vec<FilePacket>,
    /// Packets that the capture lost, by interface, where it says so.
    pub dropped: BTreeMap<String, u64>,
}

/// A packet in it.
#[derive(Clone, Debug)]
pub struct FilePacket {
    /// The interface's name.
    pub interface: String,
    /// Begins with an Ethernet header.
    pub ethernet: bool,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes that it had.
    pub length: u32,
    pub bytes: Vec<u8>,
    pub comment: String,
}

impl CaptureFile {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// It is no pcapng, or not a whole one.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut reader = PcapNgReader::new(BufReader::new(file)).context("not a pcapng file")?;
        let mut all = Self::default();
        let mut interfaces: Vec<(String, bool)> = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.context("a block of the file")? {
                Block::InterfaceDescription(interface) => {
                    let name = interface.options.iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    });
                    interfaces.push((name.unwrap_or_default(), interface.linktype == DataLink::ETHERNET));
                }
                Block::EnhancedPacket(packet) => {
                    let (interface, ethernet) =
                        interfaces.get(packet.interface_id as usize).context("no such interface")?.clone();
                    let comment = packet.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                        _ => None,
                    });
                    all.packets.push(FilePacket {
                        interface,
                        ethernet,
                        time_ns: u64::try_from(packet.timestamp.as_nanos())?,
                        length: packet.original_len,
                        bytes: packet.data.into_owned(),
                        comment: comment.unwrap_or_default(),
                    });
                }
                Block::InterfaceStatistics(statistics) => {
                    let (name, _) =
                        interfaces.get(statistics.interface_id as usize).context("no such interface")?;
                    let dropped = statistics.options.iter().find_map(|option| match option {
                        InterfaceStatisticsOption::IsbIfDrop(count) => Some(*count),
                        _ => None,
                    });
                    *all.dropped.entry(name.clone()).or_default() += dropped.unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

/// The trajectories that `tracer read -o json` told.
///
/// # Panics
/// When it failed, or a line is not as `docs/json.md` says.
#[must_use]
pub fn trajectories(output: &Output) -> Vec<Trajectory> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout);
    let of_a_packet = lines.lines().filter(|line| line.contains("\"tracer.trajectory/v1\""));
    of_a_packet
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}
