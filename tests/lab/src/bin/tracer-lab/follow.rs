//! `tracer follow` as a child.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The last packets of a connection may come this long after its client has ended.
const QUIET: Duration = Duration::from_millis(800);
/// A follow that says nothing for this long before it is ready has failed.
const STARTUP: Duration = Duration::from_secs(60);

/// `tracer follow` as a child whose lines we pass on, so that we see when it has said all.
pub(crate) struct Follow {
    child: Child,
    /// Told lines and, from the second thread, notices.
    lines: Receiver<Line>,
}

enum Line {
    Told,
    Notice(String),
}

impl Follow {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let (sender, lines) = channel();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else { bail!("the child has no output") };
        let notices = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                if sender.send(Line::Told).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                if notices.send(Line::Notice(line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits until it says that it follows.
    pub(crate) fn until_ready(&mut self) -> Result<()> {
        loop {
            match self.lines.recv_timeout(STARTUP) {
                Ok(Line::Notice(text)) if text.starts_with("following ") => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("tracer follow is not ready after {STARTUP:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("tracer follow has ended: {}", self.child.wait()?)
                }
            }
        }
    }

    pub(crate) fn until_quiet(&self) {
        while self.lines.recv_timeout(QUIET).is_ok() {}
    }

    /// Ends it like Ctrl-C, which makes it print its summary.
    pub(crate) fn end(&mut self) -> Result<()> {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::INT)?;
        // Both threads end with its output.
        while self.lines.recv().is_ok() {}
        let status = self.child.wait()?;
        std::io::stdout().flush()?;
        if !status.success() {
            bail!("tracer follow ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        // After an error only: it has ended otherwise.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
