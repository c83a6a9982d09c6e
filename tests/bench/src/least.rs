//! The least that any tool pays at the same hooks: programs that know what comes, and a reader that throws all away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use tracer_lab::Lab;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-lab-least"));
/// As tracer's.
const RING_BYTES: u32 = 8 << 20;
const LOOK: Duration = Duration::from_millis(2);
/// Source and destination that no packet has.
const NOBODYS: u64 = 0;

/// One program at all hooks. Dropping it detaches it.
pub(crate) struct Least {
    ebpf: Ebpf,
    _links: Vec<FdLink>,
    reader: Option<Reader>,
}

struct Reader {
    has_ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Least {
    /// `program`: `least_look` or `least_record`.
    pub(crate) fn attach(lab: &Lab, program: &'static str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .override_global("WANTED", &NOBODYS, true)
            .map_max_entries("least_records", RING_BYTES)
            .load(OBJECT)
            .context("cannot load what does the least")?;
        let classifier: &mut SchedClassifier =
            ebpf.program_mut(program).with_context(|| format!("there is no {program}"))?.try_into()?;
        classifier.load().with_context(|| format!("the kernel refuses {program}"))?;
        let mut links = Vec::new();
        for (netns, device) in crate::state::devices(lab)? {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                links.push(netns.run(|| link(classifier, &device, direction))??);
            }
        }
        let records = ebpf.take_map("least_records").context("there is no least_records")?;
        let reader = Reader::start(RingBuf::try_from(records)?)?;
        Ok(Self { ebpf, _links: links, reader: Some(reader) })
    }

    /// Records that were lost.
    pub(crate) fn end(mut self) -> Result<u64> {
        let reader = self.reader.take().context("it has ended")?;
        reader.has_ended.store(true, Ordering::Relaxed);
        reader.thread.join().map_err(|_| anyhow!("the reader of the least has failed"))?;
        let counts = PerCpuArray::<_, u64>::try_from(self.ebpf.map("least_counts").context("no counts")?)?;
        Ok(counts.get(&1, 0)?.iter().sum())
    }
}

fn link(program: &mut SchedClassifier, device: &str, direction: TcAttachType) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::last());
    let id = program
        .attach_with_options(device, direction, options)
        .with_context(|| format!("cannot attach to {device}"))?;
    Ok(program.take_link(id)?.try_into()?)
}

impl Reader {
    fn start(mut ring: RingBuf<MapData>) -> Result<Self> {
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = has_ended.clone();
        let read = move || {
            while !ended.load(Ordering::Relaxed) {
                while ring.next().is_some() {}
                // sleep: how often tracer's reader looks.
                thread::sleep(LOOK);
            }
        };
        let thread = thread::Builder::new().name("least".to_owned()).spawn(read)?;
        Ok(Self { has_ended, thread })
    }
}
