//! Running other programs.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

/// Runs a command with our own input and output.
///
/// # Errors
/// When it cannot be started or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// The standard output of a command that ends with 0; `None` where it does not or is not there.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command that runs as root with these environment variables: through sudo where we are not root.
pub(crate) fn as_root<'a>(
    program: impl AsRef<OsStr>,
    variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables);
        return command;
    }
    let mut command = Command::new("sudo");
    // sudo resets the environment, `env` sets ours behind it.
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = OsStr::new(name).to_owned();
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Whether we run with user id 0.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
