//! Which traces are armed, in which slot, who may have their records, and what is said of each. Pure: times are
//! arguments, and what a trace's names stand for is told by whoever has asked the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::request::{Request, TraceKey, Wanted};
use super::verify::nobody;
use crate::agent::bytes::CaptureBytes;
use crate::agent::filters::FollowFilter;
use crate::agent::slots::{Slot, Slots};
use crate::host::plan::Scope;
use crate::kubernetes::packet_trace::{AgentStatus, PacketTrace, TraceState};
use crate::kubernetes::secret::SecretHash;
use crate::trajectory::model::PodRef;

/// Most traces that are known at a time; each takes a few KiB, and no more than [`tracer_common::MAX_FOLLOWS`] are
/// armed.
const MOST_TRACES: usize = 4096;

/// Whose addresses a request's names stand for, as the API server says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Of the followed pods, and of the Services by which they are reached.
    pub addresses: BTreeSet<IpAddr>,
    /// Of the followed pods' nodes, where packets may be masqueraded.
    pub masqueraded: BTreeSet<IpAddr>,
    /// The followed pods.
    pub pods: BTreeSet<PodRef>,
    /// Pods of this node at the other end.
    pub peers: BTreeSet<PodRef>,
}

/// Why the records of a trace are not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Also where there is a trace and the secret is wrong: who does not know it learns nothing.
    #[error("no PacketTrace of this name, uid and secret is armed here")]
    Unknown,
    #[error("the PacketTrace is refused: {0}")]
    Refused(String),
    #[error("the PacketTrace has expired")]
    Expired,
    /// Ask again.
    #[error("the PacketTrace is not armed yet")]
    NotYet,
}

/// Whom records of a trace go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub slot: Slot,
    /// CLOCK_MONOTONIC, nanoseconds: nothing was recorded before.
    pub since_ns: u64,
}

#[derive(Debug)]
struct Trace {
    generation: i64,
    /// `None` where its words are wrong.
    request: Option<Request>,
    standing: Standing,
    /// What the verified names stood for when it was armed, with the request that they are of.
    armed: Option<Armed>,
    /// As last told, in its status.
    told: Option<AgentStatus>,
    /// Its object is being removed.
    outlived: bool,
}

#[derive(Debug)]
struct Armed {
    slot: Slot,
    since_ns: u64,
    wanted: Wanted,
    verified: Verified,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// The API server is being asked.
    Unverified,
    Armed,
    Refused(String),
    Expired,
}

/// All traces that concern one node.
#[derive(Debug)]
pub struct Traces {
    node: String,
    slots: Slots,
    all: BTreeMap<TraceKey, Trace>,
    /// What is to be said of those for which there was no room.
    turned_away: Vec<(TraceKey, AgentStatus)>,
}

