//! Builds and runs the demo.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{cargo, process, setup};

/// Sets up, builds the release programs and becomes `tracer-lab demo`, so that Ctrl-C and the exit code are its
/// own. Returns only if that fails.
///
/// # Errors
/// When setup or build fail, or the program cannot be started.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    setup::run(false)?;
    eprintln!("demo: builds tracer and the lab (some minutes the first time, seconds later)");
    let built = cargo::build(["build", "--release", "--bins", "--package=tracer", "--package=tracer-lab"])?;
    let tracer = cargo::program(&built, "tracer")?;
    let lab = cargo::program(&built, "tracer-lab")?;
    if !process::is_root() {
        eprintln!(
            "demo: network namespaces and eBPF need root: runs with sudo, which may ask for your password"
        );
    }
    let mut demo = process::as_root(lab, [("TRACER_BIN", tracer.as_os_str())]);
    demo.arg("demo").args(arguments);
    Err(demo.exec()).with_context(|| format!("cannot start {}", process::shown(&demo)))
}
