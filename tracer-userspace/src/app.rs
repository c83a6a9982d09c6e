//! What each command does, and how a failure is told.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::CommandFactory;
use kube::CustomResourceExt as _;
use serde_json::json;

use crate::cli::{Cli, Color, Command, ProgramLog};
use crate::follow::teller::Telling;
use crate::kubernetes::packet_trace::{PacketPayload, PacketTrace};
use crate::{doctor, follow, path, serve};

/// Why a command ended without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something did not work: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Something was typed wrong: exit code 2, as clap's own errors.
    #[error("{0}")]
    Usage(String),
    /// Nobody reads our output any more: that is no failure.
    #[error("the reader has gone")]
    BrokenPipe,
}

impl Failure {
    /// Prints it for the operator.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Failed(text) => {
                notice(&format!("error: {text}"));
                ExitCode::from(1)
            }
            Self::Usage(text) => {
                notice(&format!("error: {text}"));
                ExitCode::from(2)
            }
            Self::BrokenPipe => ExitCode::SUCCESS,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Failed(format!("cannot write the output: {error}"))
        }
    }
}

/// Whether what is said goes to the log: of a process that nobody sits before.
static LOGS: AtomicBool = AtomicBool::new(false);

/// A line for the operator, besides the output. Where stderr is closed nobody wants it.
pub fn notice(text: &str) {
    if !LOGS.load(Ordering::Relaxed) {
        let _ = writeln!(io::stderr(), "{text}");
        return;
    }
    match text.split_once(": ") {
        Some(("error", text)) => tracing::error!("{text}"),
        Some(("warning", text)) => tracing::warn!("{text}"),
        Some(("note", text)) => tracing::info!("{text}"),
        _ => tracing::info!("{text}"),
    }
}

/// Runs a command.
///
/// # Errors
/// [`Failure`].
pub fn run(cli: Cli) -> Result<(), Failure> {
    start_logging(&cli.command);
    match cli.command {
        Command::Follow(args) => follow::run::follow(&args.run, Telling::Text(&args.telling)),
        Command::Capture(args) => follow::run::follow(&args.run, Telling::Capture(&args)),
        Command::Read(args) => follow::read::run(&args),
        Command::Observe(args) => follow::observe::run(&args),
        Command::Metrics(args) => follow::measure::run(&args),
        Command::Agent(args) => serve::run::run(&args),
        Command::Points(args) => follow::points::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Path(args) => path::run::run(&args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tracer", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
        Command::Crd => print_definitions(),
        Command::Man { directory } => write_manual(&directory),
    }
}

/// JSON, which kubectl takes as well as YAML.
fn print_definitions() -> Result<(), Failure> {
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [PacketTrace::crd(), PacketPayload::crd()],
    });
    let text = serde_json::to_string_pretty(&list)
        .map_err(|error| Failure::Failed(format!("cannot print the definition: {error}")))?;
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// A page for each command, as `man` reads them.
fn write_manual(directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command().name("tracer"), directory))
        .map_err(|error| {
            Failure::Failed(format!("cannot write manual pages into {}: {error}", directory.display()))
        })
}

/// Logs go to stderr: warnings, and what the programs say where that was asked for; `TRACER_LOG` says otherwise
/// (`TRACER_LOG=debug`).
fn start_logging(command: &Command) {
    let program_log = match command {
        Command::Follow(args) => args.run.hooks.program_log,
        Command::Capture(args) => args.run.hooks.program_log,
        Command::Observe(args) => args.hooks.program_log,
        Command::Metrics(args) => args.hooks.program_log,
        Command::Agent(args) => args.program_log,
        Command::Points(_)
        | Command::Doctor(_)
        | Command::Path(_)
        | Command::Read(_)
        | Command::Completion { .. }
        | Command::Crd
        | Command::Man { .. } => ProgramLog::Off,
    };
    let is_agent = matches!(command, Command::Agent(_));
    LOGS.store(is_agent, Ordering::Relaxed);
    let default = match (is_agent, program_log) {
        (true, ProgramLog::Off) => "warn,tracer=info",
        (true, _) => "warn,tracer=info,tracer_ebpf=trace",
        (false, ProgramLog::Off) => "warn",
        (false, _) => "warn,tracer_ebpf=trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TRACER_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// Whether the output is to be coloured (<https://no-color.org>).
#[must_use]
pub fn wants_color(choice: Color) -> bool {
    match choice {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}
