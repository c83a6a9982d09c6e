//! Builds the eBPF crates from the build scripts of the crates that load them.
//!
//! A build script is one line: `ebpf_build::build("tracer-ebpf", "tracer-ebpf")`, and the crate embeds the object
//! with `aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf"))`.
//!
//! | module | holds |
//! |---|---|
//! | [`pins`] | the versions that the root `Cargo.toml` names |
//! | [`toolchain`] | the one place that picks the compiler and finds the linker |

pub mod pins;
pub mod toolchain;

use std::{
    env,
    ffi::OsString,
    fs, iter,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

use crate::{pins::Manifest, toolchain::Toolchain};

/// Builds binary `bin` of the workspace's package `package` for eBPF, copies the object to `$OUT_DIR/<bin>` and
/// tells cargo when to do it again. Only for build scripts.
///
/// # Errors
/// When it does not run in a build script, when the toolchain is not complete (the message says what is missing
/// and names `cargo xtask setup`), or when the eBPF crate does not compile (the compiler's output comes before).
pub fn build(package: &str, bin: &str) -> Result<PathBuf> {
    let root = workspace_root();
    let manifest = Manifest::read(root)?;
    let package_dir = manifest.package_dir(package)?;
    // Relative to the crate that is built, for the same reason as in `workspace_root`.
    let crate_dir = PathBuf::from(build_script_env("CARGO_MANIFEST_DIR")?);
    let up: PathBuf = crate_dir.strip_prefix(root).unwrap_or(&crate_dir).iter().map(|_| "..").collect();
    for path in manifest.inputs(&package_dir)? {
        println!("cargo:rerun-if-changed={}", up.join(path.strip_prefix(root).unwrap_or(&path)).display());
    }

    let out_dir = PathBuf::from(build_script_env("OUT_DIR")?);
    let toolchain = Toolchain::find(&manifest.pins()?)?;
    let target = match build_script_env("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // aya-ebpf's bindings to kernel structures (registers) depend on the CPU that the program will run on.
    let arch = build_script_env("CARGO_CFG_TARGET_ARCH")?;
    let target_dir = shared_target_dir(&out_dir);

    let mut cargo = toolchain.cargo();
    cargo.current_dir(root).args(["build", "--release", "--package", package, "--bin", bin]);
    cargo.args(["--target", target]).arg("--target-dir").arg(&target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain.linker(), &arch));
    run(&mut cargo).with_context(|| format!("cannot build the eBPF programs of {package}"))?;

    let built = target_dir.join(target).join("release").join(bin);
    let object = out_dir.join(bin);
    fs::copy(&built, &object)
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

/// The directory with the workspace's `Cargo.toml`: of the crate that cargo builds or runs, where it says so. Two
/// clones may share a target directory, and then this crate may have been compiled in the other one.
#[must_use]
pub fn workspace_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = crate_dir.ancestors().find(|dir| dir.join("Cargo.lock").exists());
        root.unwrap_or(&crate_dir).to_owned()
    })
}

fn build_script_env(name: &str) -> Result<OsString> {
    env::var_os(name)
        .with_context(|| format!("{name} is not set: ebpf_build::build runs in build scripts only"))
}

/// A target directory for all eBPF builds below the outer one, so that dependencies compile once for all eBPF
/// crates and for all profiles of the host. It cannot be the outer one itself: that is locked by the cargo that
/// runs this build script.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(out_dir).join("ebpf")
}

fn rustflags(linker: &Path, arch: &OsString) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    // Without the last one LLVM does not expand a memset of a record into stores, and BPF has no memset to call.
    flags.push("\x1f-Clink-arg=--btf\x1f-Clink-arg=--disable-expand-memcpy-in-order\x1f-Cdebuginfo=2");
    flags.push("\x1f--cfg=bpf_target_arch=\"");
    flags.push(arch);
    flags.push("\"");
    flags
}

fn run(command: &mut Command) -> Result<()> {
    let words: Vec<_> = iter::once(command.get_program()).chain(command.get_args()).collect();
    let shown = words.join(" ".as_ref()).display().to_string();
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}
