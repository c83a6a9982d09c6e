//! Which `.rs` files a crate has, and which of them its modules reach.
//!
//! A file that no `mod` names is never compiled: its tests never run and nobody notices. The walk knows the layout
//! that this project allows, `foo.rs` beside `foo/`, and reads `mod foo;` lines as rustfmt leaves them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::Finding;

/// Directories of a crate in which each file is a crate root of its own.
const ROOT_DIRS: [&str; 5] = ["src/bin", "tests", "benches", "examples", "fuzz_targets"];
const ROOT_FILES: [&str; 3] = ["build.rs", "src/lib.rs", "src/main.rs"];

/// The `.rs` files of one crate.
#[derive(Debug)]
pub(super) struct Sources {
    /// The crate's directory.
    dir: PathBuf,
    /// Every file below it that does not belong to another crate.
    files: BTreeSet<PathBuf>,
    /// Those that the crate's roots reach, each with the directory of its child modules: a file in `tests/` can be
    /// a root and another root's module.
    reached: BTreeSet<(PathBuf, PathBuf)>,
}

impl Sources {
    /// Finds and walks the files of the crate in `dir`.
    ///
    /// # Errors
    /// When a file or directory cannot be read.
    pub(super) fn of_crate(dir: &Path) -> Result<Self> {
        let mut files = BTreeSet::new();
        collect(dir, &mut files)?;
        let named = named_roots(dir)?;
        let is_root = |file: &&PathBuf| named.contains(*file) || is_usual_root(dir, file);
        let roots = files.iter().filter(is_root).cloned().collect::<Vec<_>>();
        let mut sources = Self { dir: dir.to_owned(), files, reached: BTreeSet::new() };
        for root in roots {
            let modules = root.parent().unwrap_or(dir).to_owned();
            sources.reach(root, &modules)?;
        }
        Ok(sources)
    }

    /// All files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// The crate's directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files that are not compiled, and `mod.rs` files.
    pub(super) fn check(&self) -> Vec<Finding> {
        let finding =
            |file: &PathBuf, text: &str| Finding { file: file.clone(), line: None, text: text.to_owned() };
        let mut findings = Vec::new();
        for file in &self.files {
            if file.ends_with("mod.rs") {
                findings.push(finding(file, "name it after its module, `foo.rs` beside `foo/`"));
            } else if !self.reached.iter().any(|(reached, _)| reached == file) {
                findings.push(finding(file, "no `mod` leads here from a crate root: it is never compiled"));
            }
        }
        findings
    }

    /// Marks `file` and all that it declares. `modules` is the directory of its child modules.
    fn reach(&mut self, file: PathBuf, modules: &Path) -> Result<()> {
        if !self.files.contains(&file) || !self.reached.insert((file.clone(), modules.to_owned())) {
            return Ok(());
        }
        let text = read(&file)?;
        for name in text.lines().filter_map(declared_module) {
            let child = modules.join(format!("{name}.rs"));
            self.reach(child, &modules.join(name))?;
        }
        Ok(())
    }
}

/// Reads a source file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn collect(dir: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.is_dir() {
            let is_other_crate = path.join("Cargo.toml").exists();
            if !is_other_crate && !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

/// Crate roots that the manifest names: `path = "src/tool.rs"` of a target.
fn named_roots(dir: &Path) -> Result<Vec<PathBuf>> {
    let manifest = read(&dir.join("Cargo.toml"))?;
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
    Ok(paths.filter(|path| path.ends_with(".rs")).map(|path| dir.join(path)).collect())
}

/// Crate roots that cargo finds by itself: the usual files, and `NAME.rs` or `NAME/main.rs` in the usual directories.
fn is_usual_root(dir: &Path, file: &Path) -> bool {
    let is_root_dir = |parent: Option<&Path>| {
        parent.is_some_and(|parent| ROOT_DIRS.iter().any(|roots| parent == dir.join(roots)))
    };
    let parent = file.parent();
    ROOT_FILES.iter().any(|root| file == dir.join(root))
        || is_root_dir(parent)
        || (file.ends_with("main.rs") && is_root_dir(parent.and_then(Path::parent)))
}

/// The name in a line `mod name;`, with or without visibility.
fn declared_module(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let name = line.strip_prefix("mod ")?.split(';').next()?;
    line.contains(';').then_some(name).filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Cargo.toml"), "[[bin]]\nname = \"odd\"\npath = \"src/odd.rs\"\n").unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = Sources::of_crate(dir.path()).unwrap();
        let relative = |file: PathBuf| file.strip_prefix(dir.path()).unwrap().display().to_string();
        sources.check().into_iter().map(|finding| relative(finding.file)).collect()
    }

    #[test]
    fn files_that_modules_lead_to_are_fine() {
        let found = findings(&[
            ("build.rs", ""),
            ("src/lib.rs", "pub mod a;\npub(crate) mod b; // with a comment\n"),
            ("src/a.rs", "#[cfg(test)]\nmod tests;\n"),
            ("src/a/tests.rs", ""),
            ("src/b.rs", "mod tests {\n    use super::*;\n}\n"),
            ("src/bin/tool.rs", ""),
            ("src/odd.rs", ""),
            ("tests/suite/main.rs", "mod laws;\n"),
            ("tests/suite/laws.rs", ""),
            ("tests/whole.rs", "mod support;\n"),
            ("tests/support/net.rs", ""),
            ("tests/support.rs", "pub mod net;\n"),
        ]);

        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_file_that_no_module_names_is_found() {
        let found = findings(&[
            ("src/main.rs", "mod a;\n// mod forgotten;\n"),
            ("src/a.rs", ""),
            ("src/forgotten.rs", "mod below;\n"),
            ("src/forgotten/below.rs", ""),
        ]);

        assert_eq!(found, ["src/forgotten/below.rs", "src/forgotten.rs"]);
    }

    #[test]
    fn mod_rs_is_refused() {
        let found = findings(&[("src/lib.rs", "mod a;\n"), ("src/a/mod.rs", "")]);

        assert_eq!(found, ["src/a/mod.rs"]);
    }

    #[test]
    fn another_crate_below_is_not_ours() {
        let found = findings(&[("src/lib.rs", ""), ("inner/Cargo.toml", ""), ("inner/src/odd.rs", "")]);

        assert_eq!(found, Vec::<String>::new());
    }
}
