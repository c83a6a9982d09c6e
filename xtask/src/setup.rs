//! Installs what cargo does not bring. Versions stand in the root `Cargo.toml`, `[workspace.metadata.toolchain]`.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use ebpf_build::{
    pins::{Manifest, Pins},
    toolchain::{self, Compiler, Toolchain},
};

use crate::{
    cargo,
    process::{self, as_root, is_root, run as run_command},
};

/// What has to be installed, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    /// Debian packages.
    packages: Vec<String>,
    /// Why there is no compiler for eBPF.
    compiler: Option<String>,
    /// Why bpf-linker is (re)installed.
    linker: Option<String>,
}

/// Installs what is missing, or with `check_only` fails if something is.
///
/// # Errors
/// When something is missing and cannot be installed; says what to install by hand.
pub(crate) fn run(check_only: bool) -> Result<()> {
    let pins = Manifest::read(ebpf_build::workspace_root())?.pins()?;
    let missing = Missing::find(&pins);
    if missing == Missing::default() {
        eprintln!("setup: all there ({})", Toolchain::find(&pins)?);
        return Ok(());
    }
    eprint!("{}", missing.explained(&pins));
    if check_only {
        bail!("the toolchain is not complete. Run `cargo xtask setup`");
    }
    if !missing.packages.is_empty() {
        install_packages(&missing.packages, &pins)?;
    }
    if missing.linker.is_some() {
        install_linker(&pins)?;
    }
    eprintln!("setup: done ({})", Toolchain::find(&pins)?);
    Ok(())
}

impl Missing {
    fn find(pins: &Pins) -> Self {
        let compiler = Compiler::find(pins).err();
        let linker = linker_problem(pins);
        let mut wanted = Vec::new();
        if compiler.is_some() {
            wanted.extend_from_slice(&pins.debian_compiler);
        }
        if linker.is_some() {
            wanted.extend_from_slice(&pins.debian_linker);
        }
        if has_apt() {
            wanted.extend_from_slice(&pins.debian_test);
            if process::output(Command::new("python3").args(["-m", "pip", "--version"])).is_none() {
                wanted.push("python3-pip".to_owned());
            }
        } else {
            eprintln!(
                "setup: no apt here, tests and demo expect the programs of {}",
                pins.debian_test.join(", ")
            );
        }
        wanted.sort();
        wanted.dedup();
        Self { packages: not_installed(wanted), compiler, linker }
    }

    fn explained(&self, pins: &Pins) -> String {
        let mut text = String::new();
        if let Some(reason) = &self.compiler {
            text += &format!("setup: no compiler for eBPF yet: {reason}\n");
        }
        if let Some(reason) = &self.linker {
            let version = &pins.bpf_linker;
            text += &format!("setup: {reason}: cargo will build bpf-linker {version} (about a minute)\n");
        }
        if !self.packages.is_empty() {
            let packages = self.packages.join(" ");
            text += &format!("setup: missing Debian packages (a minute or two, up to 1 GB): {packages}\n");
        }
        text
    }
}

/// Why the bpf-linker that is there, if any, is not the pinned one.
fn linker_problem(pins: &Pins) -> Option<String> {
    let Some(linker) = toolchain::find_linker() else {
        return Some("bpf-linker is not installed".to_owned());
    };
    // It is linked with LLVM's shared library, and does not even say its version where that is gone.
    let Some(version) = process::output(Command::new(&linker).arg("--version")) else {
        return Some(format!("{} does not run", linker.display()));
    };
    let version = version.split_whitespace().last().unwrap_or("?");
    (version != pins.bpf_linker)
        .then(|| format!("{} is version {version}, not {}", linker.display(), pins.bpf_linker))
}

fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists() && Path::new("/usr/bin/dpkg-query").exists()
}

/// Those of `packages` that dpkg does not know as installed.
fn not_installed(packages: Vec<String>) -> Vec<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\n"]).args(&packages);
    // It fails if it does not know one of them, and still prints the others.
    let known = query.output().map(|output| output.stdout).unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    let is_installed = |package: &str| known.lines().any(|line| line == format!("{package} installed"));
    packages.into_iter().filter(|package| !is_installed(package)).collect()
}

fn install_packages(packages: &[String], pins: &Pins) -> Result<()> {
    if !has_apt() {
        bail!(
            "this system has no apt-get. Install by hand: the toolchain {nightly:?} with rust-src (`rustup toolchain \
             install {nightly} --component rust-src`), LLVM {llvm} with headers, a C++ compiler, and then \
             `cargo install bpf-linker --version {linker} --locked --no-default-features --features llvm-{llvm}` \
             with LLVM_PREFIX set to LLVM's directory",
            nightly = pins.nightly,
            llvm = pins.llvm,
            linker = pins.bpf_linker,
        );
    }
    if !is_root() {
        eprintln!("setup: apt-get needs root: runs with sudo, which may ask for your password");
    }
    run_command(apt_get().args(["--quiet", "update"])).context("cannot update the list of packages")?;
    let mut install = apt_get();
    install.args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(packages);
    run_command(&mut install).with_context(|| {
        format!(
            "cannot install the Debian packages. Where the distribution has none of these names, install rustup's \
             {} with rust-src, and LLVM {} from apt.llvm.org",
            pins.nightly, pins.llvm
        )
    })
}

fn apt_get() -> Command {
    let noninteractive = [("DEBIAN_FRONTEND", "noninteractive".as_ref())];
    let mut command = as_root("apt-get", noninteractive);
    // Another apt may be at work, on a machine that has just started for one.
    command.arg("--option=DPkg::Lock::Timeout=120");
    command
}

fn install_linker(pins: &Pins) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{}", pins.llvm);
    let mut install = cargo::cargo();
    for name in toolchain::host_build_variables() {
        install.env_remove(name);
    }
    if Path::new(&prefix).exists() {
        install.env("LLVM_PREFIX", &prefix);
    }
    install.args(["install", "bpf-linker", "--locked", "--force", "--no-default-features"]);
    install.args([format!("--version={}", pins.bpf_linker), format!("--features=llvm-{}", pins.llvm)]);
    run_command(&mut install)
}
