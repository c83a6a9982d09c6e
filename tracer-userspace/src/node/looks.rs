//! When the machine is looked over again.

use std::future::pending;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::site::Site;
use crate::app::Failure;
use crate::host::survey::Survey;

/// How long after a change of links the machine is looked over: a pod's start changes several.
pub const SETTLE: Duration = Duration::from_millis(30);
/// Least time between two looks over the machine.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// First and most time between two looks for a pod that should be here and is not.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Looks over the machine: one at a time, on a worker thread, and not too often.
pub struct Looks {
    running: Option<JoinHandle<Result<Survey, Failure>>>,
    wanted: Option<Instant>,
    last: Instant,
    wait: Duration,
}

impl Looks {
    #[must_use]
    pub fn new() -> Self {
        Self { running: None, wanted: None, last: Instant::now(), wait: FIRST_WAIT }
    }

    /// Asks for a look in `delay`, or as soon as it may be.
    pub fn want(&mut self, delay: Duration) {
        self.wait = FIRST_WAIT;
        self.want_at((Instant::now() + delay).max(self.last + LOOK_INTERVAL));
    }

    /// Asks for one after a time that doubles from one to the next.
    pub fn want_later(&mut self) {
        if self.wanted.is_none() && self.running.is_none() {
            self.want_at(self.last + self.wait);
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }

    fn want_at(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// The next finished look. May be dropped and asked again at any time.
    ///
    /// # Errors
    /// The look has failed.
    pub async fn next(&mut self, site: &Site) -> Result<Survey, Failure> {
        loop {
            if let Some(running) = &mut self.running {
                let survey = running.await;
                self.running = None;
                self.last = Instant::now();
                return survey.unwrap_or_else(|error| {
                    Err(Failure::Failed(format!("the look over this machine has failed: {error}")))
                });
            }
            match self.wanted {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
            self.wanted = None;
            self.running = Some(spawn_blocking(site.look_again()));
        }
    }
}

impl Default for Looks {
    fn default() -> Self {
        Self::new()
    }
}
