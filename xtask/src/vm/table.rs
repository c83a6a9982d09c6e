//! The matrix as a table: a line for each test group, a column for each kernel.

use std::{fmt::Write as _, time::Duration};

use super::{facts::Facts, job::Outcome};

/// What one kernel did.
#[derive(Debug)]
pub(crate) struct Column {
    /// Like `6.12`.
    pub(crate) kernel: String,
    /// Debian's version.
    pub(crate) version: String,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) facts: Facts,
    /// Why there are no (more) outcomes.
    pub(crate) problem: Option<String>,
    pub(crate) took: Duration,
}

impl Column {
    /// Takes in what it did as one of two nodes.
    pub(crate) fn add_pair(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let value = if outcome.passed { "yes" } else { "no" };
            self.facts.push((outcome.group.clone(), value.to_owned()));
            self.outcomes.push(outcome.clone());
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.problem.is_none() && self.outcomes.iter().all(|outcome| outcome.passed)
    }
}

/// The table: seconds and number of tests, `FAILED`, or `-` where a kernel does not run a group.
pub(crate) fn render(columns: &[Column]) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for outcome in columns.iter().flat_map(|column| &column.outcomes) {
        if !groups.contains(&outcome.group.as_str()) {
            groups.push(&outcome.group);
        }
    }
    groups.sort_unstable();
    let width =
        groups.iter().map(|group| group.len()).max().unwrap_or(0).max("test group (seconds, tests)".len());
    let mut text = format!("{:<width$}", "test group (seconds, tests)");
    for column in columns {
        let _ = write!(text, "  {:>14}", column.kernel);
    }
    text.push('\n');
    for group in groups {
        let _ = write!(text, "{group:<width$}");
        for column in columns {
            let outcome = column.outcomes.iter().find(|outcome| outcome.group == group);
            let _ = write!(text, "  {:>14}", outcome.map_or_else(|| "-".to_owned(), cell));
        }
        text.push('\n');
    }
    let _ = write!(text, "{:<width$}", "all, with boot");
    for column in columns {
        let all = if column.passed() { seconds(column.took) } else { "FAILED".to_owned() };
        let _ = write!(text, "  {all:>14}");
    }
    text.push('\n');
    for column in columns {
        let _ = writeln!(text, "{}: Debian's {}", column.kernel, column.version);
    }
    text
}

fn cell(outcome: &Outcome) -> String {
    let failed = outcome.tests.iter().filter(|(_, word, _)| word == "FAILED").count();
    match (outcome.passed, failed) {
        (true, _) => format!("{} ({})", seconds(outcome.took), outcome.tests.len()),
        (false, 0) => "FAILED".to_owned(),
        (false, failed) => format!("FAILED ({failed})"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}
