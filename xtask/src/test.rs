//! Everything that CI runs, in steps: lint, build, tests without and with privileges, fuzzing.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    cargo::{self, Executable},
    chart, fuzz, lint, process, setup,
    steps::Steps,
};

/// Crates whose tests need root. They build network namespaces.
const LAB: &str = "tests/lab";
const INTEGRATION: &str = "tests/integration";
const AGENTS: &str = "tests/agents";
/// Integration tests that may come out otherwise with filters of clsact than at TCX: they run with both here. The others
/// run here at TCX, and by clsact on the old kernels of `cargo xtask vm`.
const ABOUT_ATTACHING: [&str; 5] = ["coexistence", "ending", "every_hop", "flood", "points"];
/// One test program may take this long, seconds; then it hangs.
const DEADLINE: &str = "1500";
/// Short, for every run of the tests. `cargo xtask fuzz` runs longer.
const FUZZ_SECONDS: u32 = 10;
/// Random tests (proptest) begin from one seed, so that a run says the same twice; the variable sets another, and
/// `cargo test` takes a new one each time.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20261122");

/// What of it to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
    /// Only this step (with what it needs).
    pub(crate) only: Option<Step>,
    /// The integration tests with this mechanism only.
    pub(crate) attach: Option<Attach>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Fmt,
    Clippy,
    Rules,
    Build,
    Unit,
    Doc,
    Fuzz,
    Lab,
    Integration,
    Agents,
    Chart,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Fmt,
        Self::Clippy,
        Self::Rules,
        Self::Build,
        Self::Unit,
        Self::Doc,
        Self::Fuzz,
        Self::Lab,
        Self::Integration,
        Self::Agents,
        Self::Chart,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Rules => "rules",
            Self::Build => "build",
            Self::Unit => "unit",
            Self::Doc => "doc",
            Self::Fuzz => "fuzz",
            Self::Lab => "lab",
            Self::Integration => "integration",
            Self::Agents => "agents",
            Self::Chart => "chart",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|step| step.name() == name).ok_or_else(|| format!("no such step: {name}"))
    }

    /// Whether the step runs named tests, so that a filter means something to it.
    const fn takes_filter(self) -> bool {
        matches!(self, Self::Unit | Self::Lab | Self::Integration | Self::Agents)
    }
}

/// How the programs under test are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    Tcx,
    Clsact,
}

impl Attach {
    const ALL: [Self; 2] = [Self::Tcx, Self::Clsact];

    const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    const fn step_name(self) -> &'static str {
        match self {
            Self::Tcx => "integration, tcx",
            Self::Clsact => "integration, clsact",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|attach| attach.name() == name)
            .ok_or_else(|| format!("no such mechanism: {name}"))
    }
}

/// Runs the steps and prints how long each took.
///
/// # Errors
/// Those of the first step that fails, with the command that repeats it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::default();
    let result = run_steps(options, &mut steps);
    println!("\n{steps}");
    result
}

fn run_steps(options: &Options, steps: &mut Steps) -> Result<()> {
    let filter = options.filter.as_deref();
    let wanted = |step: Step| match options.only {
        Some(only) => only == step,
        None => filter.is_none() || step.takes_filter(),
    };
    let repeat = |step: Step| {
        let filter = filter.map(|filter| format!(" {filter}")).unwrap_or_default();
        format!("cargo xtask test{filter} --only {}", step.name())
    };

    steps.run("setup", "cargo xtask setup", || setup::run(false))?;
    if wanted(Step::Fmt) {
        steps.run("fmt", &repeat(Step::Fmt), lint::fmt)?;
    }
    if wanted(Step::Rules) {
        steps.run("rules", &repeat(Step::Rules), || lint::rules(false))?;
    }
    if wanted(Step::Clippy) {
        steps.run("clippy", &repeat(Step::Clippy), lint::clippy)?;
    }
    let mut built = Built::default();
    let mut harnesses = 0;
    if [Step::Build, Step::Unit, Step::Lab, Step::Integration, Step::Agents, Step::Chart]
        .into_iter()
        .any(wanted)
    {
        steps.run("build", &repeat(Step::Build), || {
            built = Built::new()?;
            Ok(())
        })?;
    }
    if wanted(Step::Unit) {
        steps.run("unit", &repeat(Step::Unit), || {
            harnesses += built.run_unit_tests(filter)?;
            Ok(())
        })?;
    }
    if wanted(Step::Doc) {
        steps.run("doc", &repeat(Step::Doc), doc_tests)?;
    }
    if wanted(Step::Fuzz) {
        steps.run("fuzz", &repeat(Step::Fuzz), || fuzz::run(None, FUZZ_SECONDS))?;
    }
    if wanted(Step::Lab) {
        steps.run("lab", &repeat(Step::Lab), || {
            harnesses += built.run_as_root(LAB, None, filter, |_| true)?;
            Ok(())
        })?;
    }
    if wanted(Step::Integration) {
        for attach in
            Attach::ALL.into_iter().filter(|attach| options.attach.is_none_or(|only| only == *attach))
        {
            let repeat = format!("{} --attach {}", repeat(Step::Integration), attach.name());
            let is_all = attach == Attach::Tcx || filter.is_some() || options.attach.is_some();
            let is_meant = |harness: &Executable| is_all || ABOUT_ATTACHING.contains(&harness.name.as_str());
            steps.run(attach.step_name(), &repeat, || {
                harnesses += built.run_as_root(INTEGRATION, Some(attach), filter, is_meant)?;
                Ok(())
            })?;
        }
    }
    if wanted(Step::Agents) {
        steps.run("agents", &repeat(Step::Agents), || {
            harnesses += built.run_as_root(AGENTS, options.attach, filter, |_| true)?;
            Ok(())
        })?;
    }
    if wanted(Step::Chart) {
        steps.run("chart", &repeat(Step::Chart), || {
            chart::check(cargo::program(&built.programs, "tracer")?)
        })?;
    }
    match filter {
        Some(filter) if harnesses == 0 => bail!("no test's name contains {filter:?}"),
        _ => Ok(()),
    }
}

