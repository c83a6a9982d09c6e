//! The program that measures legs. It is loaded only where somebody asked for metrics.

use std::time::Duration;

use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuArray, PerCpuHashMap, ProgramArray};
use aya::programs::SchedClassifier;
use tracer_common::measure::{
    LEG_COUNT, LastSeen, LegHistogram, MAX_KINDS, PointInfo, PointPlace, group_leg,
};
use tracer_common::outcome::{
    MEASURE_DROPS_UNTOLD, MEASURE_ENDED, MEASURE_GROUP_LEGS_UNTOLD, MEASURE_INSERTED, MEASURE_REMOVED,
};

use super::{LoadError, Programs, program_of};
use crate::agent::metrics::kinds::point_info;
use crate::agent::metrics::source::{Measured, add, packets};
use crate::agent::points::PointKey;
use crate::trajectory::model::{DeviceRole, Direction};

const PROGRAM: &str = "tracer_measure";
const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Programs {
    /// Loads it and lets the observing program go on in it.
    pub(super) fn load_measuring(&mut self) -> Result<(), LoadError> {
        let refused = |source| LoadError::Program { name: PROGRAM, source };
        let program = program_of(&mut self.observer, PROGRAM)?;
        program.load().map_err(refused)?;
        let target = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
        let error = |source| LoadError::Map { name: "MEASURE", source };
        let way = self.observer.take_map("MEASURE").ok_or(LoadError::Missing("MEASURE"))?;
        let mut way = ProgramArray::try_from(way).map_err(error)?;
        way.set(0, &target, 0).map_err(error)?;
        // The kernel empties the array when nobody holds it.
        self.measuring = Some(way);
        Ok(())
    }

    /// Whether legs are measured.
    #[must_use]
    pub const fn measures(&self) -> bool {
        self.measuring.is_some()
    }

    /// Says of what kind the two points of a device are, and whose (0: nobody's).
    ///
    /// # Errors
    /// [`LoadError::Map`]: there are too many, and packets there are counted as of an unknown point.
    pub fn name_points(
        &mut self,
        (space, ifindex): (u32, u32),
        role: DeviceRole,
        group: u16,
    ) -> Result<(), LoadError> {
        let mut points = self.kinds()?;
        for direction in BOTH {
            let info = PointInfo { group, ..point_info(role, direction) };
            points
                .insert(place(PointKey { space, ifindex, direction }), info, 0)
                .map_err(|source| LoadError::Map { name: "POINTS", source })?;
        }
        Ok(())
    }

    /// Forgets them.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn forget_points(&mut self, space: u32, ifindex: u32) -> Result<(), LoadError> {
        let mut points = self.kinds()?;
        for direction in BOTH {
            // It may never have been there.
            let _ = points.remove(&place(PointKey { space, ifindex, direction }));
        }
        Ok(())
    }

    fn kinds(&mut self) -> Result<BpfHashMap<&mut MapData, PointPlace, PointInfo>, LoadError> {
        let map = self.observer.map_mut("POINTS").ok_or(LoadError::Missing("POINTS"))?;
        BpfHashMap::try_from(map).map_err(|source| LoadError::Map { name: "POINTS", source })
    }

    /// What was measured since the start, over all CPUs; nothing where nobody asked for it.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn measured(&self) -> Result<Measured, LoadError> {
        let mut measured = Measured::default();
        if !self.measures() {
            return Ok(measured);
        }
        // Before the counters: what is added meanwhile would look evicted the other way round.
        let counters = self.measure_counters()?;
        let count = |index: u32| -> Result<u64, LoadError> {
            let error = |source| LoadError::Map { name: "MEASURED", source };
            Ok(counters.get(&index, 0).map_err(error)?.iter().sum())
        };
        let (inserted, removed) = (count(MEASURE_INSERTED)?, count(MEASURE_REMOVED)?);
        measured.remembered = self.remembered()?;
        measured.evicted = inserted.saturating_sub(removed).saturating_sub(measured.remembered);
        measured.ended = count(MEASURE_ENDED)?;
        measured.drops_untold = count(MEASURE_DROPS_UNTOLD)?;
        measured.group_legs_untold = count(MEASURE_GROUP_LEGS_UNTOLD)?;
        for (index, outcome) in measured.outcomes.iter_mut().enumerate() {
            *outcome = count(index as u32)?;
        }
        let error = |source| LoadError::Map { name: "LEGS", source };
        let map = self.observer.map("LEGS").ok_or(LoadError::Missing("LEGS"))?;
        let legs: PerCpuArray<_, LegHistogram> = PerCpuArray::try_from(map).map_err(error)?;
        for number in 0..LEG_COUNT {
            let mut sum = LegHistogram::default();
            legs.get(&number, 0).map_err(error)?.iter().for_each(|cpu| add(&mut sum, cpu));
            if packets(&sum) > 0 {
                measured.legs.push((number / MAX_KINDS, number % MAX_KINDS, sum));
            }
        }
        let error = |source| LoadError::Map { name: "GROUP_LEGS", source };
        let map = self.observer.map("GROUP_LEGS").ok_or(LoadError::Missing("GROUP_LEGS"))?;
        let legs: PerCpuHashMap<_, u32, LegHistogram> = PerCpuHashMap::try_from(map).map_err(error)?;
        for entry in legs.iter() {
            let (key, cpus) = entry.map_err(error)?;
            let mut sum = LegHistogram::default();
            cpus.iter().for_each(|cpu| add(&mut sum, cpu));
            let (group, from, to) = group_leg(key);
            measured.group_legs.push((group, from, to, sum));
        }
        measured.group_legs.sort_by_key(|(group, from, to, _)| (*group, *from, *to));
        Ok(measured)
    }

    fn measure_counters(&self) -> Result<PerCpuArray<&MapData, u64>, LoadError> {
        let map = self.observer.map("MEASURED").ok_or(LoadError::Missing("MEASURED"))?;
        PerCpuArray::try_from(map).map_err(|source| LoadError::Map { name: "MEASURED", source })
    }

    fn remembered(&self) -> Result<u64, LoadError> {
        let map = self.observer.map("LAST").ok_or(LoadError::Missing("LAST"))?;
        let last: BpfHashMap<_, u64, LastSeen> =
            BpfHashMap::try_from(map).map_err(|source| LoadError::Map { name: "LAST", source })?;
        Ok(last.keys().filter(Result::is_ok).count() as u64)
    }

    /// Runs of all entries and their time, with the programs that they go on in; `None` where the kernel keeps no
    /// statistics.
    #[must_use]
    pub fn runs(&self) -> Option<(u64, Duration)> {
        let mut sum = (0, Duration::ZERO);
        for space in self.spaces.values() {
            for (_, program) in space.entries.programs() {
                let Ok(program) = <&SchedClassifier>::try_from(program) else { continue };
                let Ok(info) = program.info() else { continue };
                sum = (sum.0 + info.run_count(), sum.1 + info.run_time());
            }
        }
        (sum.0 > 0).then_some(sum)
    }
}

fn place(key: PointKey) -> PointPlace {
    let direction = match key.direction {
        Direction::Ingress => tracer_common::record::DIRECTION_INGRESS,
        Direction::Egress => tracer_common::record::DIRECTION_EGRESS,
    };
    PointPlace { space: key.space, ifindex: key.ifindex, direction: u32::from(direction) }
}
