//! All conversations: what leads to them, their timers, and how much of them is kept.

use std::collections::{BTreeSet, HashMap};

use crate::trajectory::exchange::conversation::{Conversation, Open};
use crate::trajectory::exchange::model::{Ending, Exchange};
use crate::trajectory::exchange::tcp::is_syn;
use crate::trajectory::exchange::tuple::{self, Key, Tuple, is_from_requester};
use crate::trajectory::hash::FastState;
use crate::trajectory::model::Trajectory;

/// Tuples that lead to one conversation at most: NAT adds a few.
const MAX_TUPLES: usize = 16;

/// Times in nanoseconds of the observer's clock.
#[derive(Clone, Debug)]
pub struct Config {
    /// A packet is read this long after it was reported, so that what happened before it has been reported too. Longer
    /// than the correlator's grace time.
    pub hold_ns: u64,
    /// Nothing came for this long: an answered exchange ends, another is shown as far as it is.
    pub quiet_ns: u64,
    /// An exchange that goes on and on is shown as far as it is this often.
    pub busy_ns: u64,
    /// A request waits this long for its answer.
    pub patience_ns: u64,
    /// Time passes by no more than this from one call of [`Exchanges::advance`] to the next: an observer that was held up has
    /// told of nothing meanwhile, and what it took in comes next. That is no silence of the packets.
    pub most_step_ns: u64,
    /// Most conversations at a time; the one that was quiet longest is ended for the next.
    pub max_conversations: usize,
    /// Most packets in memory, of all conversations together.
    pub max_packets: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hold_ns: 400_000_000,
            quiet_ns: 1_000_000_000,
            busy_ns: 2_000_000_000,
            patience_ns: 30_000_000_000,
            most_step_ns: u64::MAX,
            max_conversations: 4_096,
            max_packets: 32_768,
        }
    }
}

/// What is to be shown.
#[derive(Clone, Copy, Debug)]
pub enum Finding<'a> {
    /// An exchange that has ended, or paused with members that were not shown before.
    Exchange(&'a Exchange),
    /// A packet of no exchange, or one that did not arrive and of which its exchange has no room to tell.
    Lone(&'a Trajectory),
}

/// What became of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Exchanges that have ended.
    pub exchanges: u64,
    /// Exchanges that were ended early because memory was needed for others.
    pub evicted: u64,
    /// Packets that their exchange had no room for.
    pub left_out: u64,
    /// Packets of no exchange.
    pub lone: u64,
}

/// See the module's documentation.
pub struct Exchanges {
    config: Config,
    conversations: HashMap<u64, Conversation, FastState>,
    /// To a conversation, and whether the tuple is that of its requester.
    by_tuple: HashMap<Tuple, (u64, bool), FastState>,
    /// When to look at a conversation, and which.
    due: BTreeSet<(u64, u64)>,
    due_of: HashMap<u64, u64, FastState>,
    by_touch: BTreeSet<(u64, u64)>,
    packets: usize,
    now_ns: u64,
    last_conversation: u64,
    last_exchange: u64,
    counters: Counters,
}

