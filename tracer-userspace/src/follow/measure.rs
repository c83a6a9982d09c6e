//! `tracer metrics --local`: legs of this machine's packets, for Prometheus, for as long as it runs. Nobody follows
//! anything: no packet makes a record.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Interval;

use super::devices::{Devices, sweep};
use super::looks::{Looks, SETTLE};
use super::observation::check_preflight;
use super::run::{block_on, ticks, wait_for_end};
use super::signals::Interrupted;
use super::site::Site;
use crate::agent::attach::{AttachError, AttachMode};
use crate::agent::metrics::render::render;
use crate::agent::metrics::serve::{self, Scrape};
use crate::agent::observer::{Observer, ObserverOptions};
use crate::agent::programs::LoadOptions;
use crate::agent::ring::Sample;
use crate::app::{Failure, notice};
use crate::cli::MetricsArgs;
use crate::host::kernel::Feature;
use crate::host::links::LinkEvent;
use crate::host::plan::{Scope, plan_points};
use crate::host::survey::Survey;

/// How often the inventory's file and our place on the hooks are looked at.
const CHORES: Duration = Duration::from_secs(1);

/// Runs until its time or a signal ends it.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &MetricsArgs) -> Result<(), Failure> {
    let kernel = check_preflight()?;
    if args.hooks.attach == AttachMode::Tcx && !kernel.has(Feature::Tcx) {
        return Err(failed(&AttachError::NoTcx));
    }
    let site = Site::open(args.source.inventory.inventory.clone())?;
    block_on(async {
        let interrupted = Interrupted::listen()?;
        // Before anything is attached: the port may be taken.
        let (address, scrapes) = serve::listen(args.listen).await.map_err(|error| failed(&error))?;
        let mut measuring = Measuring::start(args, site, kernel.has(Feature::Tcx), scrapes)?;
        notice(&format!(
            "measuring 1 packet in {} at {} points; http://{address}/metrics; Ctrl-C ends",
            args.sample,
            measuring.observer.points().len(),
        ));
        let end = wait_for_end(interrupted, args.ending.duration);
        tokio::pin!(end);
        let result = loop {
            tokio::select! {
                biased;
                _ = &mut end => break Ok(()),
                result = measuring.step() => if let Err(error) = result { break Err(error) },
            }
        };
        measuring.stop();
        result
    })
}

/// Detaches when dropped.
struct Measuring<'a> {
    nodes: &'a [String],
    site: Site,
    observer: Observer,
    /// Nothing comes; that it ends means that the reader has.
    records: mpsc::Receiver<Vec<Sample>>,
    devices: Devices,
    links: mpsc::Receiver<LinkEvent>,
    looks: Looks,
    chores: Interval,
    scrapes: mpsc::Receiver<Scrape>,
    planned: u64,
    /// Evictions as last served: they are found from counts that go on meanwhile, and one that falls would look like a
    /// new beginning.
    evicted: u64,
}

impl<'a> Measuring<'a> {
    fn start(
        args: &'a MetricsArgs,
        site: Site,
        has_tcx: bool,
        scrapes: mpsc::Receiver<Scrape>,
    ) -> Result<Self, Failure> {
        let options = ObserverOptions {
            attach: args.hooks.attach,
            load: LoadOptions {
                ring_bytes: args.hooks.ring_bytes,
                log_level: args.hooks.program_log as u8,
                sample: Some(args.sample),
                ..LoadOptions::default()
            },
            vxlan_port: args.hooks.vxlan_port,
            has_tcx,
        };
        let (mut observer, records) = Observer::start(options, None).map_err(|error| failed(&error))?;
        if options.load.log_level > 0 {
            observer.log_programs().map_err(|error| failed(&error))?;
        }
        // No follow; but which ports carry VXLAN.
        observer.arm(&[]).map_err(|error| failed(&error))?;
        let (devices, links) = Devices::new();
        let mut measuring = Self {
            nodes: &args.hooks.nodes,
            site,
            observer,
            records,
            devices,
            links,
            looks: Looks::new(),
            chores: ticks(CHORES),
            scrapes,
            planned: 0,
            evicted: 0,
        };
        sweep(measuring.site.survey());
        measuring.follow_plan();
        measuring.looks.want(SETTLE);
        if measuring.observer.points().is_empty() {
            return Err(Failure::Failed(
                "there is nothing to measure on this machine: no node or pod of the inventory is here; \
                 tracer points --local shows what was found"
                    .to_owned(),
            ));
        }
        Ok(measuring)
    }

    /// Waits for what happens next and does what is to be done then. May be dropped and called again at any time.
    async fn step(&mut self) -> Result<(), Failure> {
        tokio::select! {
            biased;
            _ = self.chores.tick() => self.do_chores(),
            survey = self.looks.next(&self.site) => self.looked_over(survey),
            Some(event) = self.links.recv() => self.link_changed(&event),
            Some(scrape) = self.scrapes.recv() => self.answer(scrape)?,
            batch = self.records.recv() => if batch.is_none() {
                return Err(Failure::Failed("the thread that reads records has ended".to_owned()));
            },
        }
        Ok(())
    }

    fn answer(&mut self, scrape: Scrape) -> Result<(), Failure> {
        let mut source = self.observer.metrics().map_err(|error| failed(&error))?;
        source.devices_planned = self.planned;
        self.evicted = self.evicted.max(source.measured.evicted);
        source.measured.evicted = self.evicted;
        // Whoever asked may have gone.
        let _ = scrape.send(render(&source));
        Ok(())
    }

    fn looked_over(&mut self, survey: Result<Survey, Failure>) {
        match survey {
            Ok(survey) => {
                self.site.take(survey);
                self.follow_plan();
            }
            Err(error) => notice(&format!("warning: {error}")),
        }
    }

    fn link_changed(&mut self, event: &LinkEvent) {
        if let LinkEvent::Gone { netns, link } = event {
            self.devices.gone((*netns, link.ifindex), &mut self.observer, &mut |_| {});
        }
        self.looks.want(SETTLE);
    }

    fn do_chores(&mut self) {
        let (moved, problems) = self.observer.reconcile();
        for device in moved {
            notice(&format!("note: another tool got in front of us on {device}; we are first again"));
        }
        for problem in problems {
            notice(&format!("warning: {problem}"));
        }
        match self.site.reload_if_changed() {
            Ok(true) => self.looks.want(Duration::ZERO),
            Ok(false) => {}
            Err(error) => notice(&format!("warning: the changed inventory is not used: {error}")),
        }
    }

    fn follow_plan(&mut self) {
        let survey = self.site.survey();
        self.devices.watch_nodes(survey);
        let mut plan = plan_points(survey, &Scope::everything());
        plan.retain(|device| self.nodes.is_empty() || self.nodes.iter().any(|name| **name == *device.node));
        self.planned = plan.len() as u64;
        self.devices.follow_plan(&plan, survey, &mut self.observer, &mut |_| {});
    }

    fn stop(&mut self) {
        self.devices.stop();
        for problem in self.observer.stop() {
            notice(&format!("warning: {problem}"));
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::Failed(error.to_string())
}
