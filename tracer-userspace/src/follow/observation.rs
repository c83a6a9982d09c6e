//! Observing this machine for one selection. What is seen goes out as events; who takes them, and where, is not known
//! here.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::expected::ways_here;
use super::select::Selection;
use super::wanted::{ends_of, filter_of, pods_of, resolve, scope_of};
use crate::agent::attach::{AttachError, AttachMode};
use crate::agent::bytes::CaptureBytes;
use crate::agent::filters::FollowFilter;
use crate::agent::observer::ObserverOptions;
use crate::agent::preflight;
use crate::agent::programs::LoadOptions;
use crate::agent::slots::Slot;
use crate::app::{Failure, notice};
use crate::cli::{HookArgs, SelectionArgs};
use crate::host::kernel::{Feature, Kernel};
use crate::inventory::Inventory;
use crate::node::event::Event;
use crate::node::machine::{Changed, Happening, Machine, drop_reasons};
use crate::node::site::{Site, boot_id};
use crate::trajectory::expect::topology::PlannedWay;
use crate::trajectory::model::{ClockId, ObservationPoint};

/// See the module. Detaches when dropped.
pub struct Observation<'a> {
    asked: &'a SelectionArgs,
    hooks: &'a HookArgs,
    capture: Option<CaptureBytes>,
    selection: Selection,
    machine: Machine,
    /// Its release.
    kernel: String,
}

pub(super) fn check_preflight() -> Result<Kernel, Failure> {
    preflight::check().map_err(|error| Failure::Failed(error.to_string()))
}

/// All that observing starts from.
pub(super) struct Prepared {
    kernel: Kernel,
    pub(super) site: Site,
    pub(super) selection: Selection,
}

impl Prepared {
    /// Which way packets should take, as this machine has it.
    pub(super) fn ways(&self) -> Vec<PlannedWay> {
        ways_here(&self.site, &self.kernel.release, &self.selection)
    }
}

/// Checks what this kernel has, reads the inventory, and says what the selection means.
pub(super) fn prepare(
    inventory: &Path,
    asked: &SelectionArgs,
    hooks: &HookArgs,
) -> Result<Prepared, Failure> {
    let kernel = check_preflight()?;
    if hooks.attach == AttachMode::Tcx && !kernel.has(Feature::Tcx) {
        return Err(Failure::Failed(AttachError::NoTcx.to_string()));
    }
    if !kernel.has(Feature::KernelBtf) {
        notice(&format!("note: kernel {} has {}", kernel.release, Feature::KernelBtf.absence()));
    }
    let site = Site::open(inventory.to_owned())?;
    let selection = site.names().with(|inventory| {
        check_nodes(inventory, &hooks.nodes)?;
        resolve(inventory, asked)
    })?;
    for note in &selection.notes {
        notice(&format!("note: {note}"));
    }
    Ok(Prepared { kernel, site, selection })
}

fn check_nodes(inventory: &Inventory, nodes: &[String]) -> Result<(), Failure> {
    match nodes.iter().find(|name| inventory.node(name).is_none()) {
        Some(unknown) => {
            let known: Vec<_> = inventory.nodes().take(10).map(|node| &*node.name).collect();
            Err(Failure::Failed(format!(
                "--node {unknown}: the inventory has no such node (it has {})",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )))
        }
        None => Ok(()),
    }
}

impl<'a> Observation<'a> {
    /// Loads and attaches. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Failure`]; nothing of ours is attached then.
    pub(super) fn start(
        Prepared { kernel, site, selection }: Prepared,
        asked: &'a SelectionArgs,
        hooks: &'a HookArgs,
        capture: Option<CaptureBytes>,
        emit: &mut impl FnMut(Event),
    ) -> Result<Self, Failure> {
        let options = ObserverOptions {
            attach: hooks.attach,
            load: LoadOptions {
                ring_bytes: hooks.ring_bytes,
                log_level: hooks.program_log as u8,
                captures: capture.is_some(),
                ..LoadOptions::default()
            },
            vxlan_port: hooks.vxlan_port,
            has_tcx: kernel.has(Feature::Tcx),
            groups: None,
        };
        let machine = Machine::start(site, hooks.nodes.clone(), options, drop_reasons(&kernel));
        let mut machine = machine.map_err(|error| Failure::Failed(error.to_string()))?;
        if let Err(error) = machine.watch_drops() {
            notice(&format!("note: kernel {} does not tell of drops: {error}", kernel.release));
        }
        emit(Event::Clock { clock: ClockId(0), boot_id: boot_id()? });
        let mut observation = Self { asked, hooks, capture, selection, machine, kernel: kernel.release };
        observation.want(emit)?;
        observation.tell_problems()?;
        Ok(observation)
    }

    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What observes, for what it has counted.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Waits for what happens next. May be dropped and asked again at any time.
    ///
    /// # Errors
    /// No record can come any more.
    pub async fn next(&mut self) -> Result<Happening, Failure> {
        self.machine.next().await
    }

