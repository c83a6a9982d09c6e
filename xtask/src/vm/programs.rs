//! What the machines run: the project's static test programs, and which of them on which kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cargo::{self, Executable},
    process,
};

use super::{debian::create_dir, job::Group, kernel::Kernel};

/// How many times longer than on this machine the tests wait: the processor is emulated.
const TEST_PATIENCE: &str = "8";
/// The first kernel with TCX, by Documentation/bpf of the kernel; what a machine really has is asserted by the tests.
const FIRST_WITH_TCX: (u32, u32) = (6, 6);

/// The test program, and the part of its tests' names, about both mechanisms at once: where a kernel has both it runs
/// attached by either. All else that depends on the mechanism runs by clsact on the older kernels and on this machine.
const ABOUT_BOTH_MECHANISMS: (&str, &str) = ("coexistence", "tcx");
/// Test programs about what is made of the records once they are read: on the oldest and the newest kernel.
const ABOUT_RECORDS: [&str; 5] = ["exchanges", "joining", "lifecycle", "segments", "streams"];
/// Test programs of which only some tests run in the machines, and the parts of these tests' names: what stays on hooks,
/// and what needs devices that this machine may lack. The others are about the command line and about files.
const IN_PART: [(&str, &[&str]); 2] = [("captures", &["ipip"]), ("ending", &["killed", "qdisc"])];
/// Test programs about the command line, and about packet rates that an emulated processor does not reach: they run on
/// this machine (`cargo xtask test`), and in the machines when they are named.
const SAME_ON_EVERY_KERNEL: [&str; 4] = ["bad_input", "flood", "json", "wireshark"];
/// The programs that the tests run.
const PROGRAMS: [&str; 2] = ["tracer", "tracer-lab"];
/// Crates whose tests run in the machines, and which of their test programs if not all.
const HARNESSES: [(&str, Option<&str>); 2] = [("tests/integration", None), ("tests/lab", Some("kernels"))];
/// The test programs that take longest begin first: then no machine ends long behind the others.
const LONGEST: [&str; 2] = ["every_hop", "coexistence"];

/// Where a kernel stands among those of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The oldest or the newest.
    End,
    Between,
}

/// The static programs, in the directory that the machines share.
pub(crate) struct Programs {
    pub(crate) dir: PathBuf,
    harnesses: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds them, into a directory below `dir`.
    ///
    /// # Errors
    /// When one cannot be built or copied.
    pub(crate) fn build(dir: &Path) -> Result<Self> {
        eprintln!("vm: building the programs for the machines");
        let built = cargo::build_tests()?;
        let shared = dir.join("programs");
        if shared.exists() {
            fs::remove_dir_all(&shared).context("cannot empty the directory of programs")?;
        }
        create_dir(&shared)?;
        let mut harnesses = Vec::new();
        for executable in &built {
            let Executable { name, is_test, path, .. } = executable;
            let is_harness = is_run_in_machines(executable);
            // A crate's unit tests have the name of its program.
            let is_program = !is_test && PROGRAMS.contains(&name.as_str());
            if !is_harness && !is_program {
                continue;
            }
            // Debug information is read over 9p and never used there.
            let target = shared.join(name);
            process::run(Command::new("objcopy").arg("--strip-debug").arg(path).arg(&target))?;
            if is_harness {
                harnesses.push((name.clone(), target));
            }
        }
        harnesses.sort();
        Ok(Self { dir: shared, harnesses })
    }

    /// What a kernel runs: every test program, attached as that kernel does it.
    ///
    /// # Errors
    /// When a test program does not list its tests.
    pub(crate) fn groups(&self, kernel: &Kernel, place: Place, filter: Option<&str>) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        for (program, path) in &self.harnesses {
            let is_elsewhere = SAME_ON_EVERY_KERNEL.contains(&program.as_str())
                || (place == Place::Between && ABOUT_RECORDS.contains(&program.as_str()));
            if filter.is_none() && is_elsewhere {
                continue;
            }
            for Run { name, attach, filters } in runs(program, kernel, filter) {
                if !has_test(path, &filters)? {
                    continue;
                }
                let variables = [
                    ("TRACER_BIN", "/programs/tracer"),
                    ("TRACER_ATTACH", attach),
                    ("TRACER_PATIENCE", TEST_PATIENCE),
                    ("RUST_BACKTRACE", "1"),
                ];
                groups.push(Group {
                    name: format!("{name}, {attach}"),
                    program: program.clone(),
                    arguments: ["--test-threads=1"].into_iter().chain(filters).map(str::to_owned).collect(),
                    variables: variables.to_vec(),
                });
            }
        }
        groups.sort_by_key(|group| !LONGEST.contains(&group.program.as_str()));
        Ok(groups)
    }
}

/// Says what ran where, below the table.
pub(crate) fn print_what_runs_elsewhere() {
    println!("On the oldest and the newest kernel only: {}", ABOUT_RECORDS.join(", "));
    for (program, parts) in IN_PART {
        println!("Of {program} only: {}", parts.join(", "));
    }
    println!("On this machine only (cargo xtask test): {}", SAME_ON_EVERY_KERNEL.join(", "));
}

/// One run of a test program.
struct Run<'a> {
    /// Of the group.
    name: String,
    attach: &'static str,
    /// Parts of the names of the tests that are meant; all if empty.
    filters: Vec<&'a str>,
}

/// How a test program runs on a kernel, if only tests of a filter's name are asked for or all that the matrix has.
fn runs<'a>(program: &str, kernel: &Kernel, filter: Option<&'a str>) -> Vec<Run<'a>> {
    // A program's own name means all of its tests.
    let asked: Vec<&'a str> = filter.filter(|filter| *filter != program).into_iter().collect();
    let parts = IN_PART.iter().find(|(in_part, _)| *in_part == program).map(|(_, parts)| parts.to_vec());
    let filters = parts.filter(|_| filter.is_none()).unwrap_or(asked);
    let name = program.to_owned();
    if kernel.numbers() < FIRST_WITH_TCX {
        return vec![Run { name, attach: "clsact", filters }];
    }
    let (about_both, part) = ABOUT_BOTH_MECHANISMS;
    let also = (program == about_both).then(|| Run {
        name: format!("{program} with {part}"),
        attach: "clsact",
        filters: if filter.is_none() { vec![part] } else { filters.clone() },
    });
    [Run { name, attach: "tcx", filters }].into_iter().chain(also).collect()
}

/// The tests of `tests/integration`, and of the lab those about what a kernel can do.
fn is_run_in_machines(executable: &Executable) -> bool {
    let Executable { name, crate_dir, is_test, .. } = executable;
    *is_test
        && HARNESSES
            .iter()
            .any(|(dir, only)| crate_dir.ends_with(dir) && only.is_none_or(|only| only == name))
        && name != "tracer_integration"
}

fn has_test(harness: &Path, filters: &[&str]) -> Result<bool> {
    let listed = process::output(Command::new(harness).args(["--list", "--format=terse"]).args(filters));
    let listed = listed.with_context(|| format!("{} does not list its tests", harness.display()))?;
    Ok(!listed.trim().is_empty())
}
