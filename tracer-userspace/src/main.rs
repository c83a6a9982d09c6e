//! The binary: parse, run, say how it ended.

use std::process::ExitCode;

use clap::Parser;
use tracer::app;
use tracer::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match app::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
