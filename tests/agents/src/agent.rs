//! A running `tracer agent`.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tracer_integration::{Attach, attach, patient, program};

use crate::SOON;
use crate::cluster::Cluster;

/// Killed when dropped.
pub struct Agent {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    pub address: SocketAddr,
    pub probes: SocketAddr,
}

impl Agent {
    /// Starts one for a node, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time; with what it said.
    pub fn start(cluster: &Cluster, node: &str) -> Result<Self> {
        let agent = Self::launch(cluster, node)?;
        agent.wait_for_log("the agent is ready")?;
        Ok(agent)
    }

    /// As [`Agent::start`], with these capabilities only, as `setpriv` has them.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(cluster: &Cluster, node: &str, capabilities: &str) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", capabilities, "--inh-caps", capabilities]).arg(program()?);
        let agent = Self::run(Self::arguments(&mut command, cluster, node)?)?;
        agent.wait_for_log("the agent is ready")?;
        Ok(agent)
    }

    /// As [`Agent::start`], with more arguments.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with_options(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program()?);
        let agent = Self::run(Self::arguments(&mut command, cluster, node)?.args(arguments))?;
        agent.wait_for_log("the agent is ready")?;
        Ok(agent)
    }

    /// Starts one, and waits until it listens.
    ///
    /// # Errors
    /// It ends, or does not listen in time; with what it said.
    pub fn launch(cluster: &Cluster, node: &str) -> Result<Self> {
        Self::run(Self::arguments(&mut Command::new(program()?), cluster, node)?)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn arguments<'a>(command: &'a mut Command, cluster: &Cluster, node: &str) -> Result<&'a mut Command> {
        command.args(["agent", "--node-name", node, "--listen", "127.0.0.1:0", "--probes", "127.0.0.1:0"]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig("agent")?).env("NO_COLOR", "1");
        if attach() == Attach::Clsact {
            command.args(["--attach", "clsact"]);
        }
        Ok(command)
    }

    /// # Errors
    /// As [`Agent::launch`].
    pub fn run(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let lines = BufReader::new(child.stderr.take().context("no stderr")?);
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                written.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut agent = Self { child, log, reader: Some(reader), address: nowhere, probes: nowhere };
        let line = agent.wait_for_log("the agent starts")?;
        agent.address = field(&line, "listen=")?;
        agent.probes = field(&line, "probes=")?;
        Ok(agent)
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line with this text.
    ///
    /// # Errors
    /// It does not come; with all that was said.
    pub fn wait_for_log(&self, text: &str) -> Result<String> {
        let deadline = Instant::now() + patient(SOON);
        loop {
            let log = self.log();
            if let Some(line) = log.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let has_ended = self.reader.as_ref().is_some_and(JoinHandle::is_finished);
            if has_ended || Instant::now() > deadline {
                bail!("the agent did not say {text:?}, but\n{}", log.join("\n"));
            }
            // sleep: looks again, with a deadline.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as the kubelet does, and waits.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(mut self) -> Result<(ExitStatus, Vec<String>)> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + patient(SOON);
        loop {
            if let Some(status) = self.child.try_wait()? {
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return Ok((status, self.log()));
            }
            if Instant::now() > deadline {
                bail!("the agent did not end; it said\n{}", self.log().join("\n"));
            }
            // sleep: looks again, with a deadline.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it without a chance to clean up, and waits.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn field(line: &str, name: &str) -> Result<SocketAddr> {
    let words = line.split_whitespace().find_map(|word| word.strip_prefix(name));
    words.and_then(|word| word.parse().ok()).with_context(|| format!("no {name} in {line:?}"))
}
