//! All kernels, as many machines at a time as there are processors.
//!
//! The machines of one kernel share its work: each takes the next test program that no other has taken, by making a
//! directory of its number in the directory that they share. When nothing is left, its processor goes on with the next
//! kernel. So no processor waits for another's last test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Bootable,
    debian::{create_dir, write},
    facts::{self, Facts},
    guest::Machine,
    job::{self, Group, Outcome},
    programs::{Place, Programs},
    table::Column,
};

/// A machine that says nothing for so long hangs. The longest test takes a third of it.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs the test programs on all kernels; gives a column for each, in the kernels' order.
///
/// # Errors
/// When the work of a kernel cannot be made ready. What goes wrong in a machine is in its column.
pub(crate) fn run(
    dir: &Path,
    kernels: &[Bootable],
    programs: &Programs,
    filter: Option<&str>,
) -> Result<Vec<Column>> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Vec::new();
    for (index, bootable) in kernels.iter().enumerate() {
        let is_end = index == 0 || index + 1 == kernels.len();
        let place = if is_end { Place::End } else { Place::Between };
        let groups = programs.groups(&bootable.kernel, place, filter)?;
        all.push(Work::prepare(dir, bootable, &programs.dir, groups)?);
    }
    thread::scope(|scope| {
        for number in 1..=at_once {
            let all = &all;
            // Newer kernels take longer.
            scope.spawn(move || all.iter().rev().for_each(|work| work.help(number)));
        }
    });
    Ok(all.into_iter().map(Work::into_column).collect())
}

/// One kernel's test programs, and what came of them.
struct Work<'a> {
    bootable: &'a Bootable,
    programs: &'a Path,
    groups: Vec<Group>,
    /// The directory that the machines share.
    job: PathBuf,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    outcomes: Vec<Outcome>,
    problems: Vec<String>,
    /// Of all machines.
    took: Duration,
}

impl<'a> Work<'a> {
    fn prepare(dir: &Path, bootable: &'a Bootable, programs: &'a Path, groups: Vec<Group>) -> Result<Self> {
        let job = dir.join(format!("job-{}", bootable.kernel.release));
        if job.exists() {
            fs::remove_dir_all(&job).context("cannot empty the job's directory")?;
        }
        create_dir(&job.join(job::TAKEN))?;
        create_dir(&job.join(job::FACTS))?;
        write(&job.join("run"), job::script(&groups))?;
        Ok(Self { bootable, programs, groups, job, done: Mutex::default() })
    }

    fn is_all_taken(&self) -> bool {
        fs::read_dir(self.job.join(job::TAKEN)).is_ok_and(|taken| taken.count() >= self.groups.len())
    }

    /// Lets a machine take from the work until nothing is left. `number` tells it from those of the other processors.
    fn help(&self, number: usize) {
        // There is no use in more machines than there is to take.
        if number > self.groups.len() || self.is_all_taken() {
            return;
        }
        let started = Instant::now();
        let result = self.run_machine(number);
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.took += started.elapsed();
        match result {
            Ok(outcomes) => done.outcomes.extend(outcomes),
            Err(error) => done.problems.push(self.told(format!("{error:#}"))),
        }
    }

    fn run_machine(&self, number: usize) -> Result<Vec<Outcome>> {
        let name = format!("Linux {} machine {number}", self.bootable.kernel.series());
        let mut guest = Machine {
            name: &name,
            vmlinux: &self.bootable.kernel.vmlinux,
            initramfs: &self.bootable.initramfs,
            programs: self.programs,
            job: &self.job,
            log: &format!("console-{number}.log"),
            more: Vec::new(),
            patience: PATIENCE,
        }
        .start()?;
        let started = Instant::now();
        let outcomes = job::follow(&mut guest, |line| {
            eprintln!("[{name} {:>4.0} s] {line}", started.elapsed().as_secs_f64());
        })?;
        if outcomes.iter().any(|outcome| !outcome.passed) {
            eprintln!("{name}: {}", guest.shown_console());
        }
        Ok(outcomes)
    }

    fn into_column(mut self) -> Column {
        let done = std::mem::take(self.done.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Done { outcomes, mut problems, took } = done;
        let not_once = missing(&self.groups, &outcomes);
        problems.extend(not_once.map(|name| self.told(format!("{name:?} did not run once with its tests"))));
        let facts = facts::read(&self.job.join(job::FACTS)).unwrap_or_else(|error| {
            problems.push(self.told(format!("{error:#}")));
            Facts::new()
        });
        let (kernel, version) = (self.bootable.kernel.series(), self.bootable.kernel.version.clone());
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        Column { kernel, version, outcomes, facts, problem, took }
    }

    /// A problem, told as soon as it is known: the table has only a word for it.
    fn told(&self, problem: String) -> String {
        eprintln!("vm: Linux {}: {problem}", self.bootable.kernel.release);
        problem
    }
}

/// What did not run, or without any test, or more than once.
fn missing<'a>(groups: &'a [Group], outcomes: &[Outcome]) -> impl Iterator<Item = &'a str> {
    let runs = |name: &str| {
        outcomes.iter().filter(|outcome| outcome.group == name && !outcome.tests.is_empty()).count()
    };
    groups.iter().map(|group| group.name.as_str()).filter(move |name| runs(name) != 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_run_or_ran_twice_or_without_a_test_is_missing() {
        let group = |name: &str| Group {
            name: name.to_owned(),
            program: String::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
        };
        let outcome = |name: &str, tests: usize| Outcome {
            group: name.to_owned(),
            passed: true,
            took: Duration::ZERO,
            tests: vec![("test".to_owned(), "ok".to_owned(), Duration::ZERO); tests],
        };
        let groups = ["once", "never", "twice", "empty"].map(group);
        let outcomes = [outcome("twice", 1), outcome("once", 2), outcome("empty", 0), outcome("twice", 1)];

        assert_eq!(missing(&groups, &outcomes).collect::<Vec<_>>(), ["never", "twice", "empty"]);
    }
}
