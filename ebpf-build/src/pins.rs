//! What the root `Cargo.toml` says: the toolchain's versions, and which files an eBPF crate is made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use toml::{Table, Value};

/// `[workspace.metadata.toolchain]`: everything that is not a crate and must be had to build and test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Version of bpf-linker, like `0.13.0`.
    pub bpf_linker: String,
    /// Rustup's name of the nightly, like `nightly` or `nightly-2026-05-19`.
    pub nightly: String,
    /// Major version of the LLVM that bpf-linker is built on. It reads bitcode of this version and older.
    pub llvm: u32,
    /// Debian packages with a compiler for eBPF.
    pub debian_compiler: Vec<String>,
    /// Debian packages to build bpf-linker and libFuzzer.
    pub debian_linker: Vec<String>,
    /// Debian packages that the tests and the demo run.
    pub debian_test: Vec<String>,
}

/// The root manifest.
#[derive(Debug)]
pub struct Manifest {
    root: PathBuf,
    table: Table,
}

impl Manifest {
    /// Reads `Cargo.toml` in `root`.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub fn read(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_owned(), table: read_table(&root.join("Cargo.toml"))? })
    }

    /// The toolchain's versions.
    ///
    /// # Errors
    /// When a key is missing or has the wrong type.
    pub fn pins(&self) -> Result<Pins> {
        let text = |key| self.pin(key, Value::as_str).map(str::to_owned);
        let list = |key| {
            let array = self.pin(key, Value::as_array)?;
            Ok::<_, anyhow::Error>(array.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        };
        let llvm = text("llvm")?;
        Ok(Pins {
            bpf_linker: text("bpf-linker")?,
            nightly: text("nightly")?,
            llvm: llvm.parse().with_context(|| format!("llvm = {llvm:?} is not a major version"))?,
            debian_compiler: list("debian-compiler")?,
            debian_linker: list("debian-linker")?,
            debian_test: list("debian-test")?,
        })
    }

    /// The table `[workspace.metadata.SECTION]`.
    ///
    /// # Errors
    /// When there is none.
    pub fn metadata(&self, section: &str) -> Result<&Table> {
        lookup(&self.table, &["workspace", "metadata", section]).and_then(Value::as_table).with_context(
            || format!("{}: no [workspace.metadata.{section}]", self.root.join("Cargo.toml").display()),
        )
    }

    fn pin<'a, T>(&'a self, key: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<T> {
        lookup(&self.table, &["workspace", "metadata", "toolchain", key]).and_then(read).with_context(|| {
            format!(
                "{}: [workspace.metadata.toolchain] has no usable {key:?}",
                self.root.join("Cargo.toml").display()
            )
        })
    }

    /// The directory of a workspace member, by the name of its package.
    ///
    /// # Errors
    /// When no member has that name, or a member's manifest cannot be read.
    pub fn package_dir(&self, package: &str) -> Result<PathBuf> {
        for member in self.members() {
            let dir = self.root.join(member);
            let table = read_table(&dir.join("Cargo.toml"))?;
            if lookup(&table, &["package", "name"]).and_then(Value::as_str) == Some(package) {
                return Ok(dir);
            }
        }
        Err(anyhow::anyhow!("no member of the workspace in {} is named {package:?}", self.root.display()))
    }

    /// Directories of the workspace's members, relative to its root.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        let members = lookup(&self.table, &["workspace", "members"]).and_then(Value::as_array);
        members.into_iter().flatten().filter_map(Value::as_str)
    }

    /// The files and directories that a build of the crate in `package_dir` depends on: its own, those of the
    /// workspace's crates that it uses, and what chooses versions and profiles.
    ///
    /// # Errors
    /// When a manifest cannot be read.
    pub fn inputs(&self, package_dir: &Path) -> Result<Vec<PathBuf>> {
        let mut inputs = vec![self.root.join("Cargo.toml"), self.root.join("Cargo.lock")];
        let mut dirs = vec![package_dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            let manifest = dir.join("Cargo.toml");
            let source = dir.join("src");
            if inputs.contains(&source) {
                continue;
            }
            let table = read_table(&manifest)?;
            inputs.extend([manifest, source]);
            let dependencies = table.get("dependencies").and_then(Value::as_table);
            dirs.extend(dependencies.into_iter().flatten().filter_map(|(name, _)| self.local_crate(name)));
        }
        Ok(inputs)
    }

    /// The directory of a dependency that is a crate of this workspace.
    fn local_crate(&self, name: &str) -> Option<PathBuf> {
        let path = lookup(&self.table, &["workspace", "dependencies", name, "path"])?.as_str()?;
        Some(self.root.join(path))
    }
}

fn read_table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("{} is not TOML", path.display()))
}

fn lookup<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (last, tables) = keys.split_last()?;
    let table = tables.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?;
    table.get(*last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::read(crate::workspace_root()).unwrap()
    }

    #[test]
    fn the_workspace_names_every_version() {
        let pins = manifest().pins().unwrap();

        assert!(pins.llvm >= 20);
        assert!(pins.debian_compiler.iter().any(|package| package == "rustc-web"));
        assert!(pins.debian_linker.contains(&format!("llvm-{}-dev", pins.llvm)));
        assert!(!pins.debian_test.is_empty());
    }

    #[test]
    fn an_ebpf_crate_is_rebuilt_when_the_shared_layouts_change() {
        let manifest = manifest();

        let inputs = manifest.inputs(&manifest.package_dir("tracer-ebpf").unwrap()).unwrap();

        let root = crate::workspace_root();
        assert!(inputs.contains(&root.join("tracer-ebpf/src")));
        assert!(inputs.contains(&root.join("tracer-common/src")));
        assert!(inputs.contains(&root.join("Cargo.lock")));
        assert!(!inputs.contains(&root.join("tracer-userspace/src")));
    }

    #[test]
    fn an_unknown_package_is_named() {
        let error = manifest().package_dir("nothing").unwrap_err();

        assert!(error.to_string().contains("\"nothing\""));
    }
}
