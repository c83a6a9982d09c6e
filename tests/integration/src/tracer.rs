//! The program under test, and how to call it.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tracer_lab::{Lab, StandIns, Topology};

use crate::follow::Follow;

/// How the run's follows attach: `TRACER_ATTACH`, which `cargo xtask test` sets to each in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    Tcx,
    Clsact,
}

/// What `TRACER_ATTACH` says; without it tracer chooses, which is TCX on the kernels that the tests run on.
///
/// # Panics
/// When it says neither `tcx` nor `clsact`.
#[must_use]
pub fn attach() -> Attach {
    match env::var("TRACER_ATTACH").as_deref() {
        Err(_) | Ok("tcx") => Attach::Tcx,
        Ok("clsact") => Attach::Clsact,
        Ok(other) => panic!("TRACER_ATTACH is {other:?}; it can be tcx or clsact"),
    }
}

/// A deadline as it is on this machine: `TRACER_PATIENCE` times as long, which `cargo xtask vm` sets where the processor
/// is emulated. A deadline says when to give up, never how fast something must be.
///
/// # Panics
/// When `TRACER_PATIENCE` is no number.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    match env::var("TRACER_PATIENCE") {
        Err(_) => deadline,
        Ok(factor) => match factor.parse::<u32>() {
            Ok(factor) => deadline * factor,
            Err(error) => panic!("TRACER_PATIENCE is {factor:?}: {error}"),
        },
    }
}

/// Notes what a test has found out about this kernel, for the table of docs/kernels.md: `cargo xtask vm` collects it from
/// the file that `TRACER_FACTS` names. Call it behind the assertion that proves it. The value is a word or two.
///
/// # Panics
/// When the file cannot be written.
pub fn fact(name: &str, value: &str) {
    let Some(path) = env::var_os("TRACER_FACTS") else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{name}\t{value}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot write to {}: {error}", path.display()));
}

/// A lab whose Cilium attaches as this run's tracer does: a clsact filter behind a program of Cilium's at TCX would see
/// nothing, and no machine has both.
///
/// # Errors
/// As [`Lab::build`].
pub fn lab(topology: Topology) -> Result<Lab> {
    let stand_ins = match attach() {
        Attach::Tcx => StandIns::Tcx,
        Attach::Clsact => StandIns::Clsact,
    };
    Lab::build_with(topology, stand_ins)
}

/// The program with an inventory of a lab, which is a file of its own until this is dropped.
#[derive(Debug)]
pub struct Tracer {
    program: PathBuf,
    inventory: PathBuf,
    _directory: TempDir,
}

impl Tracer {
    /// Writes the inventory of `lab` as it is.
    ///
    /// # Errors
    /// When the program is not built, or the file cannot be written.
    pub fn new(lab: &Lab) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a directory for the inventory")?;
        let inventory = lab.write_inventory(directory.path())?;
        Ok(Self { program: program()?, inventory, _directory: directory })
    }

    /// The inventory's file; a test may change it while the program runs.
    #[must_use]
    pub fn inventory(&self) -> &Path {
        &self.inventory
    }

    /// Writes the inventory of `lab` as it has become.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update_inventory(&self, lab: &Lab) -> Result<()> {
        let directory = self.inventory.parent().context("the inventory's file has no directory")?;
        lab.write_inventory(directory)?;
        Ok(())
    }

    /// `tracer SUBCOMMAND --local --inventory FILE ARGUMENTS`, with nothing to read.
    #[must_use]
    pub fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args([subcommand, "--local", "--inventory"]).arg(&self.inventory).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// `tracer follow -o json`, attached as `TRACER_ATTACH` says unless the arguments say how. It follows when this
    /// returns.
    ///
    /// # Errors
    /// When it ends or is silent before it says that it follows; with what it said.
    pub fn follow(&self, arguments: &[&str]) -> Result<Follow> {
        let mut command = self.follow_command(arguments);
        Follow::start(command.args(["-o", "json"]))
    }

    /// As [`Tracer::follow`] with text for people; [`crate::Report::stdout`] has it.
    ///
    /// # Errors
    /// As [`Tracer::follow`].
    pub fn follow_text(&self, arguments: &[&str]) -> Result<Follow> {
        Follow::start(&mut self.follow_command(arguments))
    }

    /// `tracer capture` into a file, attached as `TRACER_ATTACH` says. It captures when this returns.
    ///
    /// # Errors
    /// As [`Tracer::follow`].
    pub fn capture(&self, file: &Path, arguments: &[&str]) -> Result<Follow> {
        let mut command = self.command("capture", arguments);
        command.args(attach_arguments(arguments)).arg("--write").arg(file);
        Follow::start(&mut command)
    }

    /// `tracer follow` with the run's `--attach`, not started.
    #[must_use]
    pub fn follow_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("follow", arguments);
        command.args(attach_arguments(arguments));
        command
    }

    /// Runs a command that ends by itself, such as `points` or a follow with an error.
    ///
    /// # Errors
    /// When it has not ended after 20 seconds.
    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> Result<Output> {
        run_to_its_end(&mut self.command(subcommand, arguments))
    }
}

/// How to attach, unless the arguments say it.
pub(crate) fn attach_arguments(arguments: &[&str]) -> Vec<String> {
    match env::var("TRACER_ATTACH") {
        Ok(attach) if !arguments.contains(&"--attach") => vec!["--attach".to_owned(), attach],
        _ => Vec::new(),
    }
}

/// Runs any command of the program that ends by itself.
///
/// # Errors
/// When it cannot be started or has not ended after 20 seconds; it is ended then.
pub fn run_to_its_end(command: &mut Command) -> Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = crate::follow::Streams::read(stdout, stderr);
    let ended = output.wait_for_end(patient(Duration::from_secs(20)));
    if !ended {
        child.kill().context("cannot end a program that does not end")?;
    }
    let status = child.wait().context("cannot wait for the program")?;
    let (stdout, stderr) = output.texts();
    if !ended {
        bail!("{command:?} did not end by itself; it said\n{stdout}{stderr}");
    }
    Ok(Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() })
}

/// `TRACER_BIN`, or the `tracer` that was built into the directory that this test was built into.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TRACER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let test = env::current_exe().context("cannot find this test's own file")?;
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join("tracer"));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "no program tracer beside {}: cargo build -p tracer, or name one in TRACER_BIN, or let \
             `cargo xtask test` do it",
            test.display()
        )
    })
}
