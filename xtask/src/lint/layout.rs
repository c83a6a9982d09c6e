//! `ABI_VERSION` and the layouts that kernel and user side share change together.
//!
//! `tracer-common/abi.lock` has one line per version: its number, and a hash of what the layouts say in the source:
//! the `repr` types, the public constants and the table of outcomes, without comments. When that text changes, the
//! line of the current version no longer fits: raise `ABI_VERSION` and run `cargo xtask lint --bless`, which adds
//! the new version's line. It never rewrites a line: to change the layout of a version that nobody has, delete its
//! line by hand, for the reviewer to see.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::Finding;

const FILES: [&str; 4] = ["src/record.rs", "src/filter.rs", "src/outcome.rs", "src/measure.rs"];
const VERSION_FILE: &str = "src/lib.rs";
const LOCK: &str = "abi.lock";

/// Whether the layouts in the crate `common` are those recorded for its `ABI_VERSION`.
///
/// # Errors
/// When a file is missing or cannot be understood.
pub(super) fn check(common: &Path) -> Result<Vec<Finding>> {
    let current = Current::read(common)?;
    let lock = fs::read_to_string(&current.lock)
        .with_context(|| format!("cannot read {}", current.lock.display()))?;
    let text = match recorded(&lock, current.version) {
        Some(hash) if hash == current.hash => return Ok(Vec::new()),
        Some(_) => "a layout changed but not ABI_VERSION: raise it, then run `cargo xtask lint --bless`",
        None => "ABI_VERSION is new: run `cargo xtask lint --bless` to record its layouts",
    };
    Ok(vec![Finding { file: common.join(VERSION_FILE), line: None, text: text.to_owned() }])
}

/// Records the layouts of an `ABI_VERSION` that has no line yet.
///
/// # Errors
/// When the version has a line with other layouts, or a file cannot be read or written.
pub(super) fn bless(common: &Path) -> Result<()> {
    let current = Current::read(common)?;
    let mut lock = fs::read_to_string(&current.lock).unwrap_or_default();
    match recorded(&lock, current.version) {
        Some(hash) if hash == current.hash => return Ok(()),
        Some(_) => bail!(
            "{} has other layouts for ABI_VERSION {}. Raise ABI_VERSION, or delete the line if no release has it",
            current.lock.display(),
            current.version
        ),
        None => lock += &format!("{} {}\n", current.version, current.hash),
    }
    fs::write(&current.lock, lock).with_context(|| format!("cannot write {}", current.lock.display()))
}

struct Current {
    lock: PathBuf,
    version: u32,
    hash: String,
}

impl Current {
    fn read(common: &Path) -> Result<Self> {
        let read = |name| {
            let path = common.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let version = abi_version(&read(VERSION_FILE)?)
            .with_context(|| format!("{VERSION_FILE} has no `pub const ABI_VERSION: u32 = N;`"))?;
        let texts = FILES.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            lock: common.join(LOCK),
            version,
            hash: hash(texts.iter().flat_map(|text| layout_lines(text))),
        })
    }
}

fn abi_version(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("pub const ABI_VERSION: u32 = "))?;
    line.strip_suffix(';')?.parse().ok()
}

fn recorded(lock: &str, version: u32) -> Option<&str> {
    lock.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(number, _)| *number == version.to_string())
        .map(|x| x.1)
}

/// The lines of a source file that fix a layout or the meaning of a number.
fn layout_lines(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        in_block |= line.starts_with("#[repr(") || line.starts_with("outcomes! {");
        let code = line.split("//").next().unwrap_or_default().trim();
        if !code.is_empty() && (in_block || line.starts_with("pub const ")) {
            // An outcome's sentence for people is no layout: `Name = 0, "name", "sentence";`
            let code = code.split_once("\", \"").map_or(code, |(number_and_name, _)| number_and_name);
            lines.push(code.to_owned());
        }
        in_block &= line != "}";
    }
    // Derives and functions change nothing in a layout.
    lines.retain(|line| !line.starts_with("#[derive") && !line.contains("fn "));
    lines
}

/// FNV-1a, 64 bits: tells a change from no change, and nothing more is asked of it.
fn hash(lines: impl Iterator<Item = String>) -> String {
    let bytes = lines.flat_map(|line| (line + "\n").into_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str =
        "/// A record.\n#[repr(C)]\n#[derive(Clone)]\npub struct R {\n    /// Time.\n    pub a: u64,\n}\n";

    /// A crate with these sources, and a lock that was blessed for `RECORD` and version 1.
    fn findings(version: u32, record: &str) -> usize {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        let write = |version: u32, record: &str| {
            fs::write(dir.path().join(VERSION_FILE), format!("pub const ABI_VERSION: u32 = {version};\n"))
                .unwrap();
            fs::write(dir.path().join(FILES[0]), record).unwrap();
            fs::write(dir.path().join(FILES[1]), "pub const N: usize = 4;\n").unwrap();
            fs::write(dir.path().join(FILES[2]), "outcomes! {\n    A = 0, \"a\", \"an a\";\n}\n").unwrap();
            fs::write(dir.path().join(FILES[3]), "pub const M: u32 = 2;\n").unwrap();
        };
        write(1, RECORD);
        bless(dir.path()).unwrap();
        write(version, record);
        check(dir.path()).unwrap().len()
    }

    #[test]
    fn the_recorded_layout_passes_also_with_other_comments() {
        assert_eq!(findings(1, RECORD), 0);
        assert_eq!(findings(1, &RECORD.replace("Time.", "Nanoseconds.")), 0);
    }

    #[test]
    fn a_changed_layout_needs_a_new_version() {
        assert_eq!(findings(1, &RECORD.replace("u64", "u32")), 1);
    }

    #[test]
    fn a_new_version_needs_a_line_in_the_lock() {
        assert_eq!(findings(2, &RECORD.replace("u64", "u32")), 1);
    }

    #[test]
    fn blessing_never_rewrites_a_version() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join(VERSION_FILE), "pub const ABI_VERSION: u32 = 1;\n").unwrap();
        for file in FILES {
            fs::write(dir.path().join(file), RECORD).unwrap();
        }
        fs::write(dir.path().join(LOCK), "1 0123456789abcdef\n").unwrap();

        let error = bless(dir.path()).unwrap_err();

        assert!(error.to_string().contains("Raise ABI_VERSION"));
    }
}
