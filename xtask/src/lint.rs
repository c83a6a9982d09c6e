//! Formatting, clippy, and the rules of this project that no tool knows.
//!
//! | module | rule |
//! |---|---|
//! | `sources` | every `.rs` file belongs to a crate; no `mod.rs` |
//! | `length` | files stay readable in one go |
//! | `sleep` | tests wait for a condition, not for time |
//! | `layout` | `ABI_VERSION` and the shared layouts change together |

mod layout;
mod length;
mod sleep;
mod sources;

use std::{
    fmt,
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::{Result, bail};
use ebpf_build::pins::Manifest;

use crate::{cargo, process, setup};

/// Fuzz targets are not members of the workspace, but follow its rules.
const FUZZ: &str = "fuzz";

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: PathBuf,
    /// From 1; `None` for the whole file.
    line: Option<usize>,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Runs all three. With `bless`, first records the layouts of a new `ABI_VERSION`.
///
/// # Errors
/// When one finds something.
pub(crate) fn run(bless: bool) -> Result<()> {
    // clippy runs the build scripts, which compile for eBPF.
    setup::run(false)?;
    rules(bless)?;
    fmt()?;
    clippy()
}

/// Checks the formatting of all crates.
///
/// # Errors
/// When a file is not as rustfmt writes it.
pub(crate) fn fmt() -> Result<()> {
    // rustfmt colours its differences also in a log.
    let colour = if io::stdout().is_terminal() { "--color=auto" } else { "--color=never" };
    for crates in ["--all", "--manifest-path=fuzz/Cargo.toml"] {
        process::run(cargo::cargo().args(["fmt", crates, "--check", "--", colour]))?;
    }
    Ok(())
}

/// Runs clippy on everything that builds for the host.
///
/// # Errors
/// When it warns.
pub(crate) fn clippy() -> Result<()> {
    process::run(cargo::for_tests("clippy")?.args(["--all-targets", "--", "-Dwarnings"]))
}

/// Checks the project's own rules.
///
/// # Errors
/// When one is broken; each finding is on stderr.
pub(crate) fn rules(bless: bool) -> Result<()> {
    let root = ebpf_build::workspace_root();
    let common = root.join("tracer-common");
    if bless {
        layout::bless(&common)?;
    }
    let mut findings = layout::check(&common)?;
    let manifest = Manifest::read(root)?;
    for dir in manifest.members().chain([FUZZ]) {
        let sources = sources::Sources::of_crate(&root.join(dir))?;
        findings.extend(sources.check());
        findings.extend(length::check(&sources)?);
        findings.extend(sleep::check(&sources)?);
    }
    findings.sort();
    for finding in &findings {
        let file = finding.file.strip_prefix(root).unwrap_or(&finding.file).to_owned();
        eprintln!("{}", Finding { file, line: finding.line, text: finding.text.clone() });
    }
    if !findings.is_empty() {
        bail!("the project's rules are broken in {} places", findings.len());
    }
    Ok(())
}
