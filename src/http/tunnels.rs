//! What writes to the client for a tunnel through a stream of HTTP/2.
//!
//! hyper writes in a task of its own, which ends the stream in good order when the tunnel is gone,
//! whatever the reason, and waits for the client to take what is left. Both must not be where a
//! tunnel has broken off: so the task is known here, and is cut. Then the codec resets the stream
//! (RFC 9113 section 8.5) and lets go of what waited.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use hyper::rt::Executor;
use tokio::task::AbortHandle;

/// Runs the tasks of one connection.
#[derive(Clone, Default)]
pub struct Tasks {
    /// Whose writer the next task is.
    next: Rc<Cell<Option<Writer>>>,
}

/// The task that writes for a tunnel. Cuts it when dropped.
#[derive(Clone, Default)]
struct Writer(Rc<Cell<Option<AbortHandle>>>);

/// Held by a tunnel: when it is dropped the stream is reset, unless it has ended in good order.
pub struct Hold(Writer);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(task) = self.0.0.take() {
            task.abort();
        }
    }
}

impl Tasks {
    /// To be called when the answer that opens the tunnel is about to be handed over: the codec
    /// starts the writer in the same breath.
    pub fn hold_writer(&self) -> Hold {
        let writer = Writer::default();
        self.next.set(Some(writer.clone()));
        Hold(writer)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        if let Some(writer) = self.next.take() {
            let task = tokio::task::spawn_local(async move {
                future.await;
            });
            return writer.0.set(Some(task.abort_handle()));
        }
        let next = Rc::clone(&self.next);
        tokio::task::spawn_local(async move {
            let mut stream = pin!(future);
            std::future::poll_fn(|cx| {
                let polled = stream.as_mut().poll(cx);
                // A writer that was not started, because its answer could not be sent, is nobody
                // else's.
                next.take();
                polled
            })
            .await;
        });
    }
}
