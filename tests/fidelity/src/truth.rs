//! The truth of a recording: which packets there were, which records are of which, and what became of each.
//!
//! It is made of the captures and of the relay's log, and shares nothing with the correlator. A packet is an *emission*:
//! what a capture saw leaving a pod's `eth0`. On the sender's node everything stems from the emissions of its pods; the
//! relay knows exactly which frame that came out is which that went in, so that on the other node everything stems from
//! the frames that were handed to it, each a *copy* of an emission or of a part of one. Within a node packets of equal
//! content keep their order ([`label`]).

mod label;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tracer_integration::{Seen, Transport};
use tracer_lab::{Captured, CapturedPacket, Direction, Lab, RelayLog};

use self::label::{Glimpse, Source, Sources};
use crate::content::{Bytes, Content};
use crate::stream::Stream;

/// The copy number of what the sender's own node saw: there is one only, of which all copies were made.
pub(crate) const ORIGINAL: u8 = u8::MAX;

/// One packet or a piece of it, as the relay handed it on for the `copy`th time (from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) emission: u32,
    pub(crate) copy: u8,
}

/// One packet that a pod sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Emission {
    /// For explanations.
    pub(crate) what: String,
    pub(crate) bytes: Option<Bytes>,
    /// The first emission of the very same content, which may be itself: nothing that tracer reads tells the two apart.
    /// Acknowledgments that differ in their SACK blocks only are such.
    pub(crate) twin: u32,
    /// What the relay handed on or the own node delivered, by copy; empty if nothing came of it.
    pub(crate) copies: BTreeMap<u8, Arrived>,
    /// What the relay did to it, for explanations.
    pub(crate) on_the_wire: String,
}

/// What of a copy came to the `eth0` of the pod it was for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Arrived {
    pub(crate) whole: bool,
    /// It, or another of equal content: nobody can say which of them came.
    #[serde(default)]
    pub(crate) doubtful: bool,
    pub(crate) bytes: Vec<Bytes>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Truth {
    pub(crate) emissions: Vec<Emission>,
    /// By stream and number of the sighting: what it carried. Several where packets were merged, or where several of equal
    /// content cannot be told apart; none where the captures have no such packet.
    pub(crate) labels: [Vec<Vec<Carried>>; 2],
}

/// What a recording is judged by.
pub(crate) struct Evidence<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) captured: &'a Captured,
    pub(crate) relay: &'a RelayLog,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC, nanoseconds.
    pub(crate) wall_ns: u64,
    /// Labels of pods that came and may have gone, with their nodes: the lab knows only those that are there.
    pub(crate) visitors: &'a [(String, usize)],
}

impl Truth {
    /// Finds it out.
    ///
    /// # Errors
    /// When the evidence is incomplete or contradicts itself.
    pub(crate) fn establish(evidence: &Evidence<'_>, streams: &[Stream; 2]) -> Result<Self> {
        let Evidence { captured, relay, .. } = evidence;
        ensure!(captured.dropped == 0, "the captures lost {} packets: they are no truth", captured.dropped);
        ensure!(relay.failed == 0, "the relay failed for {} frames: its log is no truth", relay.failed);
        let seen = evidence.at_pods()?;
        let mut emissions = Vec::new();
        let mut sources = [Sources::default(), Sources::default()];
        let mut payloads = Vec::new();
        let mut twins = BTreeMap::new();
        for (node, direction, glimpse, seen) in &seen {
            if *direction == Direction::Egress {
                let carried = Carried { emission: emissions.len() as u32, copy: ORIGINAL };
                sources[*node].add(Source {
                    time_ns: glimpse.time_ns,
                    content: glimpse.content.clone(),
                    carried,
                });
                // NAT changes what an ICMP error quotes.
                let payload: &[u8] = if is_icmp_error(seen) { &[] } else { &seen.payload };
                emissions.push(Emission {
                    what: describe(seen),
                    bytes: glimpse.content.bytes,
                    twin: *twins
                        .entry((*node, glimpse.content.kind.clone(), payload))
                        .or_insert(carried.emission),
                    copies: BTreeMap::new(),
                    on_the_wire: String::new(),
                });
                payloads.push(&seen.payload);
            }
        }
        add_departures(relay, &mut sources, &mut emissions, &payloads)?;
        sources.iter_mut().for_each(Sources::sort);
        note_arrivals(&seen, &sources, &mut emissions);
        let labels = [label_stream(&streams[0], &sources[0])?, label_stream(&streams[1], &sources[1])?];
        Ok(Self { emissions, labels })
    }
}

type AtPod = (usize, Direction, Glimpse, Seen);

impl Evidence<'_> {
    /// What passed the pods' own devices, with the pod's node.
    fn at_pods(&self) -> Result<Vec<AtPod>> {
        let lab = self.lab;
        let living = lab.pods().iter().map(|pod| {
            let node = lab.node_of(pod);
            (pod.label(), lab.nodes().iter().position(|other| other.name() == node.name()).unwrap_or(0))
        });
        let nodes: BTreeMap<String, usize> = living.chain(self.visitors.iter().cloned()).collect();
        let mut seen = Vec::new();
        for packet in &self.captured.packets {
            let Some(&node) = nodes.get(&*packet.place) else { continue };
            let Some(parsed) = Seen::parse(packet)? else { continue };
            if is_neighbour_discovery(&parsed) {
                continue;
            }
            let time_ns = packet.time_ns.saturating_sub(self.wall_ns);
            let place = packet.place.to_string();
            let glimpse = Glimpse { place, time_ns, content: Content::captured(&parsed) };
            seen.push((node, packet.direction, glimpse, parsed));
        }
        Ok(seen)
    }
}

