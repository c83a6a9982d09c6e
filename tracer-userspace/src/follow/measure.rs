//! `tracer metrics --local`: legs of this machine's packets, for Prometheus, for as long as it runs. Nobody follows
//! anything: no packet makes a record.

use tokio::sync::mpsc;

use super::observation::check_preflight;
use super::run::{block_on, wait_for_end};
use super::signals::Interrupted;
use crate::agent::attach::{AttachError, AttachMode};
use crate::agent::metrics::render::render;
use crate::agent::metrics::serve::{self, Scrape};
use crate::agent::observer::ObserverOptions;
use crate::agent::programs::LoadOptions;
use crate::app::{Failure, notice};
use crate::cli::MetricsArgs;
use crate::host::kernel::{Feature, Kernel};
use crate::host::plan::Scope;
use crate::node::event::Event;
use crate::node::machine::{Machine, drop_reasons};
use crate::node::site::Site;

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
        if !args.listen.ip().is_loopback() {
            return Err(Failure::Failed(format!(
                "{} is not loopback: metrics are served to this machine only, so use 127.0.0.1 or [::1]",
                args.listen
            )));
        }
        // Before anything is attached: the port may be taken.
        let (address, scrapes) = serve::listen(args.listen).await.map_err(|error| failed(&error))?;
        let mut measuring = Measuring::start(args, site, &kernel, scrapes)?;
        notice(&format!(
            "measuring 1 packet in {} at {} points; http://{address}/metrics; Ctrl-C ends",
            args.sample,
            measuring.machine.points().len(),
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
struct Measuring {
    machine: Machine,
    scrapes: mpsc::Receiver<Scrape>,
    /// Evictions as last served: they are found from counts that go on meanwhile, and one that falls would look like a
    /// new beginning.
    evicted: u64,
}

impl Measuring {
    fn start(
        args: &MetricsArgs,
        site: Site,
        kernel: &Kernel,
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
            has_tcx: kernel.has(Feature::Tcx),
            groups: args.legs.groups(),
        };
        let machine = Machine::start(site, args.hooks.nodes.clone(), options, drop_reasons(kernel));
        let mut machine = machine.map_err(|error| failed(&error))?;
        if let Err(error) = machine.watch_drops() {
            notice(&format!("note: kernel {} does not tell of drops: {error}", kernel.release));
        }
        // No follow, but all devices; and which ports carry VXLAN.
        machine.want(&[], Scope::everything(), &mut nobody)?;
        if machine.points().is_empty() {
            return Err(Failure::Failed(
                "there is nothing to measure on this machine: no node or pod of the inventory is here; \
                 tracer points --local shows what was found"
                    .to_owned(),
            ));
        }
        Ok(Self { machine, scrapes, evicted: 0 })
    }

    /// Waits for what happens next and does what is to be done then. May be dropped and called again at any time.
    async fn step(&mut self) -> Result<(), Failure> {
        tokio::select! {
            biased;
            Some(scrape) = self.scrapes.recv() => self.answer(scrape)?,
            // All devices are wanted whatever the inventory has.
            happening = self.machine.next() => {
                let _ = self.machine.take(happening?, &mut nobody);
            }
        }
        Ok(())
    }

    fn answer(&mut self, scrape: Scrape) -> Result<(), Failure> {
        let mut source = self.machine.metrics().map_err(|error| failed(&error))?;
        self.evicted = self.evicted.max(source.measured.evicted);
        source.measured.evicted = self.evicted;
        // Whoever asked may have gone.
        let _ = scrape.send(render(&source));
        Ok(())
    }

    fn stop(&mut self) {
        self.machine.stop(&mut nobody);
    }
}

/// Takes no events: what is measured is asked for.
fn nobody(_: Event) {}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::Failed(error.to_string())
}
