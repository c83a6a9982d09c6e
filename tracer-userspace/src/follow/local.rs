//! `tracer follow --local`: observe, join and tell on one machine, in one process.
//!
//! ```text
//! ring thread ─► records ─► attribute ─► correlate ─► tell            one task, which waits for all of these;
//! link watches ─► look over the machine (worker thread) ─► attach     also for the clock and for signals
//! ```

use std::path::Path;

use super::joining::{Account, Joining, TICK};
use super::observation::{Observation, extent, prepare};
use super::run::{Ending, block_on, ticks, wait_for_end};
use super::signals::Interrupted;
use super::silence;
use super::teller::Telling;
use crate::app::{Failure, notice};
use crate::cli::RunArgs;
use crate::node::event::Event;
use crate::node::site::{both_clocks_ns, monotonic_ns};
use crate::trajectory::model::ClockId;

/// Runs until the count, the time or a signal ends it.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &RunArgs, inventory: &Path, telling: Telling<'_>) -> Result<(), Failure> {
    let prepared = prepare(inventory, &args.selection, &args.hooks)?;
    block_on(async {
        // Before anything is attached: from here on a signal ends the run in good order.
        let interrupted = Interrupted::listen()?;
        let mut joining =
            Joining::new(args, telling, &prepared.selection, prepared.site.names().clone(), monotonic_ns())?;
        hear_wall_clock(&mut joining);
        // Before records come: a look over many nodes' pods takes a while, in which nobody takes them.
        for way in prepared.ways() {
            joining.take(Event::Way(way));
        }
        let mut observation = Observation::start(
            prepared,
            &args.selection,
            &args.hooks,
            telling.capture_bytes(),
            &mut |event| joining.take(event),
        )?;
        notice(&format!(
            "following {} at {}; Ctrl-C ends with a summary",
            silence::what(observation.selection()),
            extent(observation.machine().points()),
        ));
        let ending = until_the_end(args, &mut observation, &mut joining, interrupted).await;
        observation.stop(&mut |event| joining.take(event));
        let ending = ending?;
        joining.finish(&account(&observation), ending == Ending::Interrupted)
    })
}

async fn until_the_end(
    args: &RunArgs,
    observation: &mut Observation<'_>,
    joining: &mut Joining,
    interrupted: Interrupted,
) -> Result<Ending, Failure> {
    let mut tick = ticks(TICK);
    let end = wait_for_end(interrupted, args.ending.duration);
    tokio::pin!(end);
    loop {
        // In this order: what comes seldom before what may come without a pause.
        tokio::select! {
            biased;
            ending = &mut end => return Ok(ending),
            _ = tick.tick() => {
                hear_wall_clock(joining);
                // Of the packets finished when the ring was last empty. Their records come first: who reads our output may
                // have held us up for long, and a packet whose other records wait somewhere is not overdue.
                let judged_until_ns = observation.machine().read_until_ns();
                observation.drain(&mut |event| joining.take(event));
                joining.tell_finished(monotonic_ns(), judged_until_ns, &|| observation.machine().lost_at_points())?;
                joining.break_silence(|| account(observation));
            }
            happening = observation.next() => observation.take(happening?, &mut |event| joining.take(event)),
        }
        if joining.is_enough() {
            return Ok(Ending::Done);
        }
    }
}

fn hear_wall_clock(joining: &mut Joining) {
    let (monotonic_ns, wall_ns) = both_clocks_ns();
    joining.hear_wall_clock(ClockId(0), monotonic_ns, wall_ns);
}

fn account<'a>(observation: &'a Observation<'_>) -> Account<'a> {
    Account {
        selection: Some(observation.selection()),
        outcomes: observation.machine().outcomes().unwrap_or_default(),
        losses: observation.machine().losses(),
        lost_at_points: observation.machine().lost_at_points(),
        points: observation.machine().points(),
        streams: Vec::new(),
    }
}
