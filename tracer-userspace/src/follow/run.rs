//! What every run has: a runtime, signals, an end.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::signals::Interrupted;
use super::teller::Telling;
use super::{cluster, local, merge};
use crate::app::Failure;
use crate::cli::RunArgs;
use crate::expression::Expression;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Enough was told, the time is over, or nothing more can come.
    Done,
    Interrupted,
}

/// Follows: on this machine, from streams, or by the agents of a cluster.
///
/// # Errors
/// [`Failure`].
pub fn follow(args: &RunArgs, telling: Telling<'_>) -> Result<(), Failure> {
    match &args.inventory {
        Some(inventory) if args.local => local::run(args, inventory, telling),
        Some(inventory) if !args.from.is_empty() => merge::run(args, inventory, telling),
        Some(_) => Err(Failure::Usage(
            "--inventory is for --local and --from: without them the cluster itself is asked".to_owned(),
        )),
        None => cluster::run(args, telling),
    }
}

/// Reads what was given with `--filter`.
pub(super) fn expression(text: Option<&str>) -> Result<Option<Expression>, Failure> {
    let words: Vec<_> = text.map(str::to_owned).into_iter().collect();
    Expression::parse(&words)
        .map_err(|error| Failure::Usage(format!("--filter '{}': {error}", text.unwrap_or_default())))
}

/// Runs `work` to its end, on one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(work)
}

/// For work in several steps: what a step has opened lives as long as the runtime.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}

/// Waits for a signal or for the end of the run's time.
pub(crate) async fn wait_for_end(mut interrupted: Interrupted, duration: Option<Duration>) -> Ending {
    tokio::select! {
        biased;
        () = interrupted.wait() => Ending::Interrupted,
        () = sleep(duration.unwrap_or(Duration::from_secs(u32::MAX.into()))) => Ending::Done,
    }
}

/// A clock that ticks every `period`, and later after a delay.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
