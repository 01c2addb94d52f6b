//! What the listener filter for the PROXY protocol counts, under Envoy's names.

use std::sync::Arc;

use crate::telemetry::stats::{Counter, Stats};

/// `proxy_proto.[<stat_prefix>.]`
#[derive(Debug, Default)]
pub struct ProxyProtocolStats {
    /// Connections without a header that may go on.
    pub not_found_allowed: Arc<Counter>,
    pub not_found_disallowed: Arc<Counter>,
    pub v1: VersionStats,
    pub v2: VersionStats,
}

/// `proxy_proto.[<stat_prefix>.]versions.<version>.`
#[derive(Debug, Default)]
pub struct VersionStats {
    pub found: Arc<Counter>,
    /// Not to be used, and asked for.
    pub disallowed: Arc<Counter>,
    /// Broken.
    pub error: Arc<Counter>,
}

impl ProxyProtocolStats {
    /// `prefix` may be empty.
    pub fn of(stats: &Stats, prefix: &str) -> Self {
        let scope = match prefix {
            "" => "proxy_proto.".to_owned(),
            prefix => format!("proxy_proto.{prefix}."),
        };
        let own = stats.named(&scope);
        let version = |name: &str| {
            let own = stats.named(&format!("{scope}versions.{name}."));
            VersionStats {
                found: own.counter("found"),
                disallowed: own.counter("disallowed"),
                error: own.counter("error"),
            }
        };
        Self {
            not_found_allowed: own.counter("not_found_allowed"),
            not_found_disallowed: own.counter("not_found_disallowed"),
            v1: version("v1"),
            v2: version("v2"),
        }
    }
}
