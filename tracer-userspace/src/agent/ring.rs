//! The thread that empties the ring buffer. The programs do not wake it for a record (that costs twenty times the
//! record), so it looks every few milliseconds while packets come and less often when none do; the kernel wakes it
//! when the ring fills faster than that. While nobody wants records it rests.

mod batch;
mod consumer;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event as EpollEvent, EventData as EpollEventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

pub use self::batch::{Batch, Sample};
pub use self::consumer::{Consumer, RingError};

use super::points::PointKey;

/// Batches that the channel holds; full ones have about a quarter of a million records (30 to 40 MB), one second of a
/// fast flood; while packets are captured 64 MB.
pub const CHANNEL_CAPACITY: usize = 512;

/// How often to look while records come: this is the most that batching delays a record.
const BUSY_INTERVAL: Duration = Duration::from_millis(2);
/// How often to look while none come.
const IDLE_INTERVAL: Duration = Duration::from_millis(20);
/// How often to look while nobody wants any: nothing is recorded then.
const RESTING_INTERVAL: Duration = Duration::from_secs(1);
/// How long after the last record the short interval is kept.
const BUSY_HOLD: Duration = Duration::from_millis(200);

/// What the thread counts.
#[derive(Debug, Default)]
pub struct RingCounters {
    /// Records thrown away because the channel was full.
    pub channel_full: AtomicU64,
    /// All records from before this time, CLOCK_MONOTONIC in nanoseconds, are in the channel or counted; 0 until the
    /// ring was emptied for the first time. On a busy machine the thread may have to wait long for its turn.
    pub read_until_ns: AtomicU64,
    /// Those of `channel_full` by point.
    lost: Mutex<HashMap<PointKey, u64>>,
}

impl RingCounters {
    /// Records that were thrown away because the channel was full, by point.
    #[must_use]
    pub fn lost_at_points(&self) -> Vec<(PointKey, u64)> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter().map(|(key, count)| (*key, *count)).collect()
    }

    fn lose(&self, batch: &Batch) {
        self.channel_full.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in batch.samples().flatten() {
            if let Sample::Hop(record, _) = sample {
                *lost.entry(PointKey::of(&record)).or_default() += 1;
            }
        }
    }
}

/// The running thread; ends when dropped.
pub struct RingReader {
    orders: Arc<Orders>,
    counters: Arc<RingCounters>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
struct Orders {
    stop: AtomicBool,
    rest: AtomicBool,
    /// Readable when there is something new.
    bell: OwnedFd,
}

impl Orders {
    fn ring_bell(&self) {
        // It is non-blocking, and full is as good as rung.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl RingReader {
    /// Starts the thread. Batches go to `sender`; a full channel loses them, counted.
    ///
    /// # Errors
    /// When no thread or descriptor can be had.
    pub fn spawn(ring: Consumer, sender: mpsc::Sender<Batch>) -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let alarm = alarm_for(&ring, &bell)?;
        let orders = Arc::new(Orders { stop: AtomicBool::new(false), rest: AtomicBool::new(false), bell });
        let counters = Arc::new(RingCounters::default());
        let thread = {
            let (orders, counters) = (Arc::clone(&orders), Arc::clone(&counters));
            std::thread::Builder::new()
                .name("ring".into())
                .spawn(move || read_until_stopped(ring, &alarm, &sender, &orders, &counters))?
        };
        Ok(Self { orders, counters, thread: Some(thread) })
    }

    /// Whether nobody wants records. Those that come all the same are read, later.
    pub fn rest(&self, rest: bool) {
        if self.orders.rest.swap(rest, Ordering::AcqRel) != rest {
            self.orders.ring_bell();
        }
    }

    #[must_use]
    pub fn counters(&self) -> &RingCounters {
        &self.counters
    }

    /// Reads what is still in the ring and ends the thread; the channel closes behind the last record.
    pub fn stop(&mut self) {
        self.orders.stop.store(true, Ordering::Release);
        self.orders.ring_bell();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ring buffer thread has panicked");
        }
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_until_stopped(
    mut ring: Consumer,
    alarm: &OwnedFd,
    sender: &mpsc::Sender<Batch>,
    orders: &Orders,
    counters: &RingCounters,
) {
    let mut last_record = Instant::now();
    loop {
        // Read before the last drain: nothing that was in the ring when we were told to stop is left there.
        let stopping = orders.stop.load(Ordering::Acquire);
        let began_ns = now_ns();
        if drain(&mut ring, sender, counters) > 0 {
            last_record = Instant::now();
        }
        counters.read_until_ns.store(began_ns, Ordering::Release);
        if stopping {
            return;
        }
        let interval = match last_record.elapsed() {
            since if since < BUSY_HOLD => BUSY_INTERVAL,
            _ if orders.rest.load(Ordering::Acquire) => RESTING_INTERVAL,
            _ => IDLE_INTERVAL,
        };
        wait(alarm, interval);
    }
}

/// The clock of records.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)).unwrap_or(0)
}

/// Empties the ring; gives the number of samples.
fn drain(ring: &mut Consumer, sender: &mpsc::Sender<Batch>, counters: &RingCounters) -> u64 {
    let mut samples = 0;
    let mut batch = Batch::default();
    while ring.next(|sample| batch.push(sample)).is_some() {
        samples += 1;
        if batch.is_full() {
            let next = Batch::like(&batch);
            hand_over(std::mem::replace(&mut batch, next), sender, counters);
        }
    }
    ring.tell();
    hand_over(batch, sender, counters);
    samples
}

fn hand_over(batch: Batch, sender: &mpsc::Sender<Batch>, counters: &RingCounters) {
    if batch.is_empty() {
        return;
    }
    if let Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) = sender.try_send(batch) {
        counters.lose(&batch);
    }
}

/// Waits until the kernel wakes us or the interval is over. An error (a signal) is as good as either.
fn wait(alarm: &OwnedFd, interval: Duration) {
    let mut events = [EpollEvent { flags: EventFlags::empty(), data: EpollEventData::new_u64(0) }];
    let tv_sec = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    let timeout = Timespec { tv_sec, tv_nsec: i64::from(interval.subsec_nanos()) };
    let _ = epoll::wait(alarm, &mut events[..], Some(&timeout));
}

/// What the kernel wakes. Edge-triggered: without that a wait would end at once whenever there is a record, which is
/// what records without wake-ups are to avoid.
fn alarm_for(ring: &Consumer, bell: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let alarm = epoll::create(CreateFlags::CLOEXEC)?;
    for source in [ring.as_fd(), bell.as_fd()] {
        epoll::add(&alarm, source, EpollEventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    }
    Ok(alarm)
}
