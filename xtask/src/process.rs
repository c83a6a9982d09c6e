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
    elevated(is_root(), program.as_ref(), variables)
}

fn elevated<'a>(
    is_root: bool,
    program: &OsStr,
    variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Command {
    if is_root {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_asked_only_without_root_and_the_variables_pass_it() {
        let program = OsStr::new("/target/tracer-lab");
        let variables = [("TRACER_BIN", OsStr::new("/target/tracer"))];

        assert_eq!(shown(&elevated(true, program, variables)), "/target/tracer-lab");
        assert_eq!(
            shown(&elevated(false, program, variables)),
            "sudo env TRACER_BIN=/target/tracer /target/tracer-lab"
        );
    }

    #[test]
    fn a_command_that_fails_is_an_error_that_shows_it() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();

        assert!(error.to_string().starts_with("sh -c exit 3 ended with"), "{error}");
    }
}
