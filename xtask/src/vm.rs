//! `cargo xtask vm`: the integration tests on stock Debian kernels, each in a virtual machine.
//!
//! | module | holds |
//! |---|---|
//! | `pins` | what the machines are made of, from the root `Cargo.toml` |
//! | `debian` | packages of other suites, without touching this system |
//! | `kernel` | the newest stock kernel of a series |
//! | `initramfs` | a machine's root file system |
//! | `guest` | a running machine and its console |
//! | `programs` | the tests, and which of them run on which kernel |
//! | `job` | what a machine runs, and what its console says about that |
//! | `matrix` | all kernels, as many machines at a time as there are processors |
//! | `table` | the result: kernel by test group |
//! | `two_nodes` | two machines as the two nodes of a cluster |
//! | `facts` | what the tests found out about the kernels: the table in docs/kernels.md |

mod debian;
mod facts;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod matrix;
mod pins;
mod programs;
mod table;
mod two_nodes;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::setup;

use self::{debian::Archive, kernel::Kernel, pins::Pins, programs::Programs, table::Column};

/// What a filter must be part of for the pairs of machines to be run.
const TWO_NODES: &str = "two_nodes";

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
    let mut columns = matrix::run(&dir, &kernels, &programs, options.filter.as_deref())?;
    if options.filter.as_deref().is_none_or(|filter| TWO_NODES.contains(filter)) {
        run_pairs(&dir, &kernels, &programs, &mut columns);
    }
    let table = table::render(&columns);
    println!("\n{table}");
    if options.filter.is_none() {
        programs::print_what_runs_elsewhere();
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
