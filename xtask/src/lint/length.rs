//! Files stay readable in one go.

use anyhow::Result;

use super::{
    Finding,
    sources::{self, Sources},
};

/// Longer files are reported but pass.
const WARN: usize = 500;
/// Longer files are refused, tests included.
const LIMIT: usize = 800;

/// Files over the limit; warns on stderr of those that come near.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn check(sources: &Sources) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in sources.files() {
        let lines = sources::read(file)?.lines().count();
        if lines > LIMIT {
            let text = format!("{lines} lines, {LIMIT} at most: split it, or move its tests to a file");
            findings.push(Finding { file: file.to_owned(), line: None, text });
        } else if lines > WARN {
            let file = file.strip_prefix(ebpf_build::workspace_root()).unwrap_or(file).display();
            eprintln!("warning: {file}: {lines} lines, better under {WARN}");
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn findings(lines: usize) -> usize {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        fs::write(dir.path().join("src/lib.rs"), "//\n".repeat(lines)).unwrap();
        check(&Sources::of_crate(dir.path()).unwrap()).unwrap().len()
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        assert_eq!(findings(LIMIT), 0);
        assert_eq!(findings(LIMIT + 1), 1);
    }
}
