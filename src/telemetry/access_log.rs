//! Lines of access logs, written by a thread of their own.
//!
//! A data thread appends to a buffer in memory and goes on; a slow or full disk never holds up
//! traffic: the buffer is bounded, and what does not fit is dropped and counted. The writer is woken
//! when the first line comes and then collects for a moment, so that a line costs no system call.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use causeway_xds::resource::access_log::Sink;

/// Bytes that may wait for the writer, over all threads.
const WAITING: usize = 8 * 1024 * 1024;
/// A buffer that grew beyond this is not kept.
const USUAL: usize = 256 * 1024;
/// How long the writer collects before it writes.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// How often files were to be opened anew.
static REOPENED: AtomicU64 = AtomicU64::new(0);

/// Has every file opened anew before its next line: it may have been moved away, and what is written
/// from now on belongs into a new one under its name.
pub fn reopen() {
    REOPENED.fetch_add(1, Relaxed);
}

/// One log. Lines of all threads go into one buffer, so they never interleave.
#[derive(Debug)]
pub struct LogFile(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// Nobody writes any more.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogFile {
    /// Hands over one line, its end included.
    pub fn write(&self, line: &[u8]) {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > WAITING {
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        drop(waiting);
        if first {
            self.0.filled.notify_one();
        }
    }

    /// Lines lost because the disk was slower than the traffic, or refused them.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

/// Logs by place: two loggers that name the same place share one writer.
#[derive(Debug, Default)]
pub struct LogFiles(Mutex<HashMap<Sink, Weak<LogFile>>>);

impl LogFiles {
    /// `None` for `/dev/null`.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(&self, sink: &Sink) -> io::Result<Option<Arc<LogFile>>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(sink).and_then(Weak::upgrade) {
            return Ok(Some(file));
        }
        let to: Box<dyn Write + Send> = match sink {
            Sink::File(path) if path == "/dev/null" => return Ok(None),
            // Not by its path: that cannot be opened where it is a socket.
            Sink::File(path) if path == "/dev/stdout" => Box::new(io::stdout()),
            Sink::File(path) if path == "/dev/stderr" => Box::new(io::stderr()),
            Sink::File(path) => Box::new(Appended::open(path.into())?),
            Sink::Stdout => Box::new(io::stdout()),
            Sink::Stderr => Box::new(io::stderr()),
        };
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(to, &writer))?;
        let file = Arc::new(LogFile(shared));
        files.retain(|_, file| file.strong_count() > 0);
        files.insert(sink.clone(), Arc::downgrade(&file));
        Ok(Some(file))
    }
}

/// A file that lines are appended to, and that somebody may move away.
struct Appended {
    file: File,
    path: PathBuf,
    /// [`REOPENED`] when it was opened.
    opened: u64,
    /// No line is written in part.
    between: bool,
}

impl Appended {
    fn open(path: PathBuf) -> io::Result<Self> {
        let opened = REOPENED.load(Relaxed);
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        Ok(Self {
            file,
            path,
            opened,
            between: true,
        })
    }

    fn follow(&mut self) {
        let wanted = REOPENED.load(Relaxed);
        if self.opened == wanted {
            return;
        }
        match Self::open(self.path.clone()) {
            Ok(new) => *self = new,
            Err(error) => {
                // Not lost: whoever has moved it finds them where it is now.
                self.opened = wanted;
                tracing::warn!(path = %self.path.display(), %error,
                    "an access log cannot be opened anew; lines go to the file as it was");
            }
        }
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.between {
            self.follow();
            self.between = false;
        }
        self.file.write(bytes)
    }

    /// Follows each batch of whole lines.
    fn flush(&mut self) -> io::Result<()> {
        self.between = true;
        Ok(())
    }
}

fn write_lines(mut to: impl Write, shared: &Shared) {
    let mut bytes = Vec::new();
    loop {
        let mut waiting = shared.lock();
        while waiting.bytes.is_empty() && !waiting.closed {
            let woken = shared.filled.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.bytes.is_empty() {
            return;
        }
        if !waiting.closed {
            let collected = shared
                .filled
                .wait_timeout_while(waiting, FLUSH_AFTER, |waiting| !waiting.closed);
            waiting = collected.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut waiting.bytes, &mut bytes);
        let lines = std::mem::take(&mut waiting.lines);
        drop(waiting);
        if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
            // A full device loses lines, never traffic.
            shared.dropped.fetch_add(lines, Relaxed);
        }
        bytes.clear();
        bytes.shrink_to(USUAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_reach_the_file_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let files = LogFiles::default();
        let sink = Sink::File(path.to_str().unwrap().to_owned());
        let file = files.open(&sink).unwrap().unwrap();
        assert!(Arc::ptr_eq(&file, &files.open(&sink).unwrap().unwrap()));
        for i in 0..100 {
            file.write(format!("{i}\n").as_bytes());
        }
        let want: String = (0..100).map(|i| format!("{i}\n")).collect();
        for _ in 0..500 {
            if std::fs::read_to_string(&path).unwrap() == want {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the log file never held what was written");
    }

    /// The danger: lines that go on into a file that has been put aside, or removed, for ever.
    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let moved = dir.path().join("log.1");
        let files = LogFiles::default();
        let sink = Sink::File(path.to_str().unwrap().to_owned());
        let file = files.open(&sink).unwrap().unwrap();
        let holds = |path: &std::path::Path, want: &str| {
            for _ in 0..500 {
                if std::fs::read_to_string(path).is_ok_and(|text| text == want) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("{} never held {want:?}", path.display());
        };
        file.write(b"1\n");
        holds(&path, "1\n");
        std::fs::rename(&path, &moved).unwrap();
        file.write(b"2\n");
        holds(&moved, "1\n2\n");
        reopen();
        file.write(b"3\n");
        holds(&path, "3\n");
        holds(&moved, "1\n2\n");
        // Where there can be none, the one before goes on.
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        reopen();
        file.write(b"4\n");
        holds(&moved, "3\n4\n");
        std::fs::remove_dir(&path).unwrap();
        reopen();
        file.write(b"5\n");
        holds(&path, "5\n");
        assert_eq!(file.dropped(), 0);
    }

    #[test]
    fn what_does_not_fit_or_cannot_be_written_is_counted() {
        let file = LogFile(Arc::default());
        file.write(&vec![b'x'; WAITING]);
        file.write(b"y");
        assert_eq!(file.dropped(), 1);
        let shared = Arc::clone(&file.0);
        drop(file);
        write_lines(Full, &shared);
        assert_eq!(shared.dropped.load(Relaxed), 2);
        assert!(
            LogFiles::default()
                .open(&Sink::File("/dev/null".into()))
                .unwrap()
                .is_none()
        );
        let missing = Sink::File("/does/not/exist".into());
        assert!(LogFiles::default().open(&missing).is_err());
    }
}
