//! Data threads: one single-threaded runtime each.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread::JoinHandle;

/// A future that never leaves its thread.
pub type Local = Pin<Box<dyn Future<Output = ()>>>;

/// Starts a thread that runs what `work` makes, and everything that it spawns, until it ends.
///
/// # Errors
/// The system has no thread or no event queue left.
pub fn spawn(
    index: usize,
    work: impl FnOnce() -> Local + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, work());
        })
}
