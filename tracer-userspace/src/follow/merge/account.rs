//! What all streams together have counted and lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracer_common::outcome::Outcome;

use super::Stream;
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::follow::joining::Account;
use crate::follow::select::Selection;
use crate::follow::teller::StreamEnd;
use crate::trajectory::model::{ObservationPoint, PointId};

/// Sums over all streams.
pub(super) fn account<'a>(
    selection: &'a Selection,
    streams: &[Stream],
    points: &'a [Arc<ObservationPoint>],
) -> Account<'a> {
    let mut outcomes = Outcomes::default();
    let mut losses = Losses::default();
    for Stream { counts, pointless, .. } in streams {
        for outcome in Outcome::ALL {
            outcomes.add(*outcome, counts.outcomes.get(outcome.name()).copied().unwrap_or_default());
        }
        losses.add(counts.losses);
        losses.add(Losses { unattributed: *pointless, ..Losses::default() });
    }
    let all = streams;
    let streams = streams.iter().map(|stream| StreamEnd {
        path: stream.path.clone(),
        nodes: stream.hello.iter().flat_map(|hello| hello.nodes.clone()).collect(),
        kernel: stream.hello.iter().map(|hello| hello.kernel_release.clone()).collect(),
        end: match (&stream.end, stream.silent) {
            (Some(end), _) => end.clone(),
            (None, true) => "silent".to_owned(),
            (None, false) => "still running".to_owned(),
        },
    });
    let lost_at_points = lost_at_points(all);
    Account {
        selection: Some(selection),
        outcomes,
        losses,
        lost_at_points,
        points,
        streams: streams.collect(),
    }
}

/// Records lost by point, as far as the streams say it.
pub(super) fn lost_at_points(streams: &[Stream]) -> BTreeMap<PointId, u64> {
    let of_stream = |stream: &Stream| -> Vec<(PointId, u64)> {
        let ours = |(point, count): (&u32, &u64)| Some(((*stream.points.get(point)?)?, *count));
        stream.counts.at_points.iter().filter_map(ours).collect()
    };
    streams.iter().flat_map(of_stream).collect()
}
