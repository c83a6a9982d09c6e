//! `cargo xtask vm`: the integration tests on stock Debian kernels, each in a virtual machine.
//!
//! | module | holds |
//! |---|---|
//! | `pins` | what the machines are made of, from the root `Cargo.toml` |
//! | `debian` | packages of other suites, without touching this system |
//! | `kernel` | the newest stock kernel of a series |
//! | `initramfs` | a machine's root file system |
//! | `guest` | a running machine and its console |
//! | `job` | what it runs, and what its console says about that |
//! | `table` | the result: kernel by test group |
//! | `two_nodes` | two machines as the two nodes of a cluster |
//! | `facts` | what the tests found out about the kernels: the table in docs/kernels.md |

mod debian;
mod facts;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod pins;
mod table;
mod two_nodes;

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo::{self, Executable},
    process, setup,
};

use self::{
    debian::{Archive, create_dir, write},
    facts::Facts,
    guest::Machine,
    job::{Group, Outcome},
    kernel::Kernel,
    pins::Pins,
    table::Column,
};

/// A machine that says nothing for so long hangs. The longest test takes a third of it.
const PATIENCE: Duration = Duration::from_secs(240);
/// How many times longer than on this machine the tests wait: the processor is emulated.
const TEST_PATIENCE: &str = "8";
/// The first kernel with TCX, by Documentation/bpf of the kernel; what a machine really has is asserted by the tests.
const FIRST_WITH_TCX: (u32, u32) = (6, 6);
/// Where a kernel stands among those of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The oldest or the newest.
    End,
    Between,
}

/// The test program, and the part of its tests' names, about both mechanisms at once: where a kernel has both it runs
/// attached by either. All else that depends on the mechanism runs by clsact on the older kernels and on this machine.
const ABOUT_BOTH_MECHANISMS: (&str, &str) = ("coexistence", "tcx");
/// Test programs about what is made of the records once they are read: on the oldest and the newest kernel.
const ABOUT_RECORDS: [&str; 5] = ["exchanges", "joining", "lifecycle", "segments", "streams"];
/// Test programs of which only some tests run in the machines, and the parts of these tests' names: what stays on hooks,
/// and what needs devices that this machine may lack. The others are about the command line and about files.
const IN_PART: [(&str, &[&str]); 2] = [("captures", &["ipip"]), ("ending", &["killed", "qdisc"])];
/// What a filter must be part of for the pairs of machines to be run.
const TWO_NODES: &str = "two_nodes";
/// Test programs about the command line, and about packet rates that an emulated processor does not reach: they run on
/// this machine (`cargo xtask test`), and in the machines when they are named.
const SAME_ON_EVERY_KERNEL: [&str; 4] = ["bad_input", "flood", "json", "wireshark"];
/// The programs that the tests run.
const PROGRAMS: [&str; 2] = ["tracer", "tracer-lab"];
/// Crates whose tests run in the machines, and which of their test programs if not all.
const HARNESSES: [(&str, Option<&str>); 2] = [("tests/integration", None), ("tests/lab", Some("kernels"))];

/// Which machines and tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Series of kernels; all of the matrix if empty.
    pub(crate) kernels: Vec<String>,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// Write what the machines say into docs/kernels.md.
    pub(crate) bless: bool,
    /// Only get kernels and userland.
    pub(crate) prepare: bool,
}

