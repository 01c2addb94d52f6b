//! `envoy.filters.network.local_ratelimit`: so many new connections and no more.
//!
//! Configuration: `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::local_ratelimit::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, not_empty, required};

use super::super::bucket::{Bucket, Size};
use super::super::registry::{Context, decode};
use super::{Build, Closing, Connection, NetworkFilter, Verdict};
use crate::runtime::layers::Key;
use crate::telemetry::stats::Counter;

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    build,
);

#[derive(Debug)]
struct LocalRateLimit {
    bucket: Arc<Bucket>,
    limited: Arc<Counter>,
    enabled: Option<(bool, Key)>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::LocalRateLimit {
        stat_prefix,
        token_bucket,
        runtime_enabled,
        share_key,
    } = decode(config)?;
    if !share_key.is_empty() {
        return Err(Invalid::at("share_key", "not supported yet"));
    }
    let prefix = not_empty(stat_prefix, "stat_prefix")?;
    let bucket = required(token_bucket, "token_bucket")?;
    let bucket = Size::decode(bucket).at("token_bucket")?;
    let enabled = runtime_enabled.map(parts::feature_flag).transpose();
    let enabled = enabled.at("runtime_enabled")?;
    let scope = format!("local_rate_limit.{prefix}.");
    Ok(Arc::new(LocalRateLimit {
        bucket: Arc::new(Bucket::new(bucket, Instant::now())),
        limited: context.counter_in(&scope, "rate_limited"),
        enabled: enabled.map(|(default, key)| (default, context.layers.key(&key))),
    }))
}

impl NetworkFilter for LocalRateLimit {
    /// A bucket of another size is another bucket.
    fn inherit(&mut self, before: &dyn NetworkFilter) {
        if let Some(before) = (before as &dyn Any).downcast_ref::<Self>()
            && before.bucket.size() == self.bucket.size()
        {
            self.bucket = Arc::clone(&before.bucket);
        }
    }

    fn accept(&self, _: &Connection<'_>) -> Verdict {
        let told = |(default, key): &(bool, Key)| key.switch().unwrap_or(*default);
        if !self.enabled.as_ref().is_none_or(told) || self.bucket.take(Instant::now()) {
            return Verdict::Pass;
        }
        self.limited.inc();
        Verdict::Close(Closing {
            after: Duration::ZERO,
            why: "local_rate_limit".into(),
        })
    }
}