    /// Does what is to be done when something has happened.
    pub fn take(&mut self, happening: Happening, emit: &mut impl FnMut(Event)) {
        match self.machine.take(happening, emit) {
            Changed::Nothing => {}
            Changed::Inventory => self.inventory_changed(emit),
        }
    }

    /// Gives the records that wait, and what was lost until now.
    pub fn drain(&mut self, emit: &mut impl FnMut(Event)) {
        self.machine.drain(emit);
    }

    /// Detaches, and gives the records that are left.
    pub fn stop(&mut self, emit: &mut impl FnMut(Event)) {
        self.machine.stop(emit);
    }

    fn want(&mut self, emit: &mut impl FnMut(Event)) -> Result<(), Failure> {
        let filter = FollowFilter { capture: self.capture, ..filter_of(&self.selection) };
        let follow = (Slot::FIRST, filter);
        self.machine.want(&[follow], self.selection.scope(), emit)
    }

    fn inventory_changed(&mut self, emit: &mut impl FnMut(Event)) {
        let before = self.selection.scope().nodes;
        match self.machine.site().names().with(|inventory| resolve(inventory, self.asked)) {
            Ok(selection) => self.selection = selection,
            // The pod may come back under the same name; until then its last addresses are followed.
            Err(error) => {
                notice(&format!("warning: {error}"));
                let Self { machine, selection, .. } = self;
                machine.site().names().with(|inventory| selection.release_taken(inventory));
            }
        }
        if let Err(error) = self.want(emit) {
            notice(&format!("warning: {error}"));
        }
        emit(Event::Scope(scope_of(&self.selection)));
        if self.selection.scope().nodes != before {
            let ways = ways_here(self.machine.site(), &self.kernel, &self.selection);
            ways.into_iter().for_each(|way| emit(Event::Way(way)));
        }
    }

    fn tell_problems(&self) -> Result<(), Failure> {
        for pod in pods_of(&self.selection) {
            for problem in self.machine.site().survey().problems_of(pod) {
                notice(&format!("note: {}", problem.sentence));
            }
        }
        if self.machine.points().is_empty() {
            return Err(Failure::Failed(self.nothing_to_observe()));
        }
        Ok(())
    }

    /// Why there is no point. The inventory may have thousands of pods on other machines: only what concerns this
    /// machine and the nodes of the follow is said; its pods have been spoken of.
    fn nothing_to_observe(&self) -> String {
        let nodes: HashSet<_> = ends_of(&self.selection).flat_map(|end| &end.nodes).collect();
        let mut lines = vec!["there is nothing to observe on this machine:".to_owned()];
        let problems = self.machine.site().survey().problems.iter().filter(|problem| {
            problem.pod.is_none() && problem.node.as_ref().is_none_or(|node| nodes.contains(node))
        });
        lines.extend(problems.map(|problem| format!("  - {}", problem.sentence)));
        if !self.hooks.nodes.is_empty() && !nodes.iter().any(|node| self.machine.is_asked_for(node)) {
            lines.push(format!(
                "  - --node {}: no end of the follow is there",
                self.hooks.nodes.join(", --node ")
            ));
        }
        if lines.len() == 1 {
            lines.push("  - no device of the nodes involved is up".to_owned());
        }
        lines.join("\n")
    }
}

/// "12 points on 2 nodes".
#[must_use]
pub fn extent(points: &[Arc<ObservationPoint>]) -> String {
    let nodes: HashSet<_> = points.iter().map(|point| &point.node).collect();
    let nodes = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
    format!("{} points on {nodes}", points.len())
}