/// Runs the matrix and prints its table.
///
/// # Errors
/// When a test fails, a kernel breaks, or a machine hangs.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.prepare {
        setup::run(false)?;
    }
    let pins = Pins::read()?;
    let dir = ebpf_build::workspace_root().join("target/machines");
    let kernels = kernels(&dir, &pins, options)?;
    if options.prepare {
        return Ok(());
    }
    let programs = Programs::build(&dir)?;
    let mut columns = run_all(&dir, &kernels, &programs, options)?;
    if options.filter.as_deref().is_none_or(|filter| TWO_NODES.contains(filter)) {
        run_pairs(&dir, &kernels, &programs, &mut columns);
    }
    let table = table::render(&columns);
    println!("\n{table}");
    if options.filter.is_none() {
        println!("On the oldest and the newest kernel only: {}", ABOUT_RECORDS.join(", "));
        for (program, parts) in IN_PART {
            println!("Of {program} only: {}", parts.join(", "));
        }
        println!("On this machine only (cargo xtask test): {}", SAME_ON_EVERY_KERNEL.join(", "));
    }
    let failed: Vec<_> =
        columns.iter().filter(|column| !column.passed()).map(|column| column.kernel.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed on Linux {}", failed.join(", "));
    }
    if options.kernels.is_empty() && options.filter.is_none() {
        keep_page(&pins, &columns, options.bless)?;
    }
    if options.filter.is_some() && columns.iter().all(|column| column.outcomes.is_empty()) {
        bail!("no test's name contains {:?}", options.filter.as_deref().unwrap_or_default());
    }
    Ok(())
}

/// Only the whole matrix can say what stands in the page.
fn keep_page(pins: &Pins, columns: &[Column], bless: bool) -> Result<()> {
    // The column's name is the matrix's, so that a newer 7.x does not change the page.
    let heads = pins
        .series
        .iter()
        .map(|series| if series.contains('.') { series.clone() } else { format!("{series}.x") });
    let facts: Vec<_> = heads.zip(columns.iter().map(|column| &column.facts)).collect();
    let versions: String =
        columns.iter().map(|column| format!("{}: Debian's {}\\\n", column.kernel, column.version)).collect();
    facts::keep_page(&facts::table(&facts), &versions, bless)
}

/// Runs two machines at a time as the nodes of one cluster. How that went stands in the columns of both kernels.
fn run_pairs(dir: &Path, kernels: &[Bootable], programs: &Programs, columns: &mut [Column]) {
    for (one, other) in two_nodes::pairs(kernels.len()) {
        let halves = [one, other].map(|index| {
            let Bootable { kernel, initramfs } = &kernels[index];
            two_nodes::Half { kernel, initramfs }
        });
        let result = two_nodes::run(dir, halves, &programs.dir);
        let both: BTreeSet<usize> = [one, other].into();
        for index in both {
            match &result {
                Ok(outcomes) => columns[index].add_pair(outcomes),
                Err(error) => columns[index].problem = Some(format!("{error:#}")),
            }
        }
        if let Err(error) = &result {
            eprintln!("vm: {error:#}");
        }
    }
}

/// A kernel and the initramfs that it boots.
struct Bootable {
    kernel: Kernel,
    initramfs: PathBuf,
}

fn kernels(dir: &Path, pins: &Pins, options: &Options) -> Result<Vec<Bootable>> {
    let series = if options.kernels.is_empty() { &pins.series } else { &options.kernels };
    let archive = Archive::open(&dir.join("apt-kernels"), pins, &pins.kernel_suites)?;
    let mut kernels = Vec::new();
    for series in series {
        let kernel = Kernel::get(&archive, dir, series)?;
        // Two names of one kernel are one machine.
        if !kernels.iter().any(|known: &Kernel| known.release == kernel.release) {
            kernels.push(kernel);
        }
    }
    let archive = Archive::open(&dir.join("apt-userland"), pins, std::slice::from_ref(&pins.userland_suite))?;
    let packages = archive.resolve(&pins.userland)?;
    let userland = initramfs::userland(dir, &archive.fetch(&dir.join("debs-userland"), &packages)?)?;
    kernels
        .into_iter()
        .map(|kernel| {
            let initramfs = initramfs::make(dir, &kernel, &userland, pins)?;
            Ok(Bootable { kernel, initramfs })
        })
        .collect()
}

/// The static programs, in the directory that the machines share.
struct Programs {
    dir: PathBuf,
    harnesses: Vec<(String, PathBuf)>,
}