/// Follows the emissions through the relay: what it handed on is where the other node's packets come from.
fn add_departures(
    relay: &RelayLog,
    sources: &mut [Sources; 2],
    emissions: &mut [Emission],
    payloads: &[&Vec<u8>],
) -> Result<()> {
    sources.iter_mut().for_each(Sources::sort);
    let mut frames = Vec::new();
    for (number, arrival) in relay.arrivals.iter().enumerate() {
        let packet = CapturedPacket {
            place: "the wire".into(),
            device: "relay".into(),
            ifindex: 0,
            direction: Direction::Ingress,
            time_ns: arrival.time_ns,
            hardware: 1,
            bytes: arrival.frame.to_vec(),
        };
        if let Some(seen) = Seen::parse(&packet)? {
            let glimpse = Glimpse {
                place: "the wire".to_owned(),
                time_ns: arrival.time_ns,
                content: Content::captured(&seen),
            };
            frames.push((number, glimpse, seen));
        }
    }
    let mut carried_by: BTreeMap<usize, Vec<Carried>> = BTreeMap::new();
    for (from, source) in sources.iter().enumerate() {
        let of_node: Vec<_> =
            frames.iter().filter(|(number, ..)| relay.arrivals[*number].from == from).collect();
        let labels = source.label(&of_node.iter().map(|(_, glimpse, _)| glimpse).collect::<Vec<_>>());
        for ((number, _, seen), labels) in of_node.into_iter().zip(labels) {
            for carried in &labels {
                let payload = payloads[carried.emission as usize];
                let is_part = is_icmp_error(seen)
                    || seen.payload.is_empty()
                    || payload.windows(seen.payload.len()).any(|window| window == seen.payload);
                ensure!(
                    is_part,
                    "the truth is wrong: {} is no part of {}",
                    describe(seen),
                    emissions[carried.emission as usize].what
                );
                let note = format!("{:?} ", relay.arrivals[*number].fate);
                let known = &mut emissions[carried.emission as usize].on_the_wire;
                if known.len() < 200 {
                    known.push_str(&note);
                }
            }
            carried_by.insert(*number, labels);
        }
    }
    let contents: BTreeMap<usize, &Content> =
        frames.iter().map(|(number, glimpse, _)| (*number, &glimpse.content)).collect();
    let mut copies: BTreeMap<usize, u8> = BTreeMap::new();
    for departure in &relay.departures {
        let Some(content) = contents.get(&departure.arrival) else { continue };
        let copy = copies.entry(departure.arrival).or_default();
        let to = 1 - relay.arrivals[departure.arrival].from;
        for carried in carried_by.get(&departure.arrival).into_iter().flatten() {
            let carried = Carried { copy: *copy, ..*carried };
            emissions[carried.emission as usize].copies.entry(*copy).or_default();
            sources[to].add(Source { time_ns: departure.time_ns, content: (*content).clone(), carried });
        }
        *copy += 1;
    }
    Ok(())
}

/// Notes what came to the pods.
fn note_arrivals(seen: &[AtPod], sources: &[Sources; 2], emissions: &mut [Emission]) {
    let places: BTreeSet<(usize, &str)> =
        seen.iter().map(|(node, _, glimpse, _)| (*node, glimpse.place.as_str())).collect();
    for (node, place) in places {
        let here: Vec<_> = seen
            .iter()
            .filter(|(_, direction, glimpse, _)| *direction == Direction::Ingress && glimpse.place == place)
            .map(|(_, _, glimpse, _)| glimpse)
            .collect();
        for (glimpse, labels) in here.iter().zip(sources[node].label(&here)) {
            let doubtful = labels.len() > 1 && glimpse.content.bytes.is_none();
            for carried in labels {
                let emission = &mut emissions[carried.emission as usize];
                let copy = if carried.copy == ORIGINAL { 0 } else { carried.copy };
                let arrived = emission.copies.entry(copy).or_default();
                arrived.whole = true;
                arrived.doubtful = doubtful;
                arrived.bytes.extend(glimpse.content.bytes);
            }
        }
    }
}

/// What every sighting of a stream carried, point by point.
fn label_stream(stream: &Stream, sources: &Sources) -> Result<Vec<Vec<Carried>>> {
    let mut by_point: BTreeMap<u32, Vec<(usize, Glimpse)>> = BTreeMap::new();
    for (number, sighted) in stream.sightings().enumerate() {
        let place = stream.point(sighted)?.device.to_string();
        let glimpse =
            Glimpse { place, time_ns: sighted.time_ns, content: Content::recorded(&sighted.packet) };
        by_point.entry(sighted.point).or_default().push((number, glimpse));
    }
    let mut labels = vec![Vec::new(); stream.sightings().count()];
    for here in by_point.values() {
        let found = sources.label(&here.iter().map(|(_, glimpse)| glimpse).collect::<Vec<_>>());
        for ((number, _), found) in here.iter().zip(found) {
            labels[*number] = found;
        }
    }
    Ok(labels)
}

fn is_icmp_error(seen: &Seen) -> bool {
    matches!(seen.transport, Transport::Icmp { r#type, .. } if ![0, 8, 128, 129].contains(&r#type))
}

fn is_neighbour_discovery(seen: &Seen) -> bool {
    matches!(seen.transport, Transport::Icmp { r#type: 133..=137, .. }) && seen.src.ip.is_ipv6()
}

fn describe(seen: &Seen) -> String {
    format!(
        "{} > {} protocol {} id {:?} {:?} {} bytes",
        seen.src,
        seen.dst,
        seen.protocol,
        seen.identification,
        seen.transport,
        seen.payload.len()
    )
}
