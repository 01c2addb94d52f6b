//! Buckets by descriptor.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use causeway_xds::proto::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use causeway_xds::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use causeway_xds::proto::envoy::r#type::v3::TokenBucket;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::parts::{At, each, not_empty, required};

use super::super::super::bucket::{Bucket, Size};
use crate::route::rate_limits::Descriptor;

/// How many values of one descriptor have buckets of their own, if nothing else is said.
const MAX_DYNAMIC: usize = 20;

/// What is counted, and outlives whoever counts.
#[derive(Debug)]
pub struct Counting {
    pub limiter: Limiter,
    /// Each connection has buckets of its own.
    pub per_connection: Option<PerConnection>,
}

#[derive(Debug)]
pub struct Limiter {
    default: Option<Arc<Bucket>>,
    /// From the one that is filled up most slowly.
    descriptors: Vec<Limited>,
    /// The default bucket counts, whatever else does.
    pub always_default: bool,
    pub max_dynamic: usize,
}

/// A descriptor with a limit of its own.
#[derive(Debug)]
struct Limited {
    /// Keys and values; without a value any will do, and each has a bucket.
    entries: Vec<(String, Option<String>)>,
    buckets: Buckets,
    size: Size,
    /// Only counted.
    shadow: bool,
}

#[derive(Debug)]
enum Buckets {
    One(Arc<Bucket>),
    /// By the values.
    Each(Mutex<Recent<Vec<String>, Bucket>>),
}

/// What was used last, up to a number of them.
#[derive(Debug)]
struct Recent<K, V>(HashMap<K, (Arc<V>, Instant)>);

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// What is there under a key, or is made now, in the place of what was not used for longest.
    fn get(&mut self, key: K, now: Instant, max: usize, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some((found, used)) = self.0.get_mut(&key) {
            *used = now;
            return Arc::clone(found);
        }
        if self.0.len() >= max {
            let oldest = self.0.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.0.remove(&oldest);
            }
        }
        let made = Arc::new(make());
        self.0.insert(key, (Arc::clone(&made), now));
        made
    }
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// What a request is counted by, and whether `x-ratelimit-*` headers speak of it, where its limit
/// says.
pub type Counts = (Descriptor, Option<bool>);

/// What became of a request.
pub struct Outcome {
    pub allowed: bool,
    /// The bucket that decided.
    pub bucket: Option<Arc<Bucket>>,
    /// As in [`Counts`].
    pub told: Option<bool>,
}

impl Limiter {
    pub fn decode(
        default: Option<TokenBucket>,
        descriptors: Vec<LocalRateLimitDescriptor>,
    ) -> Result<Self, Invalid> {
        let now = Instant::now();
        let default = default.map(Size::decode).transpose().at("token_bucket")?;
        let mut limited = each("descriptors", descriptors, |d| Limited::decode(d, now))?;
        for (at, one) in limited.iter().enumerate() {
            if limited[..at]
                .iter()
                .any(|other| other.entries == one.entries)
            {
                let place = FieldPath::root().field("descriptors").index(at);
                return Err(Invalid::new(place.field("entries"), "are given twice"));
            }
        }
        limited.sort_by_key(|limited| std::cmp::Reverse(limited.size.each));
        Ok(Self {
            default: default.map(|size| Arc::new(Bucket::new(size, now))),
            descriptors: limited,
            always_default: true,
            max_dynamic: MAX_DYNAMIC,
        })
    }

    /// The same limits with full buckets.
    pub fn fresh(&self, now: Instant) -> Self {
        let default = self.default.as_ref();
        Self {
            default: default.map(|bucket| Arc::new(bucket.fresh(now))),
            descriptors: self.descriptors.iter().map(|d| d.fresh(now)).collect(),
            ..*self
        }
    }

    pub fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }

    /// Takes a token from each bucket that a request is counted by, until one has none.
    pub fn ask(&self, request: &[Counts], now: Instant) -> Outcome {
        let mut first = None;
        for limited in &self.descriptors {
            for (descriptor, told) in request {
                let Some(bucket) = limited.bucket(descriptor, now, self.max_dynamic) else {
                    continue;
                };
                let hits = descriptor.hits.unwrap_or(1);
                let told = *told;
                if !bucket.take_many(hits, now) && !limited.shadow {
                    return Outcome {
                        allowed: false,
                        bucket: Some(bucket),
                        told,
                    };
                }
                first.get_or_insert((bucket, told));
            }
        }
        let (bucket, told) = first.unzip();
        let told = told.flatten();
        let default = self.default.as_ref();
        let Some(default) = default.filter(|_| bucket.is_none() || self.always_default) else {
            return Outcome {
                allowed: true,
                bucket,
                told,
            };
        };
        match default.take(now) {
            true => Outcome {
                allowed: true,
                bucket: bucket.or_else(|| Some(Arc::clone(default))),
                told,
            },
            false => Outcome {
                allowed: false,
                bucket: Some(Arc::clone(default)),
                told: None,
            },
        }
    }
}

impl Buckets {
    fn new(entries: &[(String, Option<String>)], size: Size, now: Instant) -> Self {
        match entries.iter().all(|(_, value)| value.is_some()) {
            true => Self::One(Arc::new(Bucket::new(size, now))),
            false => Self::Each(Mutex::default()),
        }
    }
}

/// A limiter for each connection.
#[derive(Debug, Default)]
pub struct PerConnection(Mutex<Recent<u64, Limiter>>);

/// Connections that are limited by themselves at a time; the one that was seen least recently is
/// forgotten, and has full buckets when it is seen again.
const MAX_CONNECTIONS: usize = 10_000;

impl PerConnection {
    pub fn of(&self, connection: u64, like: &Limiter, now: Instant) -> Arc<Limiter> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(connection, now, MAX_CONNECTIONS, || like.fresh(now))
    }
}

impl Limited {
    fn decode(message: LocalRateLimitDescriptor, now: Instant) -> Result<Self, Invalid> {
        let LocalRateLimitDescriptor {
            entries,
            token_bucket,
            shadow_mode,
        } = message;
        if entries.is_empty() {
            return Err(Invalid::at("entries", "must not be empty"));
        }
        let entries = each("entries", entries, |Entry { key, value }| {
            let value = Some(value).filter(|value| !value.is_empty());
            Ok((not_empty(key, "key")?, value))
        })?;
        let size = Size::decode(required(token_bucket, "token_bucket")?).at("token_bucket")?;
        Ok(Self {
            buckets: Buckets::new(&entries, size, now),
            entries,
            size,
            shadow: shadow_mode,
        })
    }

    fn fresh(&self, now: Instant) -> Self {
        Self {
            entries: self.entries.clone(),
            buckets: Buckets::new(&self.entries, self.size, now),
            ..*self
        }
    }

    fn matches(&self, descriptor: &Descriptor) -> bool {
        let same = |((key, value), (k, v)): (&(String, Option<String>), &(String, String))| {
            key == k && value.as_ref().is_none_or(|value| value == v)
        };
        self.entries.len() == descriptor.entries.len()
            && self.entries.iter().zip(&descriptor.entries).all(same)
    }

    fn bucket(&self, descriptor: &Descriptor, now: Instant, max: usize) -> Option<Arc<Bucket>> {
        if !self.matches(descriptor) {
            return None;
        }
        let each = match &self.buckets {
            Buckets::One(bucket) => return Some(Arc::clone(bucket)),
            Buckets::Each(each) => each,
        };
        let values = descriptor.entries.iter().map(|(_, value)| value.clone());
        let values: Vec<_> = values.collect();
        let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
        Some(each.get(values, now, max, || Bucket::new(self.size, now)))
    }
}