impl Exchanges {
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            conversations: HashMap::default(),
            by_tuple: HashMap::default(),
            due: BTreeSet::new(),
            due_of: HashMap::default(),
            by_touch: BTreeSet::new(),
            packets: 0,
            now_ns: 0,
            last_conversation: 0,
            last_exchange: 0,
            counters: Counters::default(),
        }
    }

    /// See [`Config::most_step_ns`].
    pub fn step_by(&mut self, most_ns: u64) {
        self.config.most_step_ns = most_ns;
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Packets in memory.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Takes in a trajectory.
    pub fn push(&mut self, trajectory: Trajectory, emit: &mut dyn FnMut(Finding<'_>)) {
        let keys = tuple::keys(&trajectory);
        let Some((first, ..)) = trajectory.beginning().filter(|_| !keys.is_empty()) else {
            self.counters.lone += 1;
            emit(Finding::Lone(&trajectory));
            return;
        };
        let mut found = self.find(&keys);
        let begins = (first.protocol == tuple::TCP && is_syn(first)).then_some(first.sequence);
        if let Some((id, _)) = found
            && begins.is_some()
            && self.conversations.get(&id).is_some_and(|known| known.is_older_than(begins))
        {
            // The ports are used again.
            self.forget(id, Ending::Complete, emit);
            found = None;
        }
        let (id, from_requester) = found.unwrap_or_else(|| {
            let asks = is_from_requester(first);
            self.last_conversation += 1;
            self.conversations.insert(self.last_conversation, Conversation::new(first));
            (self.last_conversation, asks)
        });
        self.remember(id, &keys, from_requester);
        self.touch(id);
        let until_ns = self.now_ns + self.config.hold_ns;
        if let Some(conversation) = self.conversations.get_mut(&id) {
            conversation.hold(trajectory, from_requester, until_ns);
            self.packets += 1;
            if conversation.is_crowded() {
                self.read(id, u64::MAX, emit);
            }
        }
        self.look_at(id, until_ns);
        self.make_room(emit);
    }

    /// Tells the time: what is due is read, shown, ended.
    pub fn advance(&mut self, now_ns: u64, emit: &mut dyn FnMut(Finding<'_>)) {
        let most_ns =
            if self.now_ns == 0 { now_ns } else { self.now_ns.saturating_add(self.config.most_step_ns) };
        self.now_ns = self.now_ns.max(now_ns.min(most_ns));
        while let Some(&(at_ns, id)) = self.due.first()
            && at_ns <= self.now_ns
        {
            self.due.pop_first();
            self.due_of.remove(&id);
            self.read(id, self.now_ns, emit);
            self.attend(id, emit);
        }
    }

    /// Ends everything.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Finding<'_>)) {
        while let Some(&(_, id)) = self.by_touch.first() {
            self.forget(id, Ending::RunEnded, emit);
        }
    }

    fn find(&self, keys: &[Key]) -> Option<(u64, bool)> {
        keys.iter().find_map(|key| {
            let (id, is_requesters) = *self.by_tuple.get(&key.tuple)?;
            Some((id, key.asks.unwrap_or(is_requesters)))
        })
    }

    fn remember(&mut self, id: u64, keys: &[Key], from_requester: bool) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        for key in keys {
            if conversation.tuples.len() >= MAX_TUPLES || self.by_tuple.contains_key(&key.tuple) {
                continue;
            }
            self.by_tuple.insert(key.tuple, (id, from_requester));
            conversation.tuples.push(key.tuple);
            // Echo has one tuple for both ways, fragments go one way.
            if key.asks.is_none() && !key.is_of_fragments() {
                self.by_tuple.insert(key.tuple.reversed(), (id, !from_requester));
                conversation.tuples.push(key.tuple.reversed());
            }
        }
    }

    fn touch(&mut self, id: u64) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        self.by_touch.remove(&(conversation.touched_ns, id));
        conversation.touched_ns = self.now_ns;
        self.by_touch.insert((self.now_ns, id));
    }

    /// Sees to it that a conversation is looked at no later than then.
    fn look_at(&mut self, id: u64, at_ns: u64) {
        if let Some(&before) = self.due_of.get(&id) {
            if before <= at_ns {
                return;
            }
            self.due.remove(&(before, id));
        }
        self.due.insert((at_ns, id));
        self.due_of.insert(id, at_ns);
    }

    fn read(&mut self, id: u64, until_ns: u64, emit: &mut dyn FnMut(Finding<'_>)) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        let before = conversation.held();
        let mut ended = Vec::new();
        let mut spare = Vec::new();
        conversation.read(
            until_ns,
            &mut self.last_exchange,
            &mut |exchange| ended.push(exchange),
            &mut |trajectory| spare.push(trajectory.clone()),
        );
        self.packets = self.packets + conversation.held() - before;
        for trajectory in &spare {
            emit(Finding::Lone(trajectory));
        }
        for exchange in ended {
            self.tell(&exchange, emit);
        }
    }

    /// What silence means for a conversation: shows what was not shown, ends what is over, forgets what is empty.
    fn attend(&mut self, id: u64, emit: &mut dyn FnMut(Finding<'_>)) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        if let Some(open) = conversation.open.as_mut()
            && open.is_silent_for(self.config.busy_ns, self.now_ns)
        {
            show(open, emit);
        }
        if let Some(at_ns) = conversation.reads_at_ns() {
            self.look_at(id, at_ns);
            return;
        }
        let quiet_ns = self.now_ns.saturating_sub(conversation.touched_ns);
        if quiet_ns < self.config.quiet_ns {
            let at_ns = conversation.touched_ns + self.config.quiet_ns;
            self.look_at(id, at_ns);
            return;
        }
        let Some(open) = conversation.open.as_mut() else {
            self.forget(id, Ending::Quiet, emit);
            return;
        };
        if open.waits_for_an_answer() && quiet_ns < self.config.patience_ns {
            show(open, emit);
            let at_ns = conversation.touched_ns + self.config.patience_ns;
            self.look_at(id, at_ns);
            return;
        }
        self.end(id, Ending::Quiet, emit);
        // An answer may go on later: a conversation by connection is remembered as long as a request may wait.
        let at_ns = self.now_ns + self.config.patience_ns;
        self.look_at(id, at_ns);
    }

    fn end(&mut self, id: u64, ending: Ending, emit: &mut dyn FnMut(Finding<'_>)) {
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        let before = conversation.held();
        let mut ended = None;
        conversation.end(ending, &mut |exchange| ended = Some(exchange));
        self.packets = self.packets + conversation.held() - before;
        if let Some(exchange) = ended {
            self.tell(&exchange, emit);
        }
    }

    fn tell(&mut self, exchange: &Exchange, emit: &mut dyn FnMut(Finding<'_>)) {
        self.counters.exchanges += 1;
        self.counters.left_out += exchange.left_out;
        self.counters.evicted += u64::from(exchange.ending == Some(Ending::Evicted));
        emit(Finding::Exchange(exchange));
    }

    /// Reads what waits, ends what is open, and lets go of a conversation.
    fn forget(&mut self, id: u64, ending: Ending, emit: &mut dyn FnMut(Finding<'_>)) {
        self.read(id, u64::MAX, emit);
        self.end(id, ending, emit);
        let Some(conversation) = self.conversations.remove(&id) else { return };
        self.by_touch.remove(&(conversation.touched_ns, id));
        if let Some(at_ns) = self.due_of.remove(&id) {
            self.due.remove(&(at_ns, id));
        }
        for tuple in &conversation.tuples {
            if self.by_tuple.get(tuple).is_some_and(|(owner, _)| *owner == id) {
                self.by_tuple.remove(tuple);
            }
        }
    }

    fn make_room(&mut self, emit: &mut dyn FnMut(Finding<'_>)) {
        while self.conversations.len() > self.config.max_conversations
            || self.packets > self.config.max_packets
        {
            let Some(&(_, oldest)) = self.by_touch.first() else { return };
            self.forget(oldest, Ending::Evicted, emit);
        }
    }
}

/// Shows what was not shown of an exchange that goes on.
fn show(open: &mut Open, emit: &mut dyn FnMut(Finding<'_>)) {
    if open.exchange.told < open.exchange.members.len() {
        open.exchange.judge();
        emit(Finding::Exchange(&open.exchange));
        open.mark_shown();
    }
}
