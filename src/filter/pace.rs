//! Bodies that are slowed down.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use super::body::{BodyError, Frames, Transform};

/// How long one piece takes: short enough to look steady, long enough to be few.
const SLICE: Duration = Duration::from_millis(50);

/// A rate in bytes per second, for one body or for all that share it.
pub trait Rate {
    /// When `bytes` more may go on. Once asked, they count as gone.
    fn take(&self, bytes: usize) -> Instant;
    fn bytes_per_second(&self) -> u64;
}

/// The rate of one body.
#[derive(Debug)]
pub struct Alone {
    bytes_per_second: u64,
    next: std::cell::Cell<Option<Instant>>,
}

impl Alone {
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            next: std::cell::Cell::new(None),
        }
    }
}

impl Rate for Alone {
    fn take(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let at = self.next.get().map_or(now, |next| next.max(now));
        self.next
            .set(Some(at + time_of(bytes, self.bytes_per_second)));
        at
    }

    fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }
}

pub fn time_of(bytes: usize, bytes_per_second: u64) -> Duration {
    let nanos = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Lets a body pass at a rate.
pub struct Paced<R> {
    rate: R,
    /// Held for as long as the body lasts.
    _held: Box<dyn std::any::Any>,
    /// Of the piece in front: when it may go.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<R: Rate> Paced<R> {
    pub fn new(rate: R, held: impl std::any::Any) -> Self {
        Self {
            rate,
            _held: Box::new(held),
            waiting: None,
        }
    }
}

impl<R: Rate> Transform for Paced<R> {
    fn data(&mut self, mut data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        let slice = u128::from(self.rate.bytes_per_second()) * SLICE.as_millis() / 1000;
        let slice = usize::try_from(slice).unwrap_or(usize::MAX).max(1);
        while data.len() > slice {
            out.push_back(Frame::data(data.split_to(slice)));
        }
        out.push_back(Frame::data(data));
        Ok(())
    }

    fn poll_ready(&mut self, next: &Frame<Bytes>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(data) = next.data_ref() else {
            return Poll::Ready(());
        };
        let rate = &self.rate;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(rate.take(data.len()))));
        ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_its_rate_says() {
        let mut paced = Paced::new(Alone::new(1000), ());
        let mut out = Frames::new();
        let began = Instant::now();
        paced.data(Bytes::from(vec![0; 500]), &mut out).unwrap();
        assert_eq!(out.len(), 10, "pieces of 50 milliseconds");
        while let Some(next) = out.pop_front() {
            std::future::poll_fn(|cx| paced.poll_ready(&next, cx)).await;
        }
        // The first piece goes at once.
        assert_eq!(began.elapsed().as_millis(), 450);
    }
}
