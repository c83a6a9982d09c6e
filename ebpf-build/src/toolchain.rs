//! Which compiler builds for eBPF, and where the linker is.
//!
//! The eBPF targets have no prebuilt `core` in rustup. Two ways lead to one:
//! 1. rustup's nightly with the component rust-src: `-Z build-std=core`.
//! 2. Debian's rustc-web, which installs beside rustup and has a prebuilt `core`. `RUSTC_BOOTSTRAP=1` unlocks the
//!    unstable features that aya-ebpf uses; it is set for the eBPF build alone.
//!
//! The first is taken where it is complete. In both, bpf-linker must be built on an LLVM at least as new as the
//! compiler's, or it cannot read the compiler's bitcode.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::pins::Pins;

/// Where Debian's package rustc-web puts its compiler.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const BPF_LINKER: &str = "bpf-linker";

/// A compiler with `core` for the eBPF targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// A rustup toolchain of this name, with rust-src.
    Nightly(String),
    /// Debian's rustc-web.
    Debian,
}

/// A complete toolchain for eBPF.
#[derive(Clone, Debug)]
pub struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// Picks the compiler and finds bpf-linker.
    ///
    /// # Errors
    /// When either is missing; the message says what was looked for and names `cargo xtask setup`.
    pub fn find(pins: &Pins) -> Result<Self> {
        let compiler = match Compiler::find(pins) {
            Ok(compiler) => compiler,
            Err(reasons) => bail!("no compiler for eBPF ({reasons}). Run `cargo xtask setup`"),
        };
        let Some(linker) = find_linker() else {
            bail!("bpf-linker is neither in PATH nor in cargo's bin directory. Run `cargo xtask setup`");
        };
        Ok(Self { compiler, linker })
    }

    /// bpf-linker's full path.
    #[must_use]
    pub fn linker(&self) -> &Path {
        &self.linker
    }

    /// A `cargo` that compiles with this toolchain and with nothing of the settings that an outer cargo, clippy or
    /// the user's shell made for the host's build.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = match &self.compiler {
            Compiler::Nightly(name) => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", name, "cargo", "-Zbuild-std=core"]);
                cargo
            }
            Compiler::Debian => Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))),
        };
        for name in host_build_variables() {
            cargo.env_remove(name);
        }
        if self.compiler == Compiler::Debian {
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.compiler {
            Compiler::Nightly(name) => write!(f, "rustup's {name} with rust-src")?,
            Compiler::Debian => write!(f, "Debian's {DEBIAN_RUSTC}")?,
        }
        write!(f, ", linker {}", self.linker.display())
    }
}

impl Compiler {
    /// Picks the compiler.
    ///
    /// # Errors
    /// Says, for each of the two, why it cannot be used.
    pub fn find(pins: &Pins) -> Result<Self, String> {
        let nightly = match usable_nightly(pins) {
            Ok(()) => return Ok(Self::Nightly(pins.nightly.clone())),
            Err(reason) => reason,
        };
        let debian = match usable_debian(pins) {
            Ok(()) => return Ok(Self::Debian),
            Err(reason) => reason,
        };
        Err(format!("{nightly}; {debian}"))
    }
}

/// Whether rustup's nightly can build for eBPF.
///
/// # Errors
/// Says why not.
pub fn usable_nightly(pins: &Pins) -> Result<(), String> {
    let name = &pins.nightly;
    let rustc = |arg| output(Command::new("rustup").args(["run", name, "rustc"]).args(arg));
    let Some(sysroot) = rustc(["--print", "sysroot"].as_slice()) else {
        return Err(format!("rustup has no toolchain {name:?}"));
    };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.exists() {
        return Err(format!("rustup's {name} lacks the component rust-src"));
    }
    readable_bitcode(pins, &format!("rustup's {name}"), rustc(&["-vV"]))
}

fn usable_debian(pins: &Pins) -> Result<(), String> {
    let rustc = |arg| output(Command::new(DEBIAN_RUSTC).env_remove("RUSTUP_TOOLCHAIN").args(arg));
    let args = ["--print", "target-libdir", "--target", "bpfel-unknown-none"];
    let Some(libdir) = rustc(args.as_slice()) else {
        return Err(format!("{DEBIAN_RUSTC} (Debian's rustc-web) is not installed"));
    };
    if !Path::new(libdir.trim()).exists() {
        return Err(format!("{DEBIAN_RUSTC} has no prebuilt core (Debian's libstd-rust-web-dev-bpf)"));
    }
    readable_bitcode(pins, DEBIAN_RUSTC, rustc(&["-vV"]))
}

/// Checks that a bpf-linker built on the pinned LLVM can read what this compiler writes.
fn readable_bitcode(pins: &Pins, rustc: &str, version: Option<String>) -> Result<(), String> {
    match version.as_deref().and_then(llvm_major) {
        Some(major) if major <= pins.llvm => Ok(()),
        Some(major) => {
            Err(format!("{rustc} writes bitcode of LLVM {major}, bpf-linker reads up to {}", pins.llvm))
        }
        None => Err(format!("{rustc} does not say which LLVM it has")),
    }
}

/// The major LLVM version in the output of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// bpf-linker in PATH, or else in cargo's bin directory, which not everybody has in PATH.
#[must_use]
pub fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|dir| dir.join(BPF_LINKER))
        .find(|file| file.is_file())
}

/// The variables of our environment that shape a build for the host and must not shape another one.
pub fn host_build_variables() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(leaks))
}

/// Whether an environment variable would bend the eBPF build to the host's. What says where crates come from, how
/// cargo prints, and the job server stay.
fn leaks(name: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const DROPPED: [&str; 10] = [
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    DROPPED.contains(&name)
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_host_build_do_not_reach_the_ebpf_build() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(leaks(name), "{name}");
        }
    }

    #[test]
    fn where_crates_come_from_and_the_job_server_stay() {
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX", "CARGO_MAKEFLAGS", "PATH"]
        {
            assert!(!leaks(name), "{name}");
        }
    }

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }
}
