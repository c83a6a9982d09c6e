//! A tool's process.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const READY: Duration = Duration::from_secs(60);

/// A tool that runs. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: Receiver<String>,
    heard: Vec<String>,
    stdout: Option<JoinHandle<String>>,
}

/// What it left.
pub(crate) struct Left {
    pub(crate) stdout: String,
    pub(crate) stderr: Vec<String>,
    /// From the signal to the end.
    pub(crate) took: Duration,
}

impl Process {
    /// Starts it, and waits until it says on stderr what begins with `ready`.
    pub(crate) fn start(command: &mut Command, ready: &str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let stderr = BufReader::new(child.stderr.take().context("no stderr")?);
        let mut output = child.stdout.take().context("no stdout")?;
        let (sender, said) = channel();
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
        });
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            let _ = output.read_to_string(&mut text);
            text
        });
        let mut process = Self { child, said, heard: Vec::new(), stdout: Some(stdout) };
        process.wait_for(ready).with_context(|| format!("of {command:?}"))?;
        Ok(process)
    }

    fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let is_it = line.contains(text);
                    self.heard.push(line);
                    if is_it {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("it did not say {text:?}, but {:?}", self.heard),
                Err(RecvTimeoutError::Disconnected) => bail!("it has ended and said {:?}", self.heard),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by the signal that Ctrl-C gives.
    pub(crate) fn end(mut self) -> Result<Left> {
        let since = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::INT).context("cannot end it")?;
        let status = self.child.wait()?;
        let took = since.elapsed();
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        self.heard.extend(self.said.iter());
        if !status.success() {
            bail!("it ended with {status} and said {:?}", self.heard);
        }
        Ok(Left { stdout, stderr: std::mem::take(&mut self.heard), took })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of processes so far: fields 14 and 15 of /proc/PID/stat, in clock ticks.
pub(crate) fn cpu_seconds(processes: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no command")?;
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory that was ever resident, MiB, together.
pub(crate) fn resident_mib(processes: &[u32]) -> Result<f64> {
    let mut kib = 0;
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        kib += line.trim().trim_end_matches("kB").trim().parse::<u64>().context("VmHWM is no number")?;
    }
    Ok(kib as f64 / 1024.0)
}
