//! Samples on their way from the thread that reads the ring to who takes them in: as they lay in the ring, one behind the
//! other, and decoded there. A decoded record has room for what most have not, and would be copied several times.

use tracer_common::record::{DropRecord, HopRecord, Record, split_captured};

use crate::trajectory::model::Frame;

/// Most samples in one batch, and most bytes but for the last sample's.
const MOST: usize = 512;
const MOST_BYTES: usize = 128 << 10;

/// What the kernel side tells: one packet at one place.
#[derive(Clone, Debug)]
pub enum Sample {
    /// With the packet's bytes where they are captured.
    Hop(HopRecord, Option<Frame>),
    Drop(DropRecord),
}

impl Sample {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match Record::from_bytes(bytes) {
            Some(Record::Hop(record)) => Some(Self::Hop(record, None)),
            Some(Record::Drop(record)) => Some(Self::Drop(record)),
            None => split_captured(bytes).map(|(record, _)| Self::Hop(record, Some(Frame(bytes.into())))),
        }
    }
}

/// Some samples, in the order of the ring.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each sample ends.
    ends: Vec<u32>,
}

impl Batch {
    /// An empty one that will probably become as large as `before`.
    pub(super) fn like(before: &Self) -> Self {
        Self { bytes: Vec::with_capacity(before.bytes.len()), ends: Vec::with_capacity(before.ends.len()) }
    }

    pub(super) fn push(&mut self, sample: &[u8]) {
        self.bytes.extend_from_slice(sample);
        // Not over MOST_BYTES and one sample.
        self.ends.push(self.bytes.len() as u32);
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= MOST || self.bytes.len() >= MOST_BYTES
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The samples; `None` for one that is no record: of the wrong size, or of another kind than its size says.
    pub fn samples(&self) -> impl Iterator<Item = Option<Sample>> {
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            let sample = self.bytes.get(begin..end)?;
            begin = end;
            Sample::from_bytes(sample)
        })
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::record::HOP_RECORD_SIZE;

    use super::*;

    #[test]
    fn samples_come_out_as_they_went_in_and_what_is_no_record_is_told() {
        let mut batch = Batch::default();
        batch.push(&[0; HOP_RECORD_SIZE - 80]);
        batch.push(&[1, 2, 3]);
        batch.push(&[]);
        batch.push(&[0; HOP_RECORD_SIZE + 60]);

        let samples: Vec<_> = batch.samples().collect();

        assert_eq!(batch.len(), 4);
        assert!(matches!(samples[0], Some(Sample::Hop(_, None))));
        assert!(samples[1].is_none() && samples[2].is_none());
        assert!(
            matches!(&samples[3], Some(Sample::Hop(_, Some(frame))) if frame.0.len() == HOP_RECORD_SIZE + 60)
        );
    }

    #[test]
    fn a_batch_is_full_by_number_or_by_bytes() {
        let mut small = Batch::default();
        (0..MOST).for_each(|_| small.push(&[0; 100]));
        assert!(small.is_full());
        let mut large = Batch::default();
        (0..MOST_BYTES / 1000 + 1).for_each(|_| large.push(&[0; 1000]));
        assert!(large.is_full() && large.len() < MOST);
    }
}
