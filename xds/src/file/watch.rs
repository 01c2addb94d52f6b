//! Tells that something happened in a directory, also in one that comes later or is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

/// Lets the events of one change become one.
const SETTLE: Duration = Duration::from_millis(3);

/// How often to look for a directory that is not there.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    directory: PathBuf,
    signal: Arc<Signal>,
    watcher: Option<RecommendedWatcher>,
    warned: bool,
}

/// From the thread of the watcher to the task of the source.
#[derive(Default)]
struct Signal {
    changed: Notify,
    /// The directory itself went away; what comes in its place has to be watched anew.
    lost: AtomicBool,
}

impl Watch {
    pub fn start(directory: PathBuf) -> Self {
        let signal = Arc::new(Signal::default());
        let mut watch = Self {
            directory,
            signal,
            watcher: None,
            warned: false,
        };
        watch.attach();
        watch
    }

    /// Waits for the next change. May also return without one.
    pub async fn changed(&mut self) {
        if self.watcher.is_some() {
            self.signal.changed.notified().await;
            sleep(SETTLE).await;
            if !self.signal.lost.swap(false, Ordering::AcqRel) {
                return;
            }
            self.watcher = None;
        }
        // The appearance of the directory is a change.
        while !self.attach() {
            sleep(RETRY).await;
        }
    }

    fn attach(&mut self) -> bool {
        match watch(&self.directory, Arc::clone(&self.signal)) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.warned = false;
                true
            }
            Err(error) => {
                if !self.warned {
                    warn!(directory = %self.directory.display(), %error, "cannot watch yet");
                    self.warned = true;
                }
                false
            }
        }
    }
}

fn watch(directory: &Path, signal: Arc<Signal>) -> notify::Result<RecommendedWatcher> {
    let watched = directory.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // A watcher in trouble may have missed something.
        if event.as_ref().map_or(true, is_change) {
            signal.changed.notify_one();
        }
        if event.is_ok_and(|event| is_loss(&event, &watched)) {
            signal.lost.store(true, Ordering::Release);
            signal.changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether the file may have new content that is complete. Any name counts: a mounted
/// configuration map changes by swapping a link beside the file. Reading is no change, or the
/// source would wake itself.
fn is_change(event: &Event) -> bool {
    const TELLS_CLOSE: bool = cfg!(any(target_os = "linux", target_os = "android"));
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        // The writer is at work; its closing the file will be told.
        EventKind::Modify(ModifyKind::Data(_)) => !TELLS_CLOSE,
        EventKind::Create(_) => !TELLS_CLOSE || event.paths.iter().any(|p| born_complete(p)),
        _ => true,
    }
}

/// Links and directories come to be without being written.
fn born_complete(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file() || has_other_names(&meta))
}

#[cfg(unix)]
fn has_other_names(meta: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(meta) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &fs::Metadata) -> bool {
    false
}

fn is_loss(event: &Event, directory: &Path) -> bool {
    matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    ) && event.paths.iter().any(|path| path == directory)
}
