//! A log file that is put aside when it has grown, written by a thread of its own.
//!
//! Whoever logs hands a line over and goes on: a disk that stands still must not hold up traffic.
//! When the thread cannot keep up, lines are dropped, and the file says how many.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::config::FileLog;

/// Lines that may wait for the disk.
const WAITING: usize = 8192;

/// How long the end of the process waits for what is still to be written.
const FLUSH: Duration = Duration::from_millis(500);

enum Order {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Hands lines to the thread. Each event of the log is one write.
#[derive(Clone, Debug)]
pub struct LogFile {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

impl LogFile {
    /// # Errors
    /// The file cannot be opened for writing.
    pub fn open(config: &FileLog) -> io::Result<Self> {
        let (orders, waiting) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut rotating = Rotating::open(config)?;
        let missed = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || rotating.run(&waiting, &missed))?;
        Ok(Self { orders, dropped })
    }

    /// Waits a moment for the lines that are still to be written.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            written.recv_timeout(FLUSH).ok();
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.orders.try_send(Order::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The thread's side: the open file and its size.
struct Rotating {
    config: FileLog,
    file: File,
    size: u64,
}

impl Rotating {
    fn open(config: &FileLog) -> io::Result<Self> {
        let file = append(&config.path)?;
        let size = file.metadata()?.len();
        let config = config.clone();
        Ok(Self { config, file, size })
    }

    fn run(&mut self, orders: &Receiver<Order>, dropped: &AtomicU64) {
        let mut failing = false;
        while let Ok(order) = orders.recv() {
            let line = match order {
                Order::Line(line) => line,
                Order::Flush(done) => {
                    done.send(()).ok();
                    continue;
                }
            };
            let missed = dropped.swap(0, Ordering::Relaxed);
            let mut result = self.write(&line);
            if missed > 0 && result.is_ok() {
                result = self.write(format!("{missed} lines of the log were dropped\n").as_bytes());
            }
            // Said once on standard error: this is the log that cannot be written.
            if let (Err(error), false) = (&result, failing) {
                eprintln!("log file {}: {error}", self.config.path.display());
            }
            failing = result.is_err();
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let limit = self.config.rotation_size;
        let full = limit > 0 && self.size > 0 && self.size + length > limit;
        let rotated = if full { self.rotate() } else { Ok(()) };
        // A file that cannot be put aside grows: that loses nothing.
        self.file.write_all(line)?;
        self.size += length;
        rotated
    }

    /// `w.log` becomes `w.log.1`, that one `w.log.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.config.path;
        for number in (1..self.config.backup_count).rev() {
            let from = numbered(path, number);
            if from.exists() {
                std::fs::rename(from, numbered(path, number + 1))?;
            }
        }
        if self.config.backup_count > 0 {
            std::fs::rename(path, numbered(path, 1))?;
        } else {
            std::fs::remove_file(path)?;
        }
        self.file = append(path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut log = LogFile::open(&FileLog {
            path: path.clone(),
            rotation_size: 10,
            backup_count: 2,
            format: LogFormat::Simple,
        })
        .unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n", "longer than that\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        LogFile::flush(&log);
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(text(&path), "longer than that\n");
        assert_eq!(text(&numbered(&path, 1)), "four\n");
        assert_eq!(text(&numbered(&path, 2)), "three\n");
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let config = FileLog {
            path: directory.path().join("none/w.log"),
            rotation_size: 0,
            backup_count: 0,
            format: LogFormat::Json,
        };
        assert!(LogFile::open(&config).is_err());
    }
}
