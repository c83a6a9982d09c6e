//! A run of named steps, timed, with a table at its end.

use std::{fmt, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

/// Steps that ran so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: &'static str,
    took: Duration,
    failed: bool,
}

impl Steps {
    /// Runs one step. Its name goes to stderr first; if it fails, the error says which command repeats it alone.
    ///
    /// # Errors
    /// Those of the step.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        repeat: &str,
        step: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let result = step();
        self.done.push(Done { name, took: start.elapsed(), failed: result.is_err() });
        result.with_context(|| format!("step {name:?} failed (repeat it alone with `{repeat}`)"))
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>9}", "step", "seconds")?;
        for Done { name, took, failed } in &self.done {
            let mark = if *failed { "  FAILED" } else { "" };
            writeln!(f, "{name:<20} {:>9.1}{mark}", took.as_secs_f64())?;
        }
        let total: Duration = self.done.iter().map(|step| step.took).sum();
        write!(f, "{:<20} {:>9.1}", "total", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_step_says_how_to_repeat_it_and_is_marked_in_the_table() {
        let mut steps = Steps::default();

        steps.run("first", "cargo xtask test --only first", || Ok(())).unwrap();
        let error = steps.run("second", "cargo xtask test --only second", || bail!("no")).unwrap_err();

        assert!(error.to_string().contains("`cargo xtask test --only second`"));
        let table = steps.to_string();
        assert!(table.lines().any(|line| line.starts_with("second") && line.ends_with("FAILED")), "{table}");
        assert!(table.lines().any(|line| line.starts_with("first") && !line.ends_with("FAILED")), "{table}");
    }
}