impl Programs {
    fn build(dir: &Path) -> Result<Self> {
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
    fn groups(&self, kernel: &Kernel, place: Place, filter: Option<&str>) -> Result<Vec<Group>> {
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
                    ("TRACER_FACTS", "/job/facts"),
                    ("RUST_BACKTRACE", "1"),
                ];
                groups.push(Group {
                    name: format!("{name}, {attach}"),
                    program: program.clone(),
                    arguments: ["--test-threads=1"].into_iter().chain(filters).map(str::to_owned).collect(),
                    variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                });
            }
        }
        Ok(groups)
    }
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

/// Runs as many machines at a time as there are processors, the slowest kernels first.
fn run_all(dir: &Path, kernels: &[Bootable], programs: &Programs, options: &Options) -> Result<Vec<Column>> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..kernels.len()).collect());
    let columns = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once.min(kernels.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(index) = next else { break };
                    let is_end = index == 0 || index + 1 == kernels.len();
                    let place = if is_end { Place::End } else { Place::Between };
                    let column = run_one(dir, &kernels[index], place, programs, options);
                    columns.lock().unwrap_or_else(PoisonError::into_inner).push((index, column));
                }
            });
        }
    });
    let mut columns = columns.into_inner().unwrap_or_else(PoisonError::into_inner);
    columns.sort_by_key(|(index, _)| *index);
    Ok(columns.into_iter().map(|(_, column)| column).collect())
}

/// What goes wrong with a machine is part of its column: the others go on.
fn run_one(dir: &Path, bootable: &Bootable, place: Place, programs: &Programs, options: &Options) -> Column {
    let kernel = &bootable.kernel;
    let started = Instant::now();
    let result = try_run(dir, bootable, place, programs, options);
    let ((outcomes, facts), problem) = match result {
        Ok(told) => (told, None),
        Err(error) => {
            eprintln!("vm: Linux {}: {error:#}", kernel.release);
            (Default::default(), Some(format!("{error:#}")))
        }
    };
    let (kernel, version) = (kernel.series(), kernel.version.clone());
    Column { kernel, version, outcomes, facts, problem, took: started.elapsed() }
}

fn try_run(
    dir: &Path,
    bootable: &Bootable,
    place: Place,
    programs: &Programs,
    options: &Options,
) -> Result<(Vec<Outcome>, Facts)> {
    let kernel = &bootable.kernel;
    let groups = programs.groups(kernel, place, options.filter.as_deref())?;
    if groups.is_empty() {
        return Ok(Default::default());
    }
    let job = dir.join(format!("job-{}", kernel.release));
    if job.exists() {
        fs::remove_dir_all(&job).context("cannot empty the job's directory")?;
    }
    create_dir(&job)?;
    write(&job.join("run"), job::script(&groups))?;
    let name = format!("Linux {}", kernel.series());
    let mut guest = Machine {
        name: &name,
        vmlinux: &bootable.kernel.vmlinux,
        initramfs: &bootable.initramfs,
        programs: &programs.dir,
        job: &job,
        more: Vec::new(),
        patience: PATIENCE,
    }
    .start()?;
    let started = Instant::now();
    let outcomes = job::follow(&mut guest, |line| {
        eprintln!("[{name} {:>4.0} s] {line}", started.elapsed().as_secs_f64());
    })?;
    for (group, outcome) in groups.iter().zip(outcomes.iter().map(Some).chain(std::iter::repeat(None))) {
        if outcome.is_none_or(|outcome| outcome.group != group.name || outcome.tests.is_empty()) {
            bail!("{:?} did not run. {}", group.name, guest.shown_console());
        }
    }
    if outcomes.iter().any(|outcome| !outcome.passed) {
        eprintln!("{name}: {}", guest.shown_console());
    }
    Ok((outcomes, facts::read(&job.join("facts"))?))
}
