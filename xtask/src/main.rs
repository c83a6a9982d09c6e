//! The one front door to everything that is done with this repository: `cargo xtask help`.
//!
//! | module | holds |
//! |---|---|
//! | `cli` | the commands and their arguments |
//! | `setup` | the toolchain that cargo does not bring |
//! | `demo` | builds and runs the demo |
//! | `test` | everything that CI runs, in steps |
//! | `lint` | formatting, clippy and this project's own rules |
//! | `benches` | whether what tracer tells is true, and what observing costs |
//! | `fuzz` | bounded runs of the fuzz targets |
//! | `vm` | the integration tests on other kernels, in virtual machines |
//! | `package` | an archive for those who install it |
//! | `chart`, `image` | the Helm chart and the container image |
//! | `e2e` | the reference walks on a real cluster |
//! | `cargo`, `process`, `steps` | helpers: cargo's artifacts, commands, timing |
//!
//! A new command is a variant of [`cli::Command`], a line in [`cli::USAGE`], and a module with a `run`.

mod benches;
mod cargo;
mod chart;
mod cli;
mod demo;
mod e2e;
mod fuzz;
mod image;
mod lint;
mod package;
mod process;
mod setup;
mod steps;
mod test;
mod vm;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::cli::Command;

/// The command was understood and failed.
const FAILED: u8 = 1;
/// The command was not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", cli::USAGE);
            return ExitCode::from(USAGE);
        }
    };
    let result = match command {
        Command::Help => {
            // Who closes the pipe has read enough.
            let _ = writeln!(io::stdout(), "{}", cli::USAGE);
            Ok(())
        }
        Command::Setup { check } => setup::run(check),
        Command::Demo { arguments } => demo::run(&arguments),
        Command::Fidelity { arguments } => benches::fidelity(&arguments),
        Command::Bench { arguments } => benches::cost(&arguments),
        Command::Test(options) => test::run(&options),
        Command::Lint { bless } => lint::run(bless),
        Command::Package => package::run(),
        Command::Chart => chart::run(),
        Command::Image => image::run(),
        Command::E2e(options) => e2e::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
