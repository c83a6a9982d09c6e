//! Stock Debian kernels: the newest of a series, unpacked and made ready to boot.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, copy},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

use super::debian::{self, Archive, Package, create_dir};

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` says, like `6.1.0-50-amd64`.
    pub(crate) release: String,
    /// Debian's version, like `6.1.176-1`.
    pub(crate) version: String,
    /// The ELF image.
    pub(crate) vmlinux: PathBuf,
    /// The directory with `lib/modules/RELEASE`.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// Major and minor number, like 6 and 12.
    pub(crate) fn numbers(&self) -> (u32, u32) {
        numbers(&self.version)
    }

    /// For a table's head, like `6.12`.
    pub(crate) fn series(&self) -> String {
        let (major, minor) = self.numbers();
        format!("{major}.{minor}")
    }

    /// The newest kernel of a series (`6.1`, or `7` for any 7.x), fetched and unpacked below `dir` where that is not
    /// done yet.
    ///
    /// # Errors
    /// When the suites have none of that series (names those that they have), or it cannot be fetched or unpacked.
    pub(crate) fn get(archive: &Archive, dir: &Path, series: &str) -> Result<Self> {
        let offered = archive.matching("linux-image-[0-9]*-amd64")?;
        let image = newest(&offered, series).with_context(|| {
            format!("Debian has no kernel of series {series}; there are {}", all_series(&offered).join(", "))
        })?;
        let release = image.name.trim_start_matches("linux-image-").to_owned();
        let mut packages = vec![image.clone()];
        // From 7.0 on the image is a package of its own beside the modules.
        for part in ["base", "binary", "modules"] {
            let name = format!("linux-{part}-{release}");
            let parts = archive.matching(&name).unwrap_or_default();
            packages.extend(parts.into_iter().filter(|part| part.version == image.version));
        }
        let files = archive.fetch(&dir.join(format!("debs-{release}_{}", image.version)), &packages)?;
        let root = dir.join(format!("kernel-{release}_{}", image.version));
        let vmlinux = root.join("vmlinux");
        if !vmlinux.exists() {
            eprintln!("vm: unpacking Linux {release}");
            debian::unpack(&files, &root)?;
            merge_usr(&root)?;
            let mut depmod = Command::new(tool("depmod")?);
            process::run(depmod.arg("--basedir").arg(&root).arg(&release))?;
            let image = [root.join("boot"), root.join(format!("usr/lib/modules/{release}"))]
                .into_iter()
                .flat_map(|dir| [dir.join(format!("vmlinuz-{release}")), dir.join("vmlinuz")])
                .find(|path| path.exists())
                .with_context(|| format!("the packages of Linux {release} have no vmlinuz"))?;
            let unfinished = root.join("vmlinux.unfinished");
            extract_vmlinux(&image, &unfinished)?;
            fs::rename(&unfinished, &vmlinux).context("cannot rename vmlinux")?;
        }
        Ok(Self { release, version: image.version.clone(), vmlinux, root })
    }
}

/// A program of /sbin, which is not in everybody's PATH.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let dirs = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.with_context(|| format!("no {name} on this machine; `cargo xtask setup` installs it"))
}

/// Packages from before and after Debian merged `/lib` into `/usr/lib`: afterwards both names work.
fn merge_usr(root: &Path) -> Result<()> {
    let (old, new) = (root.join("lib"), root.join("usr/lib"));
    create_dir(&new)?;
    if old.is_dir() && !old.is_symlink() {
        for entry in fs::read_dir(&old).context("cannot list lib")?.flatten() {
            fs::rename(entry.path(), new.join(entry.file_name()))
                .context("cannot move modules to usr/lib")?;
        }
        fs::remove_dir(&old).context("cannot remove lib")?;
    }
    if !old.exists() {
        std::os::unix::fs::symlink("usr/lib", &old).context("cannot link lib")?;
    }
    Ok(())
}

/// Takes the ELF image out of a bzImage: it boots at once (PVH), without the real-mode code and without unpacking
/// itself at the pace of an emulated processor. The layout is that of Documentation/arch/x86/boot.rst, "payload".
fn extract_vmlinux(image: &Path, target: &Path) -> Result<()> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: std::ops::Range<usize> = 0x202..0x206;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let mut file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let mut header = [0u8; 0x250];
    file.read_exact(&mut header).with_context(|| format!("cannot read {}", image.display()))?;
    if header[MAGIC] != *b"HdrS" {
        bail!("{} is not a bzImage", image.display());
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let start = (u64::from(header[SETUP_SECTORS]) + 1) * 512 + u64::from(word(PAYLOAD_OFFSET));
    // The last four bytes say how long the image is when unpacked.
    let length = u64::from(word(PAYLOAD_LENGTH)).saturating_sub(4);
    file.seek(SeekFrom::Start(start)).context("cannot seek in the image")?;
    let mut magic = [0u8; 4];
    file.read_exact(&mut magic).context("the image is cut")?;
    let unpacker = match magic {
        [0xfd, b'7', b'z', b'X'] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("{} is packed in a way that is not known here ({magic:02x?})", image.display()),
    };
    file.seek(SeekFrom::Start(start)).context("cannot seek in the image")?;
    let output = File::create(target).with_context(|| format!("cannot create {}", target.display()))?;
    let mut child = Command::new(unpacker)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .with_context(|| format!("cannot start {unpacker}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    copy(&mut file.take(length), &mut stdin).with_context(|| format!("{unpacker} takes no more"))?;
    drop(stdin);
    let status = child.wait().with_context(|| format!("cannot wait for {unpacker}"))?;
    if !status.success() {
        bail!("{unpacker} cannot unpack the payload of {}: {status}", image.display());
    }
    Ok(())
}

/// The newest generic kernel of a series. The other flavours (cloud, rt) lack devices or differ in timing.
fn newest<'a>(offered: &'a [Package], series: &str) -> Option<&'a Package> {
    let of_series = |package: &&Package| {
        is_generic(package) && package.version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
    };
    offered
        .iter()
        .filter(of_series)
        .reduce(|best, other| if debian::is_newer(&other.version, &best.version) { other } else { best })
}

fn is_generic(package: &Package) -> bool {
    let release = package.name.trim_start_matches("linux-image-").trim_end_matches("-amd64");
    package.name.ends_with("-amd64") && !["cloud", "rt"].iter().any(|flavour| release.ends_with(flavour))
}

fn all_series(offered: &[Package]) -> Vec<String> {
    let mut all: Vec<_> = offered
        .iter()
        .filter(|package| is_generic(package))
        .map(|package| numbers(&package.version))
        .collect();
    all.sort_unstable();
    all.dedup();
    all.iter().map(|(major, minor)| format!("{major}.{minor}")).collect()
}

fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split(['.', '-', '~', '+']).map_while(|part| part.parse().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn the_newest_generic_kernel_of_a_series_is_chosen() {
        let offered = [
            package("linux-image-6.1.0-47-amd64", "6.1.170-3"),
            package("linux-image-6.12.95+deb12-amd64", "6.12.95-1~bpo12+1"),
            package("linux-image-6.12.107+deb13-amd64", "6.12.107-1"),
            package("linux-image-6.12.108+deb13-cloud-amd64", "6.12.108-1"),
            package("linux-image-7.2.13+deb14-amd64", "7.2.13-1"),
        ];

        let chosen = |series| newest(&offered, series).map(|package| package.version.as_str());

        assert_eq!(chosen("6.1"), Some("6.1.170-3"));
        assert_eq!(chosen("6.12"), Some("6.12.107-1"));
        assert_eq!(chosen("7"), Some("7.2.13-1"));
        assert_eq!(chosen("6.6"), None);
        assert_eq!(all_series(&offered), ["6.1", "6.12", "7.2"]);
    }
}
