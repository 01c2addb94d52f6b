//! Data threads: one single-threaded runtime each; and how urgent the other threads are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, LocalOptions};

/// How much less urgent than data threads the others are, in steps of niceness. On a core that all
/// share, five leave them about a quarter of it beside one busy data thread: enough to go on, too
/// little to hold requests up.
const BACKGROUND: i32 = 5;
/// The least urgent that there is (setpriority(2)).
const LEAST: i32 = 19;

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

/// What every thread without user traffic does first: it becomes less urgent than the thread that
/// called this, whoever starts it. Where the system does not allow that, it stays as it is.
///
/// Threads inherit their niceness, and without a privilege none becomes more urgent again. So data
/// threads are to be started from one that has not run what this returns.
pub fn background() -> impl Fn() + Send + Sync + 'static {
    // Absolute, because a thread may be started by one that has stepped back already.
    let nice = getpriority_process(None).map(|own| (own + BACKGROUND).min(LEAST));
    move || {
        // Elsewhere the call is about the whole process, as POSIX has it.
        if !cfg!(target_os = "linux") {
            return;
        }
        if let Err(error) = nice.and_then(|nice| setpriority_process(None, nice)) {
            tracing::debug!(%error, "a thread keeps its priority");
        }
    }
}
