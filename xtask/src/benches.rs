//! Builds and runs the benches: whether what is told is true (tests/fidelity), and what observing costs (tests/bench).

use std::{
    env,
    ffi::{OsStr, OsString},
};

use anyhow::Result;

use crate::{
    cargo::{self, Executable},
    process, setup,
};

/// Sets up, builds what `cargo xtask test` builds, and runs the fidelity bench as root.
///
/// # Errors
/// When setup or build fail, or the bench finds that something told is not true.
pub(crate) fn fidelity(arguments: &[OsString]) -> Result<()> {
    setup::run(false)?;
    run("tracer-fidelity", &cargo::build_tests()?, arguments)
}

/// Sets up, and runs the bench of costs as root: with the release program, or, to see that all is counted right
/// (`--quick`), with what `cargo xtask test` builds.
///
/// # Errors
/// When setup or build fail, or something is counted wrong.
pub(crate) fn cost(arguments: &[OsString]) -> Result<()> {
    setup::run(false)?;
    let built = if arguments.iter().any(|argument| argument == "--quick") {
        cargo::build_tests()?
    } else {
        cargo::build(["build", "--release", "--bins", "--package=tracer", "--package=tracer-bench"])?
    };
    run("tracer-bench", &built, arguments)
}

/// A bench judges its arguments itself.
fn run(name: &str, built: &[Executable], arguments: &[OsString]) -> Result<()> {
    let tracer = cargo::program(built, "tracer")?;
    let bench = cargo::program(built, name)?;
    // A failing run shows where, also behind sudo.
    let backtrace = env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into());
    let variables: [(&str, &OsStr); 2] = [("TRACER_BIN", tracer.as_os_str()), ("RUST_BACKTRACE", &backtrace)];
    process::run(process::as_root(bench, variables).args(arguments))
}
