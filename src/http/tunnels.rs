//! Tunnels through streams of HTTP/2, on the client's side: which task writes for which of them.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use hyper::rt::Executor;

use crate::net::http2::{Hold, Writer};

/// Runs the tasks of one connection.
#[derive(Clone, Default)]
pub struct Tasks {
    /// Whose writer the next task is.
    next: Rc<Cell<Option<Writer>>>,
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
            return writer.start(future);
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
