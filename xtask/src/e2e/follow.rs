//! A running `tracer follow`, and what it told.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process;

/// Lines, as they come.
type Lines = Arc<Mutex<Vec<String>>>;

/// Killed when dropped.
pub(super) struct Follow {
    child: Child,
    told: Lines,
    said: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Follow {
    /// Starts it and waits until it follows.
    ///
    /// # Errors
    /// It does not, in time; with what it said.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        eprintln!("$ {}", process::shown(&command));
        let mut child = command.spawn().context("cannot start tracer")?;
        let (told, said) = (Lines::default(), Lines::default());
        let readers = vec![
            read(child.stdout.take().context("no stdout")?, Arc::clone(&told), ""),
            read(child.stderr.take().context("no stderr")?, Arc::clone(&said), "  "),
        ];
        let follow = Self { child, told, said, readers };
        follow.wait(Duration::from_secs(60), "that it follows", || {
            locked(&follow.said).iter().any(|line| line.starts_with("following ")).then_some(())
        })?;
        Ok(follow)
    }

    /// Waits until something can be said of what it told.
    ///
    /// # Errors
    /// It cannot, in time; with what it told.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        find: impl Fn(&[Value]) -> Option<T>,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            meanwhile()?;
            match self.wait(Duration::from_secs(2), what, || find(&self.trajectories())) {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Ends it as Ctrl-C does.
    ///
    /// # Errors
    /// It fails.
    pub(super) fn stop(mut self) -> Result<()> {
        process::run(Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]))?;
        let status = self.child.wait().context("cannot wait for tracer")?;
        for reader in self.readers.drain(..) {
            // A reader panics only with its mutex.
            let _ = reader.join();
        }
        ensure!(status.success(), "tracer ended with {status}");
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not, in time, or it fails.
    pub(super) fn ended(mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for tracer")? {
                ensure!(status.success(), "tracer ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "tracer did not end");
            // sleep: looks again, with a deadline.
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn trajectories(&self) -> Vec<Value> {
        let told = locked(&self.told);
        let lines = told.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["schema"] == "tracer.trajectory/v1").collect()
    }

    fn wait<T>(&self, patience: Duration, what: &str, find: impl Fn() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let told = locked(&self.told);
                let last = &told[told.len().saturating_sub(3)..];
                bail!("waited in vain for {what}; told last:\n{}", last.join("\n"));
            }
            // sleep: looks again, with a deadline.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows the lines of stderr, too: they are for people.
fn read(from: impl Read + Send + 'static, into: Lines, indent: &'static str) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if !indent.is_empty() {
                eprintln!("{indent}{line}");
            }
            locked(&into).push(line);
        }
    })
}

fn locked(lines: &Lines) -> std::sync::MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
