//! `envoy.filters.network.connection_limit`: so many connections at a time and no more.
//!
//! Configuration: `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`. One that is
//! too many is closed after `delay`, before anything is said to it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::connection_limit::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, not_empty, required};

use super::super::registry::{Context, decode};
use super::{Build, Closing, Connection, NetworkFilter, Verdict};
use crate::runtime::layers::Key;
use crate::telemetry::stats::{Counter, Gauge};

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    build,
);

#[derive(Debug)]
struct ConnectionLimit {
    max: u64,
    delay: Duration,
    open: Arc<Open>,
    limited: Arc<Counter>,
    /// The default, and the key that overrides it.
    enabled: Option<(bool, Key)>,
}

#[derive(Debug)]
struct Open {
    /// `stat_prefix`: whoever counts under another name counts something else.
    name: String,
    count: AtomicU64,
    gauge: Arc<Gauge>,
}

/// One of those that are open.
struct Held(Arc<Open>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
        self.0.gauge.dec();
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::ConnectionLimit {
        stat_prefix,
        max_connections,
        delay,
        runtime_enabled,
    } = decode(config)?;
    let prefix = not_empty(stat_prefix, "stat_prefix")?;
    let scope = format!("connection_limit.{prefix}.");
    let max = required(max_connections, "max_connections")?.value;
    if max == 0 {
        return Err(Invalid::at("max_connections", "must be at least 1"));
    }
    let enabled = runtime_enabled.map(parts::feature_flag).transpose();
    let enabled = enabled.at("runtime_enabled")?;
    Ok(Arc::new(ConnectionLimit {
        max,
        delay: parts::duration(delay, "delay")?.unwrap_or_default(),
        open: Arc::new(Open {
            name: prefix,
            count: AtomicU64::new(0),
            gauge: context.gauge_in(&scope, "active_connections"),
        }),
        limited: context.counter_in(&scope, "limited_connections"),
        enabled: enabled.map(|(default, key)| (default, context.layers.key(&key))),
    }))
}

impl NetworkFilter for ConnectionLimit {
    /// A connection that was open before is one of those that count.
    fn inherit(&mut self, before: &dyn NetworkFilter) {
        if let Some(before) = (before as &dyn Any).downcast_ref::<Self>()
            && before.open.name == self.open.name
        {
            self.open = Arc::clone(&before.open);
        }
    }

    fn accept(&self, _: &Connection<'_>) -> Verdict {
        let told = |(default, key): &(bool, Key)| key.switch().unwrap_or(*default);
        if !self.enabled.as_ref().is_none_or(told) {
            return Verdict::Pass;
        }
        let taken = self.open.count.fetch_update(Relaxed, Relaxed, |open| {
            (open < self.max).then_some(open + 1)
        });
        if taken.is_err() {
            self.limited.inc();
            return Verdict::Close(Closing {
                after: self.delay,
                why: "connection_limit".into(),
            });
        }
        self.open.gauge.inc();
        Verdict::Hold(Box::new(Held(Arc::clone(&self.open))))
    }
}
