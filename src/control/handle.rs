//! How the rest of the program reaches the control task.

use causeway_xds::source::{Batch, Batches, OnRejection, Outcome, Update};
use tokio::sync::{mpsc, oneshot};

use super::pipeline::Pipeline;
use super::status::Readiness;

pub(super) type Query = Box<dyn FnOnce(&Pipeline) + Send>;

/// How the rest of the program reaches the control task.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    /// Where sources put their batches.
    pub batches: Batches,
    pub readiness: Readiness,
    pub(super) queries: mpsc::Sender<Query>,
}

/// The control task has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the control task has ended")]
pub struct Stopped;

impl ControlHandle {
    /// Applies updates as one batch and waits until they are live or refused.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn apply(
        &self,
        updates: Vec<Update>,
        on_rejection: OnRejection,
    ) -> Result<Outcome, Stopped> {
        let (answer, outcome) = oneshot::channel();
        let batch = Batch {
            updates,
            touched: Vec::new(),
            on_rejection,
            answer: Some(answer),
        };
        self.batches.send(batch).await.map_err(|_| Stopped)?;
        outcome.await.map_err(|_| Stopped)
    }

    /// Runs `look` on the control task. It holds up every change meanwhile: it copies what it
    /// needs and leaves the work for later.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Pipeline) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |pipeline| {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(look(pipeline));
        });
        self.queries.send(query).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }
}
