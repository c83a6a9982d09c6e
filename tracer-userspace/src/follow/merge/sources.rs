//! Where streams come from. Each is read by a thread of its own, which ends with the stream or with the process; a full
//! channel holds it up, and so its writer.

use std::fs::File;
use std::future::poll_fn;
use std::io::Read;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::task::Poll;

use tokio::sync::mpsc;

use crate::app::Failure;
use crate::stream::Told;
use crate::stream::read::{StreamError, StreamReader};

/// Messages of one stream that may wait.
const WAITING: usize = 64;

/// What came from a stream.
#[derive(Debug)]
pub(in crate::follow) enum Heard {
    Told(Told),
    Failed(StreamError),
    /// Nothing more comes, and nobody has said so.
    Gone,
}

/// All streams of a run.
pub(super) struct Sources {
    all: Vec<Source>,
    /// Who is asked first next time.
    first: usize,
}

struct Source {
    path: PathBuf,
    recorded: bool,
    receiver: mpsc::Receiver<Heard>,
    /// Heartbeats read: recordings are read in step.
    beats: u64,
    ended: bool,
}

impl Sources {
    /// Starts to read; what can be opened is found out by the threads, as a FIFO may take a while.
    ///
    /// # Errors
    /// There is no such path, or no thread can be started.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        let all = paths.iter().map(|path| Source::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { all, first: 0 })
    }

    /// None yet, see [`Sources::add`].
    pub(super) fn none() -> Self {
        Self { all: Vec::new(), first: 0 }
    }

    /// Adds a live one, whose messages somebody else reads.
    pub(super) fn add(&mut self, name: &str, receiver: mpsc::Receiver<Heard>) {
        let path = PathBuf::from(name);
        self.all.push(Source { path, recorded: false, receiver, beats: 0, ended: false });
    }

    /// Each stream's path and whether it is a recording.
    pub(super) fn described(&self) -> impl Iterator<Item = (String, bool)> {
        self.all.iter().map(|source| (source.path.display().to_string(), source.recorded))
    }

    /// The next message of any stream; waits for ever behind the end of all. May be dropped and asked again.
    pub(super) async fn next(&mut self) -> (usize, Heard) {
        poll_fn(|context| {
            let recordings = self.all.iter().filter(|source| source.recorded && !source.ended);
            let in_step = recordings.map(|source| source.beats).min().unwrap_or(0);
            for turn in 0..self.all.len() {
                let index = (self.first + turn) % self.all.len();
                let source = &mut self.all[index];
                if source.ended || (source.recorded && source.beats > in_step) {
                    continue;
                }
                let Poll::Ready(heard) = source.receiver.poll_recv(context) else { continue };
                let heard = heard.unwrap_or(Heard::Gone);
                source.beats += u64::from(matches!(heard, Heard::Told(Told::Heartbeat(_))));
                source.ended =
                    !matches!(heard, Heard::Told(_)) || matches!(heard, Heard::Told(Told::End { .. }));
                self.first = (index + 1) % self.all.len();
                return Poll::Ready((index, heard));
            }
            Poll::Pending
        })
        .await
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::Failed(format!("cannot read the stream {}: {error}", path.display()));
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let (sender, receiver) = mpsc::channel(WAITING);
        let opened = path.to_path_buf();
        std::thread::Builder::new()
            .name("stream".to_owned())
            .spawn(move || {
                if kind.is_socket() {
                    read(UnixStream::connect(opened), &sender);
                } else {
                    read(File::open(opened), &sender);
                }
            })
            .map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), recorded: kind.is_file(), receiver, beats: 0, ended: false })
    }
}

/// Reads until the end, an error, or until nobody wants to hear any more.
fn read(input: std::io::Result<impl Read>, sender: &mpsc::Sender<Heard>) {
    let begun = input.map_err(StreamError::Io).and_then(StreamReader::begin);
    let mut reader = match begun {
        Ok(reader) => reader,
        Err(error) => return drop(sender.blocking_send(Heard::Failed(error))),
    };
    loop {
        let (heard, is_last) = match reader.read_told() {
            Ok(Some(told)) => (Heard::Told(told), false),
            Ok(None) => return,
            Err(error) => (Heard::Failed(error), true),
        };
        if sender.blocking_send(heard).is_err() || is_last {
            return;
        }
    }
}
