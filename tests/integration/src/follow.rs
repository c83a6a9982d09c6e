//! A running `tracer follow`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::told::{Exchange, Line, Summary, Trajectory};
use crate::tracer::patient;

/// Loading the programs takes a second or two in a debug build on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(60);
/// An end after Ctrl-C: detaching from every point, telling what is under way.
const END: Duration = Duration::from_secs(30);

/// A `tracer follow` that follows. Dropping it ends it at once.
#[derive(Debug)]
pub struct Follow {
    child: Child,
    streams: Streams,
}

/// All that a follow told and said.
#[derive(Debug)]
pub struct Report {
    /// In the order of output; empty in text mode.
    pub trajectories: Vec<Trajectory>,
    /// In the order of output; empty in text mode and with `--packets`.
    pub exchanges: Vec<Exchange>,
    /// `None` in text mode, and after a kill.
    pub summary: Option<Summary>,
    /// The raw lines.
    pub stdout: Vec<String>,
    /// The raw lines.
    pub stderr: Vec<String>,
    pub exit: ExitStatus,
}

impl Follow {
    /// Starts it, and waits until it follows.
    ///
    /// # Errors
    /// When it ends or is silent before it says so; with what it said.
    pub fn start(command: &mut Command) -> Result<Self> {
        let follow = Self::spawn(command)?;
        follow.until_ready()?;
        Ok(follow)
    }

    /// One that may have to wait for its streams.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let streams = Streams::read(child.stdout.take(), child.stderr.take());
        Ok(Self { child, streams })
    }

    /// Waits until it follows.
    ///
    /// # Errors
    /// When it ends or is silent before it says so; with what it said.
    pub fn until_ready(&self) -> Result<()> {
        self.streams.wait_for_line(READY, "following ")
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What was told up to now.
    ///
    /// # Panics
    /// When a line is not as `docs/json.md` says.
    #[must_use]
    pub fn trajectories(&self) -> Vec<Trajectory> {
        let heard = self.streams.lock();
        heard.must_be_as_documented();
        heard.trajectories.clone()
    }

    /// What was said on stderr up to now.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.streams.lock().stderr.clone()
    }

    /// Waits until `condition` holds for all that was told, and returns that. `rule` says what it stands for.
    ///
    /// # Panics
    /// When it does not hold within `deadline`; with what was told and said instead.
    #[track_caller]
    pub fn eventually(
        &self,
        deadline: Duration,
        rule: &str,
        condition: impl Fn(&[Trajectory]) -> bool,
    ) -> Vec<Trajectory> {
        let deadline = patient(deadline);
        let heard =
            self.streams.wait_until(deadline, |heard| condition(&heard.trajectories) || heard.open == 0);
        heard.must_be_as_documented();
        if !condition(&heard.trajectories) {
            let (what, when) =
                (heard.in_words(), if heard.open == 0 { "before it ended" } else { "in time" });
            drop(heard);
            panic!("not {when} ({deadline:?}): {rule}\n{what}");
        }
        heard.trajectories.clone()
    }

    /// Waits until `condition` holds for all lines of output, and returns them. `rule` says what it stands for.
    ///
    /// # Panics
    /// When it does not hold within `deadline`; with what was told and said instead.
    #[track_caller]
    pub fn eventually_prints(
        &self,
        deadline: Duration,
        rule: &str,
        condition: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let deadline = patient(deadline);
        let heard = self.streams.wait_until(deadline, |heard| condition(&heard.stdout) || heard.open == 0);
        let (holds, stdout, what) = (condition(&heard.stdout), heard.stdout.clone(), heard.in_words());
        drop(heard);
        assert!(holds, "not within {deadline:?}: {rule}\n{what}");
        stdout
    }

    /// Waits until a line of stderr satisfies `condition`, and returns it.
    ///
    /// # Panics
    /// When none does within `deadline`; with what was said instead.
    #[track_caller]
    pub fn eventually_notices(
        &self,
        deadline: Duration,
        rule: &str,
        condition: impl Fn(&str) -> bool,
    ) -> String {
        let deadline = patient(deadline);
        let find = |heard: &Heard| heard.stderr.iter().find(|line| condition(line)).cloned();
        let heard = self.streams.wait_until(deadline, |heard| find(heard).is_some() || heard.open == 0);
        let found = find(&heard);
        let what = heard.in_words();
        drop(heard);
        found.unwrap_or_else(|| panic!("not said within {deadline:?}: {rule}\n{what}"))
    }

    /// Ends it like Ctrl-C, and returns what it told until its end.
    ///
    /// # Errors
    /// When it does not end within half a minute.
    pub fn stop(self) -> Result<Report> {
        self.signal(Signal::INT)?;
        self.until_its_end()
    }

    /// Ends it like `kill -9`.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(self) -> Result<Report> {
        self.signal(Signal::KILL)?;
        self.until_its_end()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot send a signal to tracer follow")
    }

    /// Waits for its end (`--count`, `--for`), and returns what it told.
    ///
    /// # Errors
    /// When it does not end within half a minute, or told a line that is not as `docs/json.md` says.
    pub fn until_its_end(mut self) -> Result<Report> {
        if !self.streams.wait_for_end(patient(END)) {
            bail!("tracer follow has not ended after {END:?}\n{}", self.streams.lock().in_words());
        }
        let exit = self.child.wait().context("cannot wait for tracer follow")?;
        let heard = std::mem::take(&mut *self.streams.lock());
        if let Some(problem) = heard.problems.first() {
            bail!("{problem}");
        }
        let Heard { trajectories, exchanges, summary, stdout, stderr, .. } = heard;
        Ok(Report { trajectories, exchanges, summary, stdout, stderr, exit })
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // By its handle; if it ended just before, there is nothing left to do.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Report {
    /// The summary.
    ///
    /// # Panics
    /// When there is none: it was killed, or told text.
    #[must_use]
    #[track_caller]
    pub fn summary(&self) -> &Summary {
        let Some(summary) = &self.summary else {
            panic!("no summary; exit {}, stderr\n{}", self.exit, self.stderr.join("\n"));
        };
        summary
    }

    /// The text that it printed.
    #[must_use]
    pub fn text(&self) -> String {
        self.stdout.join("\n")
    }
}

