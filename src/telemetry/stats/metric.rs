//! What a statistic is made of: counters, gauges, histograms and codes of answers.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, OnceLock};

/// Only ever grows (until an operator resets it).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets, Envoy's defaults (milliseconds for times).
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// Milliseconds, in fixed buckets. There are many of these, and until something is observed they
/// take no room.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Buckets>>);

/// In this order, so that most values touch one line of memory: the low buckets are the usual ones.
#[derive(Debug, Default)]
#[repr(C)]
struct Buckets {
    sum: AtomicU64,
    counts: [AtomicU64; 20],
}

impl Histogram {
    pub fn observe(&self, value: u64) {
        let buckets = self.0.get_or_init(Box::default);
        let bucket = match value {
            // Most answers take a moment: those need no search.
            0 => 0,
            1 => 1,
            _ => BUCKETS.partition_point(|bound| *bound < value as f64),
        };
        buckets.counts[bucket].fetch_add(1, Relaxed);
        buckets.sum.fetch_add(value, Relaxed);
    }
    /// Cumulative counts per bound of [`BUCKETS`], then the total count and the sum.
    pub fn cumulative(&self) -> ([u64; 19], u64, u64) {
        let mut counts = [0; 19];
        let mut total = 0;
        let Some(buckets) = self.0.get() else {
            return (counts, 0, 0);
        };
        for (i, bucket) in buckets.counts.iter().enumerate() {
            total += bucket.load(Relaxed);
            if let Some(slot) = counts.get_mut(i) {
                *slot = total;
            }
        }
        (counts, total, buckets.sum.load(Relaxed))
    }
    pub fn reset(&self) {
        if let Some(buckets) = self.0.get() {
            buckets.counts.iter().for_each(|b| b.store(0, Relaxed));
            buckets.sum.store(0, Relaxed);
        }
    }
}

/// Responses by class and, for the codes seen, by exact code.
///
/// Exact codes are kept in a small table that is filled in the order of first sight: a cluster
/// that answers with more than [`Codes::SLOTS`] different codes keeps counting the classes only.
/// Before the first answer there is no table.
#[derive(Debug, Default)]
pub struct Codes(OnceLock<Box<Answers>>);

/// In this order, so that a code that was seen first has its class on the same line of memory.
#[derive(Debug, Default)]
#[repr(C)]
struct Answers {
    classes: [Counter; 5],
    exact: [(AtomicU64, Counter); Codes::SLOTS],
}

impl Codes {
    pub const SLOTS: usize = 12;

    pub fn record(&self, status: u16) {
        let Answers { classes, exact } = &**self.0.get_or_init(Box::default);
        if let Some(class) = classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
        for (code, count) in exact {
            let seen = code.load(Relaxed);
            let ours = seen == u64::from(status)
                || (seen == 0
                    && match code.compare_exchange(0, u64::from(status), Relaxed, Relaxed) {
                        Ok(_) => true,
                        Err(now) => now == u64::from(status),
                    });
            if ours {
                return count.inc();
            }
        }
    }

    pub(super) fn visit(&self, prefix: &str, exact: bool, f: &mut Visitor<'_>) {
        static NONE: LazyLock<Box<Answers>> = LazyLock::new(Box::default);
        let seen = self.0.get();
        for (i, class) in seen.unwrap_or(&NONE).classes.iter().enumerate() {
            // Where exact codes are shown, Envoy shows of the classes only those it has seen.
            if exact && class.value() == 0 {
                continue;
            }
            f(&format!("{prefix}{}xx", i + 1), Value::Counter(class));
        }
        let seen = seen.filter(|_| exact).into_iter();
        let seen = seen.flat_map(|answers| answers.exact.iter());
        for (code, count) in seen.filter(|(code, _)| code.load(Relaxed) != 0) {
            f(
                &format!("{prefix}{}", code.load(Relaxed)),
                Value::Counter(count),
            );
        }
    }
}

/// One value, as the outputs see it.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Counter(&'a Counter),
    Gauge(&'a Gauge),
    Histogram(&'a Histogram),
}

/// Receives the name below the scope, and the value.
pub type Visitor<'a> = dyn FnMut(&str, Value<'_>) + 'a;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn codes_count_class_and_exact_code() {
        let codes = Codes::default();
        for status in [200, 200, 404, 101] {
            codes.record(status);
        }
        let mut seen = BTreeMap::new();
        codes.visit("rq_", true, &mut |name, value| {
            if let Value::Counter(c) = value {
                seen.insert(name.to_owned(), c.value());
            }
        });
        assert_eq!(seen["rq_2xx"], 2);
        assert_eq!(seen["rq_200"], 2);
        assert_eq!(seen["rq_4xx"], 1);
        assert_eq!(seen["rq_1xx"], 1);
        assert!(!seen.contains_key("rq_500"));
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::default();
        histogram.observe(0);
        histogram.observe(7);
        histogram.observe(99_999_999);
        let (counts, total, sum) = histogram.cumulative();
        assert_eq!((counts[0], counts[3], counts[18], total), (1, 2, 2, 3));
        assert_eq!(sum, 100_000_006);
    }
}
