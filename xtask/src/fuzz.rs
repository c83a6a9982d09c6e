//! Bounded runs of the fuzz targets in `fuzz/`.
//!
//! They are ordinary cargo-fuzz targets (`cargo +nightly fuzz run parse` works where cargo-fuzz and a nightly are),
//! but libFuzzer needs neither: the instrumentation is a set of compiler flags. All are stable but the address
//! sanitizer's, which `RUSTC_BOOTSTRAP` unlocks for this build alone; where the compiler comes without the
//! sanitizer's runtime, the targets run without it and we say so.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, process};

/// Edge counters, their program counters and compared values: what libFuzzer steers by.
const COVERAGE: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Its symbols must not be split over units that the linker drops.
    "-Ccodegen-units=1",
];
const CHECKS: [&str; 3] = ["-Dwarnings", "-Cdebug-assertions", "-Coverflow-checks"];
/// Longest input, bytes: a jumbo frame's headers and then some.
const MAX_INPUT: &str = "-max_len=2048";

/// Runs one target or all of them for `seconds` each.
///
/// # Errors
/// When they do not build, there is no such target, or one of them crashes (the input is kept and named).
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    let dir = ebpf_build::workspace_root().join("fuzz");
    let targets = targets(&dir, target)?;
    let host = cargo::host_triple()?;
    build(&dir, &host)?;
    for target in targets {
        eprintln!("fuzz: {target} for {seconds} s");
        fuzz(&dir, &dir.join("target").join(&host).join("release").join(&target), &target, seconds)?;
    }
    Ok(())
}

/// Runs the program of one target. What it says is shown only if it fails: libFuzzer says a lot.
fn fuzz(dir: &Path, program: &Path, target: &str, seconds: u32) -> Result<()> {
    let corpus = dir.join("corpus").join(target);
    let artifacts = dir.join("artifacts").join(target);
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut fuzz = Command::new(program);
    fuzz.args([MAX_INPUT, "-print_final_stats=1", "-timeout=5"]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&corpus);
    // Inputs that once broke something, or that the fuzzer would be long in finding.
    let seeds = dir.join("seeds").join(target);
    if seeds.exists() {
        fuzz.arg(seeds);
    }
    let output = fuzz.output().with_context(|| format!("cannot start {}", process::shown(&fuzz)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        let artifacts = artifacts.display();
        bail!("fuzz target {target} ended with {}: the input that broke it is in {artifacts}", output.status);
    }
    let inputs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    eprintln!("fuzz: {target}: {} inputs, none broke it", inputs.unwrap_or("?").trim());
    Ok(())
}

/// The names of the targets to run.
fn targets(dir: &Path, only: Option<&str>) -> Result<Vec<String>> {
    let sources = dir.join("fuzz_targets");
    let entries = fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", sources.display()))?.path();
        targets.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    targets.sort();
    match only {
        Some(name) if targets.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("no fuzz target {name:?}: there are {}", targets.join(", ")),
        None => Ok(targets),
    }
}

fn build(dir: &Path, host: &str) -> Result<()> {
    let mut flags = COVERAGE.iter().chain(&CHECKS).map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
    let mut cargo = cargo::cargo();
    // With --target the flags do not reach build scripts, which cannot be instrumented.
    cargo.current_dir(dir).args(["build", "--release", "--bins", "--target", host, "--target-dir", "target"]);
    if has_address_sanitizer(host) {
        flags.push("-Zsanitizer=address".to_owned());
        cargo.env("RUSTC_BOOTSTRAP", "1");
    } else {
        eprintln!("fuzz: this compiler has no address sanitizer: out-of-bounds reads may go unseen");
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::run(&mut cargo).context("cannot build the fuzz targets")
}

/// Whether the compiler brings the sanitizer's runtime library.
fn has_address_sanitizer(host: &str) -> bool {
    let Some(libdir) = process::output(cargo::rustc().args(["--print", "target-libdir", "--target", host]))
    else {
        return false;
    };
    let Ok(files) = fs::read_dir(libdir.trim()) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"))
}