/// Both outputs of a child, read by threads that end with it.
#[derive(Debug)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

/// What came until now.
#[derive(Debug, Default)]
struct Heard {
    stdout: Vec<String>,
    stderr: Vec<String>,
    trajectories: Vec<Trajectory>,
    exchanges: Vec<Exchange>,
    summary: Option<Summary>,
    /// Lines that look like JSON and are not as documented.
    problems: Vec<String>,
    /// Outputs that have not ended.
    open: usize,
}

impl Streams {
    pub(crate) fn read(
        stdout: Option<impl Read + Send + 'static>,
        stderr: Option<impl Read + Send + 'static>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().open = usize::from(stdout.is_some()) + usize::from(stderr.is_some());
        if let Some(stdout) = stdout {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.collect(stdout, Heard::take_told));
        }
        if let Some(stderr) = stderr {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.collect(stderr, |heard, line| heard.stderr.push(line)));
        }
        Self { shared }
    }

    /// Whether both outputs have ended within `deadline`.
    pub(crate) fn wait_for_end(&self, deadline: Duration) -> bool {
        self.wait_until(deadline, |heard| heard.open == 0).open == 0
    }

    /// Waits for a line of stderr that begins like this.
    pub(crate) fn wait_for_line(&self, deadline: Duration, beginning: &str) -> Result<()> {
        let is_said = |heard: &Heard| heard.stderr.iter().any(|line| line.starts_with(beginning));
        let heard = self.wait_until(patient(deadline), |heard| is_said(heard) || heard.open == 0);
        if !is_said(&heard) {
            bail!("tracer did not say {beginning:?}; it said\n{}", heard.stderr.join("\n"));
        }
        Ok(())
    }

    /// Standard output and standard error as they came.
    pub(crate) fn texts(&mut self) -> (String, String) {
        let heard = self.lock();
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect();
        (text(&heard.stdout), text(&heard.stderr))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.shared.lock()
    }

    /// Returns when `condition` holds or the time is over.
    fn wait_until(&self, deadline: Duration, condition: impl Fn(&Heard) -> bool) -> MutexGuard<'_, Heard> {
        let end = Instant::now() + deadline;
        let mut heard = self.lock();
        while !condition(&heard) {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            heard = self.shared.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        heard
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, stream: impl Read, take: impl Fn(&mut Heard, String)) {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            take(&mut self.lock(), line);
            self.changed.notify_all();
        }
        self.lock().open -= 1;
        self.changed.notify_all();
    }
}

impl Heard {
    fn take_told(&mut self, line: String) {
        if line.starts_with('{') {
            match Line::parse(&line) {
                Ok(Line::Trajectory(trajectory)) => self.trajectories.push(*trajectory),
                Ok(Line::Exchange(exchange)) => self.exchanges.push(*exchange),
                Ok(Line::Summary(summary)) => self.summary = Some(summary),
                Err(error) => self.problems.push(format!("{error:#}: {line}")),
            }
        }
        self.stdout.push(line);
    }

    #[track_caller]
    fn must_be_as_documented(&self) {
        assert!(self.problems.is_empty(), "not as docs/json.md says: {}", self.problems.join("\n"));
    }

    fn in_words(&self) -> String {
        let mut text = format!(
            "it said\n{}\nand told {} trajectories\n",
            self.stderr.join("\n"),
            self.trajectories.len()
        );
        text.extend(self.trajectories.iter().map(Trajectory::to_string));
        if self.trajectories.is_empty() {
            text += &self.stdout.join("\n");
        }
        text
    }
}
