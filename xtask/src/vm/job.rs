//! What a kernel's machines run, as a shell script, and what a console says about it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::guest::Guest;

/// One run of a test program: a group of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Like `every_hop, tcx`.
    pub(crate) name: String,
    /// File below /programs.
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(&'static str, &'static str)>,
}

/// Where the machines of a kernel note what they have taken, in the directory that they share.
pub(crate) const TAKEN: &str = "taken";
/// Where the tests note what they have found out.
pub(crate) const FACTS: &str = "facts";

/// How a group went.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) group: String,
    pub(crate) passed: bool,
    pub(crate) took: Duration,
    /// Each test with the word that the test program said of it (`ok`, `FAILED`, `ignored`), and how long it took.
    pub(crate) tests: Vec<(String, String, Duration)>,
}

/// The script that takes one group after the other, runs it, and marks where it begins and ends. A group that another
/// machine has taken is left to that.
pub(crate) fn script(groups: &[Group]) -> String {
    let mut script = "cd /programs\n".to_owned();
    for (number, group) in groups.iter().enumerate() {
        let name = &group.name;
        let mut command = format!("env TRACER_FACTS=/job/{FACTS}/{number}");
        for (variable, value) in &group.variables {
            let _ = write!(command, " {variable}={}", quoted(value));
        }
        let _ = write!(command, " ./{}", quoted(&group.program));
        for argument in &group.arguments {
            let _ = write!(command, " {}", quoted(argument));
        }
        // Making a directory is one step: only one machine can do it. The marks are on lines of their own, whatever a test
        // or the kernel has begun to print.
        let _ = writeln!(
            script,
            "if mkdir /job/{TAKEN}/{number} 2>/dev/null; then\nprintf '\\n@@ begin {name}\\n'\n{command} 2>&1\n\
             printf '\\n@@ end %s {name}\\n' $?\nfi"
        );
    }
    script
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Reads the console until the machine has switched itself off. `tell` gets each line that may interest somebody who
/// waits.
///
/// # Errors
/// When the machine hangs, breaks, or ends before its job.
pub(crate) fn follow(guest: &mut Guest, mut tell: impl FnMut(&str)) -> Result<Vec<Outcome>> {
    let mut reader = Reader::default();
    while let Some(line) = guest.next_line()? {
        if line.starts_with("test ") || line.starts_with("@@ ") {
            tell(&line);
        }
        reader.read(&line, Instant::now());
    }
    if !reader.done {
        anyhow::bail!("the machine ended before its job did. {}", guest.shown_console());
    }
    Ok(reader.outcomes)
}

/// Takes the console's lines apart. Pure: the time is given.
#[derive(Debug, Default)]
struct Reader {
    outcomes: Vec<Outcome>,
    begun: Option<(String, Instant)>,
    tests: Vec<(String, String, Duration)>,
    last: Option<Instant>,
    /// A test whose name stood on the line and whose result did not yet.
    open: Option<String>,
    done: bool,
}

impl Reader {
    fn read(&mut self, line: &str, now: Instant) {
        if let Some(mark) = line.strip_prefix("@@ ") {
            self.mark(mark, now);
            return;
        }
        let Some((_, since)) = &self.begun else { return };
        let since = self.last.unwrap_or(*since);
        if let Some(rest) = line.strip_prefix("test ") {
            if let Some((name, result)) = rest.split_once(" ... ") {
                let word = result.split([' ', ',']).next().unwrap_or_default();
                if RESULTS.contains(&word) {
                    self.tests.push((name.to_owned(), word.to_owned(), now - since));
                    self.last = Some(now);
                } else {
                    // The test's own output got in between.
                    self.open = Some(name.to_owned());
                }
            }
        } else if RESULTS.contains(&line)
            && let Some(name) = self.open.take()
        {
            self.tests.push((name, line.to_owned(), now - since));
            self.last = Some(now);
        }
    }

    fn mark(&mut self, mark: &str, now: Instant) {
        if let Some(name) = mark.strip_prefix("begin ") {
            self.begun = Some((name.to_owned(), now));
            self.tests.clear();
            self.last = None;
        } else if let Some(rest) = mark.strip_prefix("end ") {
            let status = rest.split(' ').next().unwrap_or_default();
            if let Some((group, begun)) = self.begun.take() {
                let tests = std::mem::take(&mut self.tests);
                self.outcomes.push(Outcome { group, passed: status == "0", took: now - begun, tests });
            }
        } else if mark == "done" {
            self.done = true;
        }
    }
}

const RESULTS: [&str; 3] = ["ok", "FAILED", "ignored"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_their_tests_are_read_from_the_console() {
        let start = Instant::now();
        let mut reader = Reader::default();
        let lines = [
            "@@ booted 6.1.0-50-amd64",
            "@@ begin points, clsact",
            "running 2 tests",
            "test a ... ok",
            "test b ... note: something",
            "FAILED",
            "@@ end 101 points, clsact",
            "@@ done",
        ];

        for (second, line) in (0u64..).zip(lines) {
            reader.read(line, start + Duration::from_secs(second));
        }

        let [outcome] = &reader.outcomes[..] else { panic!("{reader:?}") };
        assert_eq!((outcome.group.as_str(), outcome.passed), ("points, clsact", false));
        assert_eq!(outcome.took, Duration::from_secs(5));
        let tests = [("a", "ok", 2), ("b", "FAILED", 2)];
        let tests =
            tests.map(|(name, word, took)| (name.to_owned(), word.to_owned(), Duration::from_secs(took)));
        assert_eq!(outcome.tests, tests);
        assert!(reader.done);
    }

    #[test]
    fn a_script_keeps_words_together() {
        let group = Group {
            name: "g".to_owned(),
            program: "p".to_owned(),
            arguments: vec!["it's".to_owned()],
            variables: vec![("A", "b c")],
        };

        let script = script(&[group]);

        assert!(script.contains(" A='b c' ./'p' 'it'\\''s' 2>&1\n"), "{script}");
    }
}
