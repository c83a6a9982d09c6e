//! How much of packets is captured. The kernel side copies what all who ask want together; each gets its own part.

use tracer_common::packet::{DEFAULT_VXLAN_PORTS, Headers, Link, SliceReader};
use tracer_common::record::{HOP_RECORD_SIZE, split_captured};

use crate::trajectory::model::{Frame, ObservationPoint};

/// How much of a packet is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureBytes {
    /// Up to where the innermost packet's payload begins.
    Headers,
    /// So many bytes, payload or not: from 1 to [`tracer_common::record::MAX_SNAPLEN`].
    Most(u32),
}

impl CaptureBytes {
    /// Of a frame that has what anybody wants, what is wanted here; `None` where its headers cannot be told from its
    /// payload.
    #[must_use]
    pub fn of(self, frame: &Frame, point: &ObservationPoint) -> Option<Frame> {
        let (record, bytes) = split_captured(&frame.0)?;
        let most = match self {
            Self::Most(most) => most,
            Self::Headers => {
                let link = if point.has_ethernet_header { Link::Ethernet } else { Link::None };
                let reader = SliceReader::with_length(bytes, record.length);
                let mut headers = Headers::default();
                headers.parse(&reader, link, &DEFAULT_VXLAN_PORTS).ok()?;
                headers.end.checked_sub(record.payload_length)?
            }
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        if bytes.len() <= most {
            return Some(frame.clone());
        }
        Some(Frame(frame.0[..HOP_RECORD_SIZE + most].into()))
    }
}
