//! Hands a recording to `tracer follow`, as two machines with clocks of their own would.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;
use tempfile::TempDir;
use tracer_integration::{fifo, patient, program};
use tracer_lab::Chance;

use crate::change::{Clock, Pass, changed};
use crate::judge::{Judgement, judge};
use crate::record::Recording;
use crate::stream::Stream;
use crate::told;

/// So many times faster than it was recorded.
const SPEED: u64 = 1;
/// How long the program may take until it reads, and behind the end of the streams.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often what has no event is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Joins the recording as the pass has it, and judges what is told.
///
/// # Errors
/// When the program fails, or does not end.
pub(crate) fn replay(recording: &Recording, pass: &Pass) -> Result<Judgement> {
    let mut chance = Chance::new(recording.origin.seed ^ pass.withheld.to_bits());
    let clocks = clocks(recording, &mut chance);
    let first_ns = recording.streams.iter().flat_map(Stream::beats).min().unwrap_or(0);
    let mut pieces = Vec::new();
    for (number, (stream, clock)) in recording.streams.iter().zip(&clocks).enumerate() {
        let (changed, _) = changed(stream, clock, ["near", "far"][number], pass, &mut chance);
        let mut due: Vec<_> =
            stream.beats().map(|beat_ns| Duration::from_nanos((beat_ns - first_ns) / SPEED)).collect();
        if number == 1 {
            let held_up = due.len() / 3;
            due.iter_mut().skip(held_up).for_each(|due| *due += Duration::from_millis(pass.late_ms));
        }
        // What is behind the last heartbeat comes with it.
        due.extend(due.last().copied());
        pieces.push(due.into_iter().zip(changed.write()?).collect());
    }
    let directory = TempDir::new().context("cannot make a directory for a replay")?;
    let output = follow(recording, &pieces, directory.path())?;
    let told = told::parse(&output)?;
    judge(&told, &recording.streams, &clocks, &recording.truth, pass.withheld > 0.0)
}

/// The second node's clock is somewhere else altogether, and runs faster or slower.
fn clocks(recording: &Recording, chance: &mut Chance) -> [Clock; 2] {
    let origin_ns = recording.streams[0].sightings().map(|sighted| sighted.time_ns).min().unwrap_or(0);
    let wall_ns = 1_800_000_000_000_000_000_u64.saturating_sub(origin_ns);
    let near = Clock { origin_ns, offset_ns: 0, drift_ppb: 0, wall_ns };
    // Up to an hour ahead, 50 millionths fast or slow, and walls that differ by up to 5 ms.
    let offset_ns = chance.below(3_600_000_000_000).cast_signed();
    let drift_ppb = chance.below(100_000).cast_signed() - 50_000;
    let skew_ns = chance.below(10_000_000);
    let wall_ns =
        wall_ns.wrapping_sub(offset_ns.cast_unsigned()).wrapping_add(skew_ns).wrapping_sub(5_000_000);
    [near, Clock { origin_ns, offset_ns, drift_ppb, wall_ns }]
}

fn follow(recording: &Recording, pieces: &[Vec<Piece>], directory: &Path) -> Result<Vec<String>> {
    let inventory = directory.join("inventory.yaml");
    fs::write(&inventory, &recording.inventory)?;
    let fifos = [fifo(directory, "near")?, fifo(directory, "far")?];
    let (output, errors) = (directory.join("told.json"), directory.join("said.txt"));
    let mut command = Command::new(program()?);
    command.arg("follow").arg("--inventory").arg(&inventory).arg("--from").arg(&fifos[0]);
    command.arg("--from").arg(&fifos[1]).args(["-o", "json"]).args(&recording.origin.selection);
    command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(File::create(&errors)?);
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let begun = Instant::now();
    let written = thread::scope(|scope| {
        let writers: Vec<_> = fifos
            .iter()
            .zip(pieces)
            .map(|(fifo, pieces)| scope.spawn(move || write(fifo, pieces, begun)))
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|_| bail!("a writer panicked")))
    });
    let status = wait(&mut child)?;
    let said = fs::read_to_string(&errors).unwrap_or_default();
    written.with_context(|| format!("cannot hand a stream over; tracer said\n{said}"))?;
    ensure!(status.success(), "tracer follow ended with {status}; it said\n{said}");
    Ok(fs::read_to_string(&output)?.lines().map(str::to_owned).collect())
}

/// Bytes of a stream, and how long after the beginning they are due.
type Piece = (Duration, Vec<u8>);

/// Writes a stream's pieces when they are due.
fn write(fifo: &Path, pieces: &[Piece], begun: Instant) -> Result<()> {
    let mut stream = open(fifo)?;
    for (due, bytes) in pieces {
        // sleep: a stream comes at its pace.
        thread::sleep(due.saturating_sub(begun.elapsed()));
        stream.write_all(bytes)?;
    }
    Ok(())
}

/// Opens a FIFO as soon as somebody reads, and does not wait for ever.
fn open(fifo: &Path) -> Result<File> {
    let deadline = Instant::now() + patient(DEADLINE);
    loop {
        match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(fifo) {
            Ok(file) => {
                rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
                return Ok(file);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("tracer does not read its stream");
            }
            // sleep: that somebody opens a FIFO is no event.
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + patient(DEADLINE);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("tracer follow had not ended {DEADLINE:?} after its streams");
        }
        // sleep: looks for the end of a process with a deadline.
        thread::sleep(LOOK);
    }
}
