//! The root file system of a machine: Debian's userland, the kernel modules of the list with all that they need, and
//! `init`. It is made once for a kernel and holds nothing of this project: what is tested is shared with the machine, so
//! that a change of code needs no new one.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

use super::{
    debian::{self, create_dir, write},
    kernel::{Kernel, tool},
    pins::Pins,
};

/// What runs first in a machine.
const INIT: &str = include_str!("init.sh");

/// Directories of packages that no test looks into.
const UNUSED: [&str; 9] = [
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
];

/// Unpacks the userland's packages into a directory below `dir`, if that is not done yet, and returns it.
///
/// # Errors
/// When a package cannot be unpacked.
pub(crate) fn userland(dir: &Path, packages: &[PathBuf]) -> Result<PathBuf> {
    let root = dir.join("userland");
    let names: String = packages.iter().map(|package| format!("{}\n", package.display())).collect();
    let done = dir.join("userland.done");
    if fs::read_to_string(&done).is_ok_and(|had| had == names) {
        return Ok(root);
    }
    eprintln!("vm: unpacking {} packages for the machines", packages.len());
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the old userland")?;
    }
    for directory in [
        "dev",
        "etc",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "var",
    ] {
        create_dir(&root.join(directory))?;
    }
    // As on every Debian since 12; the package that brings these links brings much else.
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).with_context(|| format!("cannot link {link}"))?;
    }
    symlink("../run", root.join("var/run")).context("cannot link var/run")?;
    debian::unpack(packages, &root)?;
    for unused in UNUSED {
        let unused = root.join(unused);
        if unused.exists() {
            fs::remove_dir_all(&unused).with_context(|| format!("cannot remove {}", unused.display()))?;
        }
    }
    let shell = root.join("usr/bin/sh");
    if !shell.is_symlink() {
        symlink("dash", &shell).context("cannot link sh")?;
    }
    write(
        &root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    write(&root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    write(&root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    write(&done, names)?;
    Ok(root)
}

/// Makes the initramfs of a kernel below `dir`, if there is none of these parts yet.
///
/// # Errors
/// When a module cannot be unpacked, or cpio fails.
pub(crate) fn make(dir: &Path, kernel: &Kernel, userland: &Path, pins: &Pins) -> Result<PathBuf> {
    let file = dir.join(format!("initramfs-{}_{}.cpio", kernel.release, kernel.version));
    let stamp = file.with_extension("parts");
    let userland_parts = fs::read_to_string(dir.join("userland.done")).unwrap_or_default();
    let parts = format!("{}\n{}\n{INIT}\n{userland_parts}", kernel.version, pins.modules.join(" "));
    if file.exists() && fs::read_to_string(&stamp).is_ok_and(|had| had == parts) {
        return Ok(file);
    }
    eprintln!("vm: making the initramfs of Linux {}", kernel.release);
    let root = dir.join(format!("initramfs-{}", kernel.release));
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot remove the old initramfs")?;
    }
    create_dir(&root)?;
    // Links where that works: nothing below is changed in place.
    process::run(Command::new("cp").args(["-al"]).arg(userland.join(".")).arg(&root))?;
    let loaded = add_modules(kernel, &root, &pins.modules)?;
    write(&root.join("etc/modules"), loaded)?;
    write(&root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).context("cannot chmod init")?;
    pack(&root, &file)?;
    fs::remove_dir_all(&root).context("cannot remove the initramfs's directory")?;
    write(&stamp, parts)?;
    Ok(file)
}

/// Copies the modules of the list that the kernel has as files, with all that they depend on; gives their names, one a
/// line.
fn add_modules(kernel: &Kernel, root: &Path, wanted: &[String]) -> Result<String> {
    let from = kernel.root.join("usr/lib/modules").join(&kernel.release);
    let to = root.join("usr/lib/modules").join(&kernel.release);
    let text = fs::read_to_string(from.join("modules.dep")).context("depmod has left no modules.dep")?;
    let dependencies: HashMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let by_name: HashMap<String, &str> = dependencies.keys().map(|file| (module_name(file), *file)).collect();
    let mut names = String::new();
    let mut queue = VecDeque::new();
    for module in wanted {
        if let Some(file) = by_name.get(&module.replace('-', "_")) {
            names += module;
            names.push('\n');
            queue.push_back(*file);
        }
    }
    let mut files = BTreeSet::new();
    while let Some(file) = queue.pop_front() {
        if files.insert(file) {
            queue.extend(dependencies.get(file).into_iter().flatten());
        }
    }
    for file in files {
        let target = to.join(file);
        create_dir(target.parent().unwrap_or(&to))?;
        fs::copy(from.join(file), &target).with_context(|| format!("cannot copy {file}"))?;
        // An emulated processor is slow at this.
        if target.extension().is_some_and(|extension| extension == "xz") {
            process::run(Command::new("xz").args(["--decompress", "--force"]).arg(&target))?;
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        if from.join(list).exists() {
            fs::copy(from.join(list), to.join(list)).with_context(|| format!("cannot copy {list}"))?;
        }
    }
    process::run(Command::new(tool("depmod")?).arg("--basedir").arg(root).arg(&kernel.release))?;
    Ok(names)
}

/// The kernel's name of a module, whose file may have hyphens and be packed.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// Not packed: an emulated processor would take longer to unpack it than qemu to load it.
fn pack(root: &Path, file: &Path) -> Result<()> {
    let unfinished = file.with_extension("unfinished");
    let output =
        File::create(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
    let mut list = Command::new("find")
        .current_dir(root)
        .args([".", "-mindepth", "1", "-print0"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start find")?;
    let names = list.stdout.take().context("find has no output")?;
    let mut cpio = Command::new(tool("cpio")?);
    cpio.current_dir(root).args(["--quiet", "--null", "--create", "--format=newc", "--owner=+0:+0"]);
    let status = cpio.stdin(names).stdout(output).status().context("cannot start cpio")?;
    if !list.wait().context("cannot wait for find")?.success() || !status.success() {
        bail!("cannot pack {}", root.display());
    }
    fs::rename(&unfinished, file).with_context(|| format!("cannot rename {}", unfinished.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_the_name_that_the_kernel_gives_it() {
        for (file, name) in [
            ("kernel/net/bridge/br_netfilter.ko", "br_netfilter"),
            ("kernel/drivers/net/tun.ko.xz", "tun"),
            ("kernel/lib/crypto/libchacha20poly1305.ko.xz", "libchacha20poly1305"),
            ("kernel/arch/x86/crypto/curve25519-x86_64.ko", "curve25519_x86_64"),
        ] {
            assert_eq!(module_name(file), name);
        }
    }
}
