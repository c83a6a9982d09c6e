//! What the nodes' own state says of the way between them, as `tracer path` finds it: expected hops, before a packet has
//! shown any.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use super::select::Selection;
use crate::app::{Failure, notice};
use crate::inventory::Inventory;
use crate::kubernetes::agents::Agents;
use crate::node::site::Site;
use crate::path::ask::{Asked, between_nodes};
use crate::path::expected::expected;
use crate::path::halves::{path_here, path_of_agents};
use crate::trajectory::expect::topology::PlannedWay;

/// Most pairs of nodes that are looked at: a follow of many pods learns the others from its packets.
const MAX_PAIRS: usize = 16;

/// The ways between nodes of which one at least is this machine. What is on another machine is not seen from here:
/// packets show it.
pub(super) fn ways_here(site: &Site, kernel: &str, selection: &Selection) -> Vec<PlannedWay> {
    let asked = site.names().with(|inventory| between_nodes(inventory, selection, MAX_PAIRS));
    let paths = asked.into_iter().filter_map(|asked| path_here(site, kernel, asked).ok());
    paths.flat_map(|path| expected(&path)).collect()
}

/// Asks agents for ways, of each pair of nodes once.
pub(super) struct Ways {
    agents: Agents,
    known: BTreeSet<(String, String)>,
    found: mpsc::Sender<Vec<PlannedWay>>,
}

impl Ways {
    /// What is found comes through the receiver.
    pub(super) fn new(agents: Agents) -> (Self, mpsc::Receiver<Vec<PlannedWay>>) {
        let (found, receiver) = mpsc::channel(MAX_PAIRS);
        (Self { agents, known: BTreeSet::new(), found }, receiver)
    }

    /// Asks for what is new.
    pub(super) fn ask(&mut self, inventory: &Inventory, selection: &Selection) {
        let room = MAX_PAIRS.saturating_sub(self.known.len());
        if room == 0 {
            return;
        }
        for asked in between_nodes(inventory, selection, MAX_PAIRS).into_iter().take(room) {
            let Some(pair) = asked.from.node.clone().zip(asked.to.node.clone()) else { continue };
            if self.known.insert(pair) {
                tokio::spawn(find(self.agents.clone(), asked, self.found.clone()));
            }
        }
    }
}

async fn find(agents: Agents, asked: Asked, found: mpsc::Sender<Vec<PlannedWay>>) {
    let between = [&asked.from, &asked.to].map(|end| end.node.clone().unwrap_or_default());
    let ways = match path_of_agents(&agents, asked).await {
        Ok(path) => expected(&path),
        Err(Failure::Failed(why) | Failure::Usage(why)) => {
            notice(&format!(
                "note: which devices are between {} and {} is not known before packets show it: {why}",
                between[0], between[1]
            ));
            return;
        }
        Err(Failure::BrokenPipe) => return,
    };
    // Nobody listens any more: the follow is over.
    let _ = found.send(ways).await;
}
