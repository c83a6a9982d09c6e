//! Tests wait for a condition with a deadline, not for time: a sleep is too short on a busy machine and too long
//! everywhere else. Where a wait has to poll, a comment `// sleep: why` on the line or directly above allows it.

use std::path::Path;

use anyhow::Result;

use super::{
    Finding,
    sources::{self, Sources},
};

const CALLS: [&str; 2] = ["sleep(", "sleep_until("];
const REASON: &str = "// sleep: ";

/// Sleeps in tests and in the crates that exist for tests.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn check(sources: &Sources) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in sources.files() {
        let text = sources::read(file)?;
        let lines = sleeps(&text, is_test_file(sources.dir(), file));
        findings.extend(lines.into_iter().map(|line| Finding {
            file: file.to_owned(),
            line: Some(line),
            text: "a test sleeps: wait for a condition with a deadline (or say `// sleep: why`)".to_owned(),
        }));
    }
    Ok(findings)
}

/// Whether the whole file is test code.
fn is_test_file(crate_dir: &Path, file: &Path) -> bool {
    let in_crate = file.strip_prefix(crate_dir).unwrap_or(file);
    let of_test_crate = crate_dir.parent().is_some_and(|parent| parent.ends_with("tests"));
    of_test_crate || file.ends_with("tests.rs") || in_crate.iter().any(|part| part == "tests")
}

/// Numbers of the lines that sleep without a reason. Outside test files only what follows `#[cfg(test)]` counts:
/// test modules stand at the end.
fn sleeps(text: &str, is_test_file: bool) -> Vec<usize> {
    let mut in_tests = is_test_file;
    let mut allowed = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        in_tests |= code.trim() == "#[cfg(test)]";
        if line.contains(REASON) {
            allowed = true;
        }
        if in_tests && !allowed && CALLS.iter().any(|call| calls(code, call)) {
            found.push(index + 1);
        }
        // A reason lasts through its comment to the end of the next line of code.
        if !code.trim().is_empty() {
            allowed = false;
        }
    }
    found
}

/// Whether the code, not a text in it, calls a function of exactly this name.
fn calls(code: &str, call: &str) -> bool {
    code.match_indices(call).any(|(at, _)| {
        let before = &code[..at];
        let in_text = before.replace("\\\"", "").matches('"').count() % 2 == 1;
        let in_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        !in_text && !in_name && !before.ends_with("fn ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_in_a_test_is_found() {
        let text = "fn poll() { thread::sleep(d) }\n#[cfg(test)]\nmod tests {\n    tokio::time::sleep(d).await;\n}\n";

        assert_eq!(sleeps(text, false), [4]);
        assert_eq!(sleeps(text, true), [1, 4]);
    }

    #[test]
    fn a_sleep_with_a_reason_passes_once() {
        let text = "// sleep: polls, the kernel sends no event\n// for this.\nsleep(d);\nsleep(d);\n";

        assert_eq!(sleeps(text, true), [4]);
    }

    #[test]
    fn words_that_only_contain_it_pass() {
        assert_eq!(sleeps("run(\"sleep 5\"); // sleep(1)\nfn sleep(d: u8) {}\nnosleep(1);\n", true), [0; 0]);
    }

    #[test]
    fn the_crates_below_tests_are_test_code() {
        assert!(is_test_file(Path::new("/w/tests/lab"), Path::new("/w/tests/lab/src/node.rs")));
        assert!(is_test_file(Path::new("/w/tracer"), Path::new("/w/tracer/src/a/tests.rs")));
        assert!(!is_test_file(Path::new("/w/tracer"), Path::new("/w/tracer/src/a.rs")));
    }
}
