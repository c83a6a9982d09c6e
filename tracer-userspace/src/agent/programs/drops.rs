//! The program on drops. It is loaded only where the kernel gives reasons, and follows go on without it.

use std::os::fd::AsFd as _;

use aya::maps::{MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, BtfError};
use tracer_common::measure::DroppedAt;
use tracer_common::outcome::{DROP_OUTCOME_COUNT, DropOutcome};

use super::{LoadError, Programs, source_chain};
use crate::host::bpf;
use crate::host::drop_reasons::TRACEPOINT;

const PROGRAM: &str = "tracer_drop";

/// Why the kernel does not tell of drops.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("its BTF cannot be read: {}", source_chain(.0))]
    Btf(#[source] BtfError),
    #[error("it refuses the program: {}", source_chain(.0))]
    Program(#[source] ProgramError),
    #[error("the eBPF object has no {0} (a defect of the build)")]
    Missing(&'static str),
}

/// What the program on drops did, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropOutcomes {
    counts: [u64; DROP_OUTCOME_COUNT],
    /// Runs that the kernel skipped because they would have interrupted one on the same CPU.
    skipped: u64,
}

impl DropOutcomes {
    #[must_use]
    pub fn get(&self, outcome: DropOutcome) -> u64 {
        self.counts.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Drops that may have been wanted and were not told.
    #[must_use]
    pub fn lost(&self) -> u64 {
        use DropOutcome::{Nested, RingFull};
        self.get(RingFull).saturating_add(self.get(Nested)).saturating_add(self.skipped)
    }
}

impl Programs {
    /// Puts the program on drops on its tracepoint, until [`Programs::ignore_drops`] or the end of this process; loads it
    /// the first time. The layout must have been in the options of [`Programs::new`].
    ///
    /// # Errors
    /// [`WatchError`]; all else goes on.
    pub fn watch_drops(&mut self) -> Result<(), WatchError> {
        if self.drop_link.is_some() {
            return Ok(());
        }
        let program = self.observer.program_mut(PROGRAM).ok_or(WatchError::Missing(PROGRAM))?;
        let program: &mut BtfTracePoint = program.try_into().map_err(WatchError::Program)?;
        if program.fd().is_err() {
            let btf = Btf::from_sys_fs().map_err(WatchError::Btf)?;
            program.load(TRACEPOINT, &btf).map_err(WatchError::Program)?;
        }
        self.drop_link = Some(program.attach().map_err(WatchError::Program)?);
        Ok(())
    }

    /// Takes the program on drops off its tracepoint: nobody asks for drops any more.
    ///
    /// # Errors
    /// [`WatchError::Program`].
    pub fn ignore_drops(&mut self) -> Result<(), WatchError> {
        let Some(link) = self.drop_link.take() else { return Ok(()) };
        let program = self.observer.program_mut(PROGRAM).ok_or(WatchError::Missing(PROGRAM))?;
        let program: &mut BtfTracePoint = program.try_into().map_err(WatchError::Program)?;
        program.detach(link).map_err(WatchError::Program)
    }

    /// What the program on drops did, over all CPUs; zeros where it is not loaded.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn drop_outcomes(&self) -> Result<DropOutcomes, LoadError> {
        const MAP: &str = "DROP_OUTCOMES";
        let error = |source| LoadError::Map { name: MAP, source };
        let map = self.observer.map(MAP).ok_or(LoadError::Missing(MAP))?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(error)?;
        let mut outcomes = DropOutcomes { skipped: self.skipped_drops(), ..DropOutcomes::default() };
        for (index, count) in outcomes.counts.iter_mut().enumerate() {
            *count = counters.get(&(index as u32), 0).map_err(error)?.iter().sum();
        }
        Ok(outcomes)
    }

    /// Drops since the start by place and reason, over all CPUs; empty where nobody asked for metrics.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn dropped(&self) -> Result<Vec<(DroppedAt, u64)>, LoadError> {
        const MAP: &str = "DROPPED";
        let error = |source| LoadError::Map { name: MAP, source };
        let map = self.observer.map(MAP).ok_or(LoadError::Missing(MAP))?;
        let counts: PerCpuHashMap<_, DroppedAt, u64> = PerCpuHashMap::try_from(map).map_err(error)?;
        let sum = |entry: Result<(DroppedAt, PerCpuValues<u64>), MapError>| {
            entry.map(|(at, cpus)| (at, cpus.iter().sum())).map_err(error)
        };
        counts.iter().map(sum).collect()
    }

    /// Gives the room of counts back: their namespaces are gone.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Map`].
    pub fn forget_dropped(&mut self, gone: &[DroppedAt]) -> Result<(), LoadError> {
        const MAP: &str = "DROPPED";
        let map = self.observer.map_mut(MAP).ok_or(LoadError::Missing(MAP))?;
        let error = |source| LoadError::Map { name: MAP, source };
        let mut counts: PerCpuHashMap<_, DroppedAt, u64> = PerCpuHashMap::try_from(map).map_err(error)?;
        for at in gone {
            // It may be gone already.
            let _ = counts.remove(at);
        }
        Ok(())
    }

    /// A kernel that does not say how many it skipped skips none: before Linux 5.12.
    fn skipped_drops(&self) -> u64 {
        let program: Option<&BtfTracePoint> =
            self.observer.program(PROGRAM).and_then(|program| program.try_into().ok());
        let fd = program.and_then(|program| program.fd().ok());
        fd.and_then(|fd| bpf::skipped_runs(fd.as_fd()).ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wanted_or_not_looked_at_and_not_told_is_lost_and_nothing_else_is() {
        let mut all = DropOutcomes { skipped: 1000, ..DropOutcomes::default() };
        for outcome in DropOutcome::ALL {
            all.counts[*outcome as usize] = 1;
        }
        assert_eq!(all.lost(), 1002);
        all.counts[DropOutcome::RingFull as usize] = 10;
        all.counts[DropOutcome::Nested as usize] = 100;
        assert_eq!(all.lost(), 1110);
        assert_eq!(all.get(DropOutcome::Nested), 100);
    }
}
