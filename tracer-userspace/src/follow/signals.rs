//! The signals that end a run in good order: Ctrl-C, SIGTERM, and SIGHUP (the terminal was closed).

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Failure;

/// Listens from when it is made on; a signal that comes before anyone waits is not lost.
pub struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupted {
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the first of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
