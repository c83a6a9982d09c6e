//! Builds and runs the fidelity bench: tests/fidelity.

use std::{env, ffi::OsStr, ffi::OsString};

use anyhow::Result;

use crate::{cargo, process, setup};

/// Sets up, builds what `cargo xtask test` builds, and runs the bench as root. The bench judges the arguments itself.
///
/// # Errors
/// When setup or build fail, or the bench finds that something told is not true.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    setup::run(false)?;
    let built = cargo::build_tests()?;
    let tracer = cargo::program(&built, "tracer")?;
    let bench = cargo::program(&built, "tracer-fidelity")?;
    // A failing run shows where, also behind sudo.
    let backtrace = env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into());
    let variables: [(&str, &OsStr); 2] = [("TRACER_BIN", tracer.as_os_str()), ("RUST_BACKTRACE", &backtrace)];
    process::run(process::as_root(bench, variables).args(arguments))
}
