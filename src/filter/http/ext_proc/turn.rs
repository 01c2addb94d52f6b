//! The answer to one message, and how long it may take.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_xds::proto::envoy::service::ext_proc::v3::ProcessingResponse;
use http::StatusCode;
use tokio::time::{Instant, Sleep};

use super::processing::{ERROR, Processing, Trouble};
use super::session::Side;

/// Waits for the answer to one message, within its timeout.
pub struct Turn {
    processing: Rc<Processing>,
    side: Side,
    deadline: Pin<Box<Sleep>>,
    /// The processor has asked for more time.
    extended: bool,
}

impl Turn {
    pub fn new(processing: &Rc<Processing>, side: Side) -> Self {
        Self {
            processing: Rc::clone(processing),
            side,
            deadline: Box::pin(tokio::time::sleep(processing.fixed.message_timeout)),
            extended: false,
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ProcessingResponse, Trouble>> {
        let processing = &self.processing;
        loop {
            match processing.session.poll(self.side, cx) {
                Poll::Ready(Ok(mut message)) => {
                    if let Some(wanted) = message.override_message_timeout {
                        self.extended |=
                            extend(processing, &wanted, self.extended, &mut self.deadline);
                        continue;
                    }
                    processing.note(&mut message);
                    return Poll::Ready(Ok(message));
                }
                Poll::Ready(Err(end)) => return Poll::Ready(Err(processing.ended(end))),
                Poll::Pending => {}
            }
            return self.deadline.as_mut().poll(cx).map(|()| {
                processing.stats.timeouts.inc();
                let details = format!("{ERROR}_per-message_timeout_exceeded");
                Err(Trouble::Failed(StatusCode::GATEWAY_TIMEOUT, details))
            });
        }
    }

    /// Something more was sent, which takes its own time.
    pub fn restart(&mut self) {
        let timeout = self.processing.fixed.message_timeout;
        self.deadline.as_mut().reset(Instant::now() + timeout);
        self.extended = false;
    }

    pub async fn answer(mut self) -> Result<ProcessingResponse, Trouble> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

/// Whether the processor gets more time.
fn extend(
    processing: &Processing,
    wanted: &causeway_xds::proto::Duration,
    already: bool,
    deadline: &mut Pin<Box<Sleep>>,
) -> bool {
    processing.stats.override_received.inc();
    let (seconds, nanos) = (u64::try_from(wanted.seconds), u32::try_from(wanted.nanos));
    let wanted = match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    };
    let least = Duration::from_millis(1);
    if already || wanted < least || wanted > processing.fixed.max_message_timeout {
        processing.stats.override_ignored.inc();
        return false;
    }
    deadline.as_mut().reset(Instant::now() + wanted);
    true
}
