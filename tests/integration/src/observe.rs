//! A running `tracer observe`, and `tracer follow --from`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::follow::{Follow, READY, Streams};
use crate::tracer::{Tracer, attach_arguments, program};

/// A `tracer observe` whose stream goes to a file or FIFO. Dropping it ends it at once.
#[derive(Debug)]
pub struct Observe {
    child: Child,
    streams: Streams,
}

impl Tracer {
    /// `tracer observe`, attached as `TRACER_ATTACH` says. It observes when this returns.
    ///
    /// # Errors
    /// When it ends or is silent before it says that it observes; with what it said.
    pub fn observe(&self, arguments: &[&str], stream: File) -> Result<Observe> {
        let mut command = self.command("observe", arguments);
        command.args(attach_arguments(arguments));
        let mut child = command
            .stdout(stream)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let streams = Streams::read(None::<ChildStderr>, child.stderr.take());
        let observe = Observe { child, streams };
        observe.streams.wait_for_line(READY, "observing ")?;
        Ok(observe)
    }

    /// `tracer follow -o json --from PATH ...`; it may have to wait for its streams.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn follow_streams(&self, paths: &[&Path], arguments: &[&str]) -> Result<Follow> {
        let mut command = Command::new(program()?);
        command.arg("follow").arg("--inventory").arg(self.inventory());
        for path in paths {
            command.arg("--from").arg(path);
        }
        command.args(["-o", "json"]).args(arguments).stdin(Stdio::null());
        Follow::spawn(&mut command)
    }
}

impl Observe {
    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot send a signal to tracer observe")
    }

    /// Ends it like Ctrl-C, and waits for its end.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::INT)?;
        anyhow::ensure!(self.streams.wait_for_end(READY), "tracer observe has not ended");
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "tracer observe ended with {status}: {}", self.streams.texts().1);
        Ok(())
    }
}

impl Drop for Observe {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // By its handle; if it ended just before, there is nothing left to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Makes a FIFO.
///
/// # Errors
/// When it cannot be made.
pub fn fifo(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .with_context(|| format!("cannot make the FIFO {}", path.display()))?;
    Ok(path)
}