/// All programs and test harnesses of the host's crates.
#[derive(Default)]
struct Built {
    programs: Vec<Executable>,
}

impl Built {
    fn new() -> Result<Self> {
        let mut programs = cargo::build_tests()?;
        programs.sort_by(|a, b| (&a.crate_dir, &a.name).cmp(&(&b.crate_dir, &b.name)));
        Ok(Self { programs })
    }

    /// The harnesses of the crate in `crate_dir` below the workspace's root.
    fn harnesses_of(&self, crate_dir: &str) -> impl Iterator<Item = &Executable> {
        let crate_dir = ebpf_build::workspace_root().join(crate_dir);
        self.programs.iter().filter(move |program| program.is_test && program.crate_dir == crate_dir)
    }

    /// Runs the tests that need no privileges; returns how many harnesses had any.
    fn run_unit_tests(&self, filter: Option<&str>) -> Result<usize> {
        let privileged = [LAB, INTEGRATION, AGENTS].map(|dir| ebpf_build::workspace_root().join(dir));
        let seed = env::var_os(SEED.0).unwrap_or_else(|| SEED.1.into());
        let unprivileged = self
            .programs
            .iter()
            .filter(|program| program.is_test && !privileged.contains(&program.crate_dir));
        run_all(unprivileged, filter, |harness| {
            let mut command = Command::new("timeout");
            command.args(harness_arguments(harness)).args(filter);
            command.env("CARGO_MANIFEST_DIR", &harness.crate_dir).env(SEED.0, &seed);
            command
        })
    }

    /// Runs the tests of a crate as root, one after the other: they share the machine's kernel. Returns how many
    /// harnesses had any.
    fn run_as_root(
        &self,
        crate_dir: &str,
        attach: Option<Attach>,
        filter: Option<&str>,
        is_meant: impl Fn(&Executable) -> bool,
    ) -> Result<usize> {
        let tracer = cargo::program(&self.programs, "tracer")?;
        // A failing run shows where, also behind sudo.
        let backtrace = env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into());
        let harnesses = self.harnesses_of(crate_dir).filter(|harness| is_meant(harness));
        run_all(harnesses, filter, |harness| {
            let mut variables = vec![
                ("CARGO_MANIFEST_DIR", harness.crate_dir.as_os_str()),
                ("RUST_BACKTRACE", &backtrace),
                ("TRACER_BIN", tracer.as_os_str()),
            ];
            variables.extend(attach.map(|attach| ("TRACER_ATTACH", OsStr::new(attach.name()))));
            let mut command = process::as_root("timeout", variables);
            command.args(harness_arguments(harness)).arg("--test-threads=1").args(filter);
            command
        })
    }
}

/// Runs every harness that has tests of the filter's name, even if one fails, so that one run shows all that is
/// broken. Returns how many ran.
fn run_all<'a>(
    harnesses: impl Iterator<Item = &'a Executable>,
    filter: Option<&str>,
    command: impl Fn(&Executable) -> Command,
) -> Result<usize> {
    let mut failed = Vec::new();
    let mut count = 0;
    for harness in harnesses.filter(|harness| filter.is_none_or(|filter| has_test(harness, filter))) {
        count += 1;
        eprintln!("\n--> {} ({})", harness.name, shortened(&harness.crate_dir).display());
        if let Err(error) = process::run(command(harness).current_dir(&harness.crate_dir)) {
            eprintln!("{error:#}");
            failed.push(harness.name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("tests failed in {}", failed.join(", "));
    }
    if count == 0 && filter.is_none() {
        bail!("there is not one test program to run");
    }
    Ok(count)
}

fn has_test(harness: &Executable, filter: &str) -> bool {
    let listed = process::output(Command::new(&harness.path).args(["--list", "--format=terse", filter]));
    listed.is_some_and(|tests| !tests.trim().is_empty())
}

/// Arguments of coreutils' `timeout`; `--foreground` lets Ctrl-C reach the tests.
fn harness_arguments(harness: &Executable) -> [&OsStr; 4] {
    ["--foreground".as_ref(), "--kill-after=10".as_ref(), DEADLINE.as_ref(), harness.path.as_os_str()]
}

fn shortened(crate_dir: &Path) -> PathBuf {
    crate_dir.strip_prefix(ebpf_build::workspace_root()).unwrap_or(crate_dir).to_owned()
}

fn doc_tests() -> Result<()> {
    process::run(cargo::for_tests("test")?.arg("--doc"))
}
