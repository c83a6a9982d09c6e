//! Where a capture goes: stdout, one file, or one after another by size and time.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 << 10;

/// When the next file begins, and how many are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// A file ends when it has this many bytes.
    pub bytes: Option<u64>,
    /// A file ends after this time.
    pub time: Option<Duration>,
    /// Older ones are removed; `None`: all are kept.
    pub keep: Option<usize>,
}

impl Rotation {
    const fn is_on(self) -> bool {
        self.bytes.is_some() || self.time.is_some()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Files {
    /// `None`: stdout.
    path: Option<PathBuf>,
    rotation: Rotation,
    number: u32,
    kept: VecDeque<PathBuf>,
    began_ns: u64,
}

impl Files {
    #[must_use]
    pub fn new(path: Option<PathBuf>, rotation: Rotation) -> Self {
        Self { path, rotation, number: 0, kept: VecDeque::new(), began_ns: 0 }
    }

    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.path.is_none()
    }

    /// Begins the first or the next file at `now_ns`, and removes what is too old.
    ///
    /// # Errors
    /// It cannot be made; the error says which.
    pub fn begin(&mut self, now_ns: u64) -> io::Result<Counted> {
        self.began_ns = now_ns;
        let Some(path) = &self.path else { return Ok(Counted::new(Box::new(io::stdout()))) };
        self.number += 1;
        let path = if self.rotation.is_on() { numbered(path, self.number) } else { path.clone() };
        let file = File::create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        self.kept.push_back(path);
        while self.rotation.keep.is_some_and(|keep| self.kept.len() > keep.max(1)) {
            if let Some(oldest) = self.kept.pop_front() {
                // Somebody may have moved it away.
                let _ = fs::remove_file(oldest);
            }
        }
        Ok(Counted::new(Box::new(file)))
    }

    /// Whether the next file is due.
    #[must_use]
    pub fn is_due(&self, written: u64, now_ns: u64) -> bool {
        let Rotation { bytes, time, .. } = self.rotation;
        let age = Duration::from_nanos(now_ns.saturating_sub(self.began_ns));
        self.path.is_some()
            && (bytes.is_some_and(|bytes| written >= bytes) || time.is_some_and(|time| age >= time))
    }
}

/// `capture.pcapng` becomes `capture-00001.pcapng`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    path.with_file_name(format!("{stem}-{number:05}{}", extension.unwrap_or_default()))
}

/// A buffered output that knows how much went through it.
pub struct Counted {
    out: BufWriter<Box<dyn Write>>,
    written: u64,
}

impl Counted {
    /// Counts what goes to `out`.
    #[must_use]
    pub fn new(out: Box<dyn Write>) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), written: 0 }
    }

    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_before_their_extension() {
        assert_eq!(numbered(Path::new("/tmp/a.b/cap.pcapng"), 1), Path::new("/tmp/a.b/cap-00001.pcapng"));
        assert_eq!(numbered(Path::new("cap"), 12), Path::new("cap-00012"));
    }

    #[test]
    fn the_next_file_is_due_by_size_or_time_and_never_on_stdout() {
        let rotation = Rotation { bytes: Some(1000), time: Some(Duration::from_secs(1)), keep: None };
        let files = Files::new(Some("x".into()), rotation);
        assert!(!files.is_due(999, 999_999_999));
        assert!(files.is_due(1000, 0) && files.is_due(0, 1_000_000_000));
        assert!(!Files::new(None, rotation).is_due(1 << 40, 1 << 60));
    }

    #[test]
    fn no_more_files_are_kept_than_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cap.pcapng");
        let rotation = Rotation { bytes: Some(1), time: None, keep: Some(2) };
        let mut files = Files::new(Some(path), rotation);
        for turn in 0..5 {
            drop(files.begin(turn).unwrap());
        }
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["cap-00004.pcapng", "cap-00005.pcapng"]);
    }
}
