//! Bodies that are slowed down.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
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
    /// Takes so many bytes.
    ///
    /// # Errors
    /// It is not time yet; when to ask again.
    fn take(&self, bytes: usize) -> Result<(), Instant>;
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
    fn take(&self, bytes: usize) -> Result<(), Instant> {
        let mut next = self.next.get();
        let taken = take(&mut next, bytes, self.bytes_per_second);
        self.next.set(next);
        taken
    }

    fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }
}

/// Takes bytes of a rate whose next byte may go at `next`. Nothing is reserved: whoever leaves while it
/// waits has taken nothing from the others.
///
/// # Errors
/// It is not time yet; when to ask again.
pub fn take(next: &mut Option<Instant>, bytes: usize, rate: u64) -> Result<(), Instant> {
    let now = Instant::now();
    match *next {
        Some(at) if at > now => Err(at),
        before => {
            // A moment's delay of the timer is not lost.
            let from = before.map_or(now, |at| at.max(now - SLICE));
            *next = Some(from + time_of(bytes, rate));
            Ok(())
        }
    }
}

fn time_of(bytes: usize, bytes_per_second: u64) -> Duration {
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
    /// Since when it waits.
    since: Option<Instant>,
    delay: Delay,
}

/// How long a body was held back so far.
pub type Delay = Rc<Cell<Duration>>;

impl<R: Rate> Paced<R> {
    pub fn new(rate: R, held: impl std::any::Any) -> Self {
        Self {
            rate,
            _held: Box::new(held),
            waiting: None,
            since: None,
            delay: Delay::default(),
        }
    }

    pub fn delay(&self) -> Delay {
        Rc::clone(&self.delay)
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
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.rate.take(data.len()) {
                Ok(()) => {
                    if let Some(since) = self.since.take() {
                        self.delay.set(self.delay.get() + since.elapsed());
                    }
                    return Poll::Ready(());
                }
                Err(at) => {
                    self.since.get_or_insert_with(Instant::now);
                    self.waiting = Some(Box::pin(tokio::time::sleep_until(at)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_its_rate_says() {
        let mut paced = Paced::new(Alone::new(1000), ());
        let mut out = Frames::new();
        let (began, delay) = (Instant::now(), paced.delay());
        paced.data(Bytes::from(vec![0; 500]), &mut out).unwrap();
        assert_eq!(out.len(), 10, "pieces of 50 milliseconds");
        while let Some(next) = out.pop_front() {
            std::future::poll_fn(|cx| paced.poll_ready(&next, cx)).await;
        }
        // The first piece goes at once.
        assert_eq!(began.elapsed().as_millis(), 450);
        assert_eq!(delay.get().as_millis(), 450);
    }
}
