//! Running cargo, and finding what it built.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;

/// Selects all crates that build for the host. Every cargo command uses the same selection: with another one, the
/// crates' features would differ and everything would build once more.
const HOST_CRATES: [&str; 5] = ["--workspace", "--exclude", "tracer-ebpf", "--exclude", "tracer-lab-ebpf"];

/// An executable that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// Name of the cargo target.
    pub(crate) name: String,
    /// Directory of the crate.
    pub(crate) crate_dir: PathBuf,
    /// A test harness, not a program.
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(ebpf_build::workspace_root());
    cargo
}

/// The profile in which tests and what they run are built, see the root `Cargo.toml`.
const TEST_PROFILE: &str = "tests";

/// `cargo SUBCOMMAND` for the host's crates as the tests are built: statically linked, so that the same files run on this
/// machine and, whatever C library is there, in the virtual machines. Every command that compiles them uses it: what one
/// has built the next one need not build again.
///
/// # Errors
/// When the compiler does not say what it builds for.
pub(crate) fn for_tests(subcommand: &str) -> Result<Command> {
    let mut cargo = cargo();
    // With --target the flags do not reach build scripts.
    cargo.args([subcommand, "--profile", TEST_PROFILE, "--target", &host_triple()?]).args(HOST_CRATES);
    cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(cargo)
}

/// Builds every program and test harness of the host's crates.
///
/// # Errors
/// When the build fails; cargo has printed why.
pub(crate) fn build_tests() -> Result<Vec<Executable>> {
    executables(for_tests("build")?.args(["--bins", "--tests"]))
}

/// Builds, and returns the executables. `arguments` begin with the subcommand.
///
/// # Errors
/// When the build fails; cargo has printed why.
pub(crate) fn build<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Vec<Executable>> {
    let mut cargo = cargo();
    cargo.args(arguments);
    executables(&mut cargo)
}

/// Runs a cargo that builds, and returns what it built.
///
/// # Errors
/// When the build fails; cargo has printed why.
pub(crate) fn executables(cargo: &mut Command) -> Result<Vec<Executable>> {
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("cannot start {}", process::shown(cargo)))?;
    if !output.status.success() {
        bail!("{} ended with {}", process::shown(cargo), output.status);
    }
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| executable(line).transpose()).collect()
}

/// What the compiler builds for when nothing else is said.
pub(crate) fn host_triple() -> Result<String> {
    let version = process::output(rustc().arg("-vV")).context("cannot run rustc")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not name the host")
}

/// The compiler that cargo uses.
pub(crate) fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The executable of one line of cargo's JSON messages, if the line is about one.
fn executable(line: &str) -> Result<Option<Executable>> {
    let message: Value =
        serde_json::from_str(line).with_context(|| format!("cargo printed what is not JSON: {line}"))?;
    let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
    let (Some(path), Some(name), Some(manifest)) =
        (text("/executable"), text("/target/name"), text("/manifest_path"))
    else {
        return Ok(None);
    };
    Ok(Some(Executable {
        name: name.to_owned(),
        crate_dir: Path::new(manifest).parent().unwrap_or(Path::new("/")).to_owned(),
        is_test: message.pointer("/profile/test").and_then(Value::as_bool).unwrap_or(false),
        path: PathBuf::from(path),
    }))
}

/// The program of this name among those that were built.
///
/// # Errors
/// When it was not built.
pub(crate) fn program<'a>(built: &'a [Executable], name: &str) -> Result<&'a Path> {
    let program = built.iter().find(|executable| !executable.is_test && executable.name == name);
    program
        .map(|executable| executable.path.as_path())
        .with_context(|| format!("no crate of the workspace has a program named {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_harness_is_told_from_a_program() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/lab/Cargo.toml",
            "target":{"name":"tracer_lab","kind":["lib"]},"profile":{"test":true},"executable":"/t/tracer_lab-1"}"#;

        let executable = executable(&line.replace('\n', "")).unwrap().unwrap();

        assert!(executable.is_test);
        assert_eq!(executable.crate_dir, Path::new("/w/tests/lab"));
        assert!(program(&[executable], "tracer_lab").is_err());
    }

    #[test]
    fn a_library_is_no_executable() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/Cargo.toml","target":{"name":"a"},"executable":null}"#;

        assert_eq!(executable(line).unwrap(), None);
    }
}
