//! Access log lines, written to files by a thread of their own.
//!
//! A data thread formats into a buffer and hands it over; a slow or full disk never holds up
//! traffic: the queue is bounded, and what does not fit is dropped and counted.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Lines that may wait for the writer, over all of one file.
const QUEUE: usize = 8192;
/// How long the writer collects before it writes.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// One log file. Lines of all threads go through one queue, so they never interleave.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl LogFile {
    /// Hands over one line, its end included.
    pub fn write(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(line)
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines lost because the disk was slower than the traffic, or refused them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Log files by path: two loggers that name the same path share one writer.
#[derive(Debug, Default)]
pub struct LogFiles(Mutex<HashMap<PathBuf, Weak<LogFile>>>);

impl LogFiles {
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(&self, path: &Path) -> std::io::Result<Arc<LogFile>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let sink = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?;
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(sink, &lines, &lost))?;
        let file = Arc::new(LogFile {
            path: path.to_owned(),
            queue,
            dropped,
        });
        files.retain(|_, file| file.strong_count() > 0);
        files.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }
}

fn write_lines(mut sink: std::fs::File, lines: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    let mut buffer = Vec::with_capacity(64 * 1024);
    while let Ok(line) = lines.recv() {
        let mut count = 1;
        buffer.extend_from_slice(&line);
        while buffer.len() < 64 * 1024 {
            let Ok(line) = lines.recv_timeout(FLUSH_AFTER) else {
                break;
            };
            buffer.extend_from_slice(&line);
            count += 1;
        }
        if sink.write_all(&buffer).is_err() {
            // A full device loses lines, never traffic.
            lost.fetch_add(count, Relaxed);
        }
        buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let files = LogFiles::default();
        let file = files.open(&path).unwrap();
        assert!(Arc::ptr_eq(&file, &files.open(&path).unwrap()));
        for i in 0..100 {
            file.write(format!("{i}\n").into_bytes());
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
}
