//! `cargo xtask package`: an archive with the release program, its manual pages, completions for shells, and documents,
//! each where a system looks for it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{cargo, process, setup};

/// Where each shell looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/tracer"),
    ("zsh", "share/zsh/site-functions/_tracer"),
    ("fish", "share/fish/vendor_completions.d/tracer.fish"),
];
const MANUAL: &str = "share/man/man1";
const DOCUMENTS: &str = "share/doc/tracer";

/// Builds and packs, and prints where the archive is.
///
/// # Errors
/// When setup or build fail, or a file cannot be written.
pub(crate) fn run() -> Result<()> {
    setup::run(false)?;
    let built = cargo::build(["build", "--release", "--bins", "--package=tracer"])?;
    let tracer = cargo::program(&built, "tracer")?;
    let root = ebpf_build::workspace_root();
    let name = format!("tracer-{}-{}", env!("CARGO_PKG_VERSION"), cargo::host_triple()?);
    let directory = root.join("target/package");
    let tree = directory.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    copy(tracer, &tree.join("bin/tracer"))?;
    // The same program as kubectl looks for it: `kubectl tracer`.
    std::os::unix::fs::symlink("tracer", tree.join("bin/kubectl-tracer"))
        .context("cannot name kubectl's plugin")?;
    let manual = tree.join(MANUAL);
    create(&manual)?;
    process::run(Command::new(tracer).arg("man").arg(&manual))?;
    for (shell, path) in COMPLETIONS {
        let path = tree.join(path);
        create_parent(&path)?;
        let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        process::run(Command::new(tracer).args(["completion", shell]).stdout(Stdio::from(file)))?;
    }
    for document in ["README.md", "ARCHITECTURE.md"] {
        copy(&root.join(document), &tree.join(DOCUMENTS).join(document))?;
    }
    for directory in ["docs", "docs/pictures"] {
        for entry in fs::read_dir(root.join(directory)).context("cannot list documents")? {
            let path = entry.context("cannot list documents")?.path();
            if let Some(file) = path.file_name().filter(|_| path.is_file()) {
                copy(&path, &tree.join(DOCUMENTS).join(directory).join(file))?;
            }
        }
    }
    let archive = directory.join(format!("{name}.tar.gz"));
    process::run(
        Command::new("tar")
            .arg("-czf")
            .arg(&archive)
            .arg("--owner=0")
            .arg("--group=0")
            .arg("-C")
            .arg(&directory)
            .arg(&name),
    )?;
    println!("{}", archive.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn create_parent(path: &Path) -> Result<()> {
    create(path.parent().context("a path without a directory")?)
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}