impl Traces {
    /// For the agent of a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), slots: Slots::default(), all: BTreeMap::new(), turned_away: Vec::new() }
    }

    /// Takes in a trace that is new or has changed. Returns what is to be verified, see [`Traces::settle`]. Times: the
    /// wall clock in seconds since 1970, CLOCK_MONOTONIC in nanoseconds.
    pub fn put(&mut self, trace: &PacketTrace, now_s: i64, now_ns: u64) -> Option<(TraceKey, Wanted)> {
        let key = TraceKey::of(trace)?;
        let generation = trace.metadata.generation.unwrap_or_default();
        let known = self.all.get(&key);
        if known.is_some_and(|known| known.generation == generation) {
            return None;
        }
        // A trace that came before and concerned this node may do so no more.
        let concerns = trace.spec.nodes.is_empty() || trace.spec.nodes.contains(&self.node);
        let told = trace.status.as_ref().and_then(|status| status.agents.get(&self.node)).cloned();
        if !concerns {
            self.remove(&key, now_ns);
            return None;
        }
        if known.is_none() && self.all.len() >= MOST_TRACES {
            self.turn_away(key, told.as_ref(), generation);
            return None;
        }
        let entry = self.all.entry(key.clone()).or_insert_with(|| Trace {
            generation,
            request: None,
            standing: Standing::Unverified,
            armed: None,
            told,
            outlived: false,
        });
        entry.generation = generation;
        match Request::read(trace, now_s) {
            Err(why) => {
                entry.request = None;
                self.refuse(&key, why, now_ns);
                None
            }
            Ok(request) if request.expires_s <= now_s => {
                entry.request = Some(request);
                self.end(&key, Standing::Expired, now_ns);
                None
            }
            Ok(request) => {
                let wanted = request.wanted.clone();
                let is_armed_so = entry.standing == Standing::Armed
                    && entry.armed.as_ref().is_some_and(|armed| armed.wanted == wanted);
                entry.request = Some(request);
                // Only its end has moved.
                if is_armed_so {
                    return None;
                }
                // What was verified before goes on until this is.
                if entry.standing != Standing::Armed {
                    entry.standing = Standing::Unverified;
                }
                Some((key, wanted))
            }
        }
    }

    /// Forgets a trace that is gone.
    pub fn remove(&mut self, key: &TraceKey, now_ns: u64) {
        if let Some(armed) = self.all.remove(key).and_then(|trace| trace.armed) {
            self.slots.give_back(armed.slot, now_ns);
        }
    }

    /// Forgets all that are not in a complete list.
    pub fn retain(&mut self, listed: &BTreeSet<TraceKey>, now_ns: u64) {
        let gone: Vec<_> = self.all.keys().filter(|key| !listed.contains(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key, now_ns));
    }

    /// Arms a trace, or refuses it, as its names were verified. An answer to a question of before changes nothing.
    /// All records from before `read_until_ns` have been read.
    pub fn settle(
        &mut self,
        key: &TraceKey,
        wanted: &Wanted,
        verified: Result<Verified, String>,
        read_until_ns: u64,
        now_ns: u64,
    ) {
        let Some(trace) = self.all.get_mut(key) else { return };
        let is_current = trace.request.as_ref().is_some_and(|request| request.wanted == *wanted);
        if !is_current || trace.standing == Standing::Expired {
            return;
        }
        let verified = match verified {
            // Pods that have gone since it was armed may be followed by others: the client says which.
            Ok(verified) if verified.pods.is_empty() && trace.armed.is_none() => {
                return self.refuse(key, nobody(key, wanted), now_ns);
            }
            Ok(verified) => verified,
            Err(why) => return self.refuse(key, why, now_ns),
        };
        let (slot, since_ns) = match &trace.armed {
            Some(armed) => (armed.slot, armed.since_ns),
            None => match self.slots.take(read_until_ns) {
                Some(slot) => (slot, now_ns),
                None => {
                    let most = tracer_common::MAX_FOLLOWS;
                    let why = format!(
                        "{most} traces are armed on this node, and more the kernel side does not hold"
                    );
                    return self.refuse(key, why, now_ns);
                }
            },
        };
        trace.armed = Some(Armed { slot, since_ns, wanted: wanted.clone(), verified });
        trace.standing = Standing::Armed;
    }

    /// Ends what has expired. Returns whether anything has.
    pub fn expire(&mut self, now_s: i64, now_ns: u64) -> bool {
        let is_over = |trace: &Trace| {
            trace.standing != Standing::Expired
                && trace.request.as_ref().is_some_and(|request| request.expires_s <= now_s)
        };
        let over: Vec<_> =
            self.all.iter().filter(|(_, trace)| is_over(trace)).map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.end(key, Standing::Expired, now_ns));
        !over.is_empty()
    }

    /// Those that had expired by then, seconds since 1970, each once: their objects are to be removed.
    pub fn take_outlived(&mut self, by_s: i64) -> Vec<TraceKey> {
        let mut outlived = Vec::new();
        for (key, trace) in &mut self.all {
            let is_outlived = trace.standing == Standing::Expired
                && trace.request.as_ref().is_some_and(|request| request.expires_s <= by_s);
            if is_outlived && !std::mem::replace(&mut trace.outlived, true) {
                outlived.push(key.clone());
            }
        }
        outlived
    }

    /// Those that are armed, to be verified again: pods come and go.
    pub fn armed(&self) -> impl Iterator<Item = (&TraceKey, &Wanted)> {
        self.all.iter().filter_map(|(key, trace)| {
            let armed = trace.armed.as_ref().filter(|_| trace.standing == Standing::Armed)?;
            Some((key, &armed.wanted))
        })
    }

    /// Whether a trace is still what someone was admitted to.
    #[must_use]
    pub fn holds(&self, key: &TraceKey, slot: Slot) -> bool {
        self.all.get(key).is_some_and(|trace| {
            trace.standing == Standing::Armed && trace.armed.as_ref().is_some_and(|armed| armed.slot == slot)
        })
    }

    /// Whether records are given to someone who knows this secret.
    ///
    /// # Errors
    /// [`Refusal`]; without the secret it is always the same.
    pub fn admit(&self, key: &TraceKey, secret: &[u8]) -> Result<Admission, Refusal> {
        let trace = self.all.get(key).ok_or(Refusal::Unknown)?;
        // While it is armed, of the secret that was verified with all else: another one may come without the rights.
        let armed = trace.armed.as_ref().map(|armed| &armed.wanted);
        let wanted = armed.or(trace.request.as_ref().map(|request| &request.wanted));
        let hash: Option<SecretHash> = wanted.map(|wanted| wanted.secret);
        if !hash.is_some_and(|hash| hash.is_of(secret)) {
            return Err(Refusal::Unknown);
        }
        match (&trace.standing, &trace.armed) {
            (Standing::Armed, Some(armed)) => Ok(Admission { slot: armed.slot, since_ns: armed.since_ns }),
            (Standing::Refused(why), _) => Err(Refusal::Refused(why.clone())),
            (Standing::Expired, _) => Err(Refusal::Expired),
            (Standing::Unverified | Standing::Armed, _) => Err(Refusal::NotYet),
        }
    }

    /// What the kernel is to record.
    #[must_use]
    pub fn filters(&self) -> Vec<(Slot, FollowFilter)> {
        self.all
            .values()
            .filter_map(|trace| trace.armed.as_ref())
            .map(|armed| (armed.slot, armed.filter()))
            .collect()
    }

    /// How many are armed, refused and expired.
    #[must_use]
    pub fn count(&self) -> [usize; 3] {
        let count = |is: fn(&Standing) -> bool| self.all.values().filter(|trace| is(&trace.standing)).count();
        [
            count(|standing| *standing == Standing::Armed),
            count(|standing| matches!(standing, Standing::Refused(_))),
            count(|standing| *standing == Standing::Expired),
        ]
    }

    /// The devices where it is to.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let armed = || self.all.values().filter_map(|trace| trace.armed.as_ref());
        let pods = armed().flat_map(|armed| armed.verified.pods.union(&armed.verified.peers)).cloned();
        // This node's shared devices, if anybody asks for anything.
        let nodes = armed().next().map(|_| self.node.as_str().into());
        Scope { pods: Some(pods.collect()), nodes: Some(nodes.into_iter().collect()), all_devices: false }
    }

    /// How much of packets is given to those who follow a trace; `None`: their records alone.
    #[must_use]
    pub fn bytes(&self, key: &TraceKey) -> Option<CaptureBytes> {
        self.all.get(key)?.armed.as_ref()?.wanted.bytes
    }

    /// Whether a pod's devices are shown to those who follow a trace.
    #[must_use]
    pub fn shows(&self, key: &TraceKey, pod: &PodRef) -> bool {
        let armed = self.all.get(key).and_then(|trace| trace.armed.as_ref());
        armed.is_some_and(|armed| armed.verified.pods.contains(pod) || armed.verified.peers.contains(pod))
    }

    /// What is to be said in the traces' statuses, and counts as said.
    pub fn take_news(&mut self) -> Vec<(TraceKey, AgentStatus)> {
        let mut news = std::mem::take(&mut self.turned_away);
        for (key, trace) in &mut self.all {
            let (state, message) = match &trace.standing {
                Standing::Unverified => continue,
                Standing::Armed => (TraceState::Armed, String::new()),
                Standing::Refused(why) => (TraceState::Refused, why.clone()),
                Standing::Expired => (TraceState::Expired, String::new()),
            };
            let status = AgentStatus { state, message, observed_generation: trace.generation };
            let is_told = trace
                .told
                .as_ref()
                .is_some_and(|told| (told.state, &told.message) == (status.state, &status.message));
            if !is_told {
                trace.told = Some(status.clone());
                news.push((key.clone(), status));
            }
        }
        news
    }

    fn turn_away(&mut self, key: TraceKey, told: Option<&AgentStatus>, generation: i64) {
        let message = format!(
            "this agent knows {MOST_TRACES} PacketTraces already: delete some (kubectl get packettraces -A), and make this \
             one anew"
        );
        let status = AgentStatus { state: TraceState::Refused, message, observed_generation: generation };
        if told != Some(&status) {
            self.turned_away.push((key, status));
        }
    }

    fn refuse(&mut self, key: &TraceKey, why: String, now_ns: u64) {
        self.end(key, Standing::Refused(why), now_ns);
    }

    fn end(&mut self, key: &TraceKey, standing: Standing, now_ns: u64) {
        let Some(trace) = self.all.get_mut(key) else { return };
        trace.standing = standing;
        if let Some(armed) = trace.armed.take() {
            self.slots.give_back(armed.slot, now_ns);
        }
    }
}

impl Armed {
    fn filter(&self) -> FollowFilter {
        let mut a: BTreeSet<IpAddr> = self.verified.addresses.clone();
        if self.wanted.peers.is_some() {
            a.extend(&self.verified.masqueraded);
        }
        FollowFilter {
            a: a.into_iter().collect(),
            b: self.wanted.peers.clone(),
            protocols: self.wanted.protocols.clone(),
            ports: self.wanted.ports.clone(),
            capture: self.wanted.bytes,
        }
    }
}

#[cfg(test)]
mod tests;
