//! Token buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use causeway_xds::proto::envoy::r#type::v3::TokenBucket as Message;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, required};

/// The shortest time in which a bucket may be filled up, as with Envoy.
const SHORTEST: Duration = Duration::from_millis(50);

/// `envoy.type.v3.TokenBucket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub max: u32,
    /// How long one token takes to come.
    pub each: Duration,
}

impl Size {
    /// # Errors
    /// A bucket that is never filled, or holds nothing.
    pub fn decode(message: Message) -> Result<Self, Invalid> {
        let Message {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        } = message;
        if max_tokens == 0 {
            return Err(Invalid::at("max_tokens", "must be at least 1"));
        }
        let per_fill = tokens_per_fill.map_or(1, |tokens| tokens.value);
        if per_fill == 0 {
            return Err(Invalid::at("tokens_per_fill", "must be at least 1"));
        }
        let interval = parts::duration(fill_interval, "fill_interval")?;
        let interval = required(interval, "fill_interval")?;
        if interval < SHORTEST {
            return Err(Invalid::at("fill_interval", "must be at least 50 ms"));
        }
        Ok(Self {
            max: max_tokens,
            each: (interval / per_fill).max(Duration::from_nanos(1)),
        })
    }
}

/// A bucket that all threads take from. What it holds follows from one time: the one at which it
/// was empty.
#[derive(Debug)]
pub struct Bucket {
    size: Size,
    began: Instant,
    /// When it was empty, in nanoseconds since a full bucket's time before it began.
    empty_at: AtomicU64,
}

impl Bucket {
    pub fn new(size: Size, now: Instant) -> Self {
        Self {
            size,
            began: now,
            empty_at: AtomicU64::new(0),
        }
    }

    /// A full one of this size.
    pub fn fresh(&self, now: Instant) -> Self {
        Self::new(self.size, now)
    }

    fn each(&self) -> u64 {
        u64::try_from(self.size.each.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// How long a full bucket has been filled.
    fn full(&self) -> u64 {
        self.each().saturating_mul(self.size.max.into())
    }

    fn clock(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since)
            .unwrap_or(u64::MAX)
            .saturating_add(self.full())
    }

    /// Takes one token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.take_many(1, now)
    }

    /// Takes that many tokens, or none.
    pub fn take_many(&self, count: u64, now: Instant) -> bool {
        let clock = self.clock(now);
        let (each, full) = (self.each().saturating_mul(count), self.full());
        let taken = self.empty_at.fetch_update(Relaxed, Relaxed, |empty| {
            // It does not hold more than it can.
            let empty = empty.max(clock.saturating_sub(full)).saturating_add(each);
            (empty <= clock).then_some(empty)
        });
        taken.is_ok()
    }

    /// Whole tokens that are left.
    pub fn remaining(&self, now: Instant) -> u64 {
        let since = self.clock(now).saturating_sub(self.empty_at.load(Relaxed));
        since.min(self.full()) / self.each()
    }

    pub fn size(&self) -> Size {
        self.size
    }

    pub fn max(&self) -> u32 {
        self.size.max
    }

    /// How long until there is one token more than now.
    pub fn next(&self, now: Instant) -> Duration {
        let since = self.clock(now).saturating_sub(self.empty_at.load(Relaxed));
        match since {
            since if since >= self.full() => Duration::ZERO,
            since => Duration::from_nanos(self.each() - since % self.each()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(max: u32, each_ms: u64, now: Instant) -> Bucket {
        let each = Duration::from_millis(each_ms);
        Bucket::new(Size { max, each }, now)
    }

    #[test]
    fn a_bucket_starts_full_and_fills_up_again() {
        let start = Instant::now();
        let bucket = bucket(3, 100, start);
        let taken = |now: Instant| (0..9).filter(|_| bucket.take(now)).count();
        assert_eq!(bucket.remaining(start), 3);
        assert_eq!(taken(start), 3);
        assert_eq!(bucket.remaining(start), 0);
        assert_eq!(bucket.next(start), Duration::from_millis(100));
        let later = |ms| start + Duration::from_millis(ms);
        assert_eq!(taken(later(99)), 0);
        assert_eq!(bucket.next(later(99)), Duration::from_millis(1));
        assert_eq!(taken(later(250)), 2);
        assert_eq!(taken(later(10_000)), 3, "no more than it can hold");
        assert_eq!(bucket.remaining(later(10_000)), 0);
        assert!(bucket.take_many(2, later(10_250)) && !bucket.take_many(1, later(10_250)));
    }

    #[test]
    fn tokens_are_not_lost_between_threads() {
        let start = Instant::now();
        let bucket = bucket(1000, 60_000, start);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| bucket.take(start)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn a_bucket_that_is_no_limit_is_refused() {
        let message = |max_tokens, nanos| Message {
            max_tokens,
            tokens_per_fill: None,
            fill_interval: Some(causeway_xds::proto::Duration { seconds: 0, nanos }),
        };
        let told = |message| Size::decode(message).unwrap_err().to_string();
        assert_eq!(
            told(message(0, 50_000_000)),
            "max_tokens: must be at least 1"
        );
        assert_eq!(
            told(message(1, 49_999_999)),
            "fill_interval: must be at least 50 ms"
        );
        assert!(Size::decode(message(1, 50_000_000)).is_ok());
        let none = Message {
            fill_interval: None,
            ..message(1, 0)
        };
        assert_eq!(told(none), "fill_interval: must be given");
    }
}
