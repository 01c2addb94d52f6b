//! `envoy.filters.http.bandwidth_limit`: so many bytes per second, for all requests together.
//!
//! Configuration: `envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit`; that of a route
//! takes the place of the other, with a rate of its own. Requests and answers have a rate each.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::bandwidth_limit::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, enumeration, not_empty};
use http::header::CONTENT_LENGTH;
use tokio::time::Instant;

use super::super::pace::{self, Paced, Rate};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::route::RouteConfig;
use crate::runtime::layers::Key;
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
    name: "envoy.filters.http.bandwidth_limit",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
        build_per_route,
    )],
};

#[derive(Debug)]
struct BandwidthLimit {
    request: Option<Shared>,
    response: Option<Shared>,
    enabled: Option<(bool, Key)>,
    request_enabled: Arc<Counter>,
    response_enabled: Arc<Counter>,
}

/// The rate of all bodies together.
#[derive(Clone, Debug)]
struct Shared {
    bytes_per_second: u64,
    /// When the next byte may go.
    next: Arc<Mutex<Option<Instant>>>,
}

impl Shared {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            next: Arc::default(),
        }
    }
}

impl Rate for Shared {
    fn take(&self, bytes: usize) -> Result<(), Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        pace::take(&mut next, bytes, self.bytes_per_second)
    }

    fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }
}

impl BandwidthLimit {
    fn decode(config: &TypedExtension, context: &Context, of_route: bool) -> Result<Self, Invalid> {
        use proto::bandwidth_limit::EnableMode as M;
        let proto::BandwidthLimit {
            stat_prefix,
            enable_mode,
            limit_kbps,
            fill_interval,
            runtime_enabled,
            enable_response_trailers,
            response_trailer_prefix,
        } = decode(config)?;
        let prefix = not_empty(stat_prefix, "stat_prefix")?;
        for (given, field) in [
            (enable_response_trailers, "enable_response_trailers"),
            (
                !response_trailer_prefix.is_empty(),
                "response_trailer_prefix",
            ),
        ] {
            if given {
                return Err(Invalid::at(field, "not supported yet"));
            }
        }
        // Pieces are as long as they are; the interval only has to be one.
        let interval = parts::duration(fill_interval, "fill_interval")?;
        if interval.is_some_and(|i| !(20..=1000).contains(&i.as_millis())) {
            return Err(Invalid::at("fill_interval", "is not within 20 ms and 1 s"));
        }
        let limit = limit_kbps.map(|limit| limit.value);
        if limit == Some(0) {
            return Err(Invalid::at("limit_kbps", "must be at least 1"));
        }
        let mode = enumeration(enable_mode, "enable_mode")?;
        if limit.is_none() && (of_route || mode != M::Disabled) {
            return Err(Invalid::at("limit_kbps", "must be given"));
        }
        let rate = |wanted: bool| {
            let limit = limit.filter(|_| wanted)?;
            Some(Shared::new(limit.saturating_mul(1024)))
        };
        let enabled = runtime_enabled.map(parts::feature_flag).transpose();
        let enabled = enabled.at("runtime_enabled")?;
        let scope = format!("{prefix}.http_bandwidth_limit.");
        Ok(Self {
            request: rate(matches!(mode, M::Request | M::RequestAndResponse)),
            response: rate(matches!(mode, M::Response | M::RequestAndResponse)),
            enabled: enabled.map(|(default, key)| (default, context.layers.key(&key))),
            request_enabled: context.counter_in(&scope, "request_enabled"),
            response_enabled: context.counter_in(&scope, "response_enabled"),
        })
    }

    fn is_enabled(&self) -> bool {
        let told = |(default, key): &(bool, Key)| key.switch().unwrap_or(*default);
        self.enabled.as_ref().is_none_or(told)
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let limit = BandwidthLimit::decode(config, context, false)?;
    Ok(Arc::new(limit))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    BandwidthLimit::decode(config, context, true).map(RouteConfig::new)
}

impl HttpFilter for BandwidthLimit {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let limit = stream.route_config().unwrap_or(self);
        if let Some(rate) = &limit.request
            && limit.is_enabled()
            && !stream.is_bodyless()
        {
            limit.request_enabled.inc();
            stream.transform_body(Box::new(Paced::new(rate.clone(), ())));
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let limit = answer.route_config().unwrap_or(self);
        if let Some(rate) = &limit.response
            && limit.is_enabled()
            && !answer.bodyless
        {
            limit.response_enabled.inc();
            // The length stays what it is.
            let length = answer.headers.get(CONTENT_LENGTH).cloned();
            answer.transform(Box::new(Paced::new(rate.clone(), ())));
            if let Some(length) = length {
                answer.headers.insert(CONTENT_LENGTH, length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use serde_json::{Value, json};

    use super::*;

    fn decode(mut config: Value, of_route: bool) -> Result<BandwidthLimit, String> {
        config["@type"] = json!(format!("type.googleapis.com/{}", FACTORY.message));
        let any = text::any_from_value(&config).expect("a message");
        let extension = TypedExtension::from_any("x", any);
        BandwidthLimit::decode(&extension, &Context::default(), of_route).map_err(|e| e.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_share_one_rate() {
        let limit = decode(
            json!({ "stat_prefix": "b", "enable_mode": "RESPONSE", "limit_kbps": 1 }),
            false,
        )
        .unwrap();
        assert!(limit.request.is_none());
        let (one, other) = (limit.response.clone().unwrap(), limit.response.unwrap());
        let now = Instant::now();
        assert_eq!(one.take(1024), Ok(()));
        let later = other.take(512).unwrap_err();
        assert_eq!((later - now).as_millis(), 1000);
        // Whoever only asks takes nothing.
        assert_eq!(one.take(1).unwrap_err(), later);
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        for (config, of_route, reason) in [
            (json!({}), false, "stat_prefix: must not be empty"),
            (
                json!({ "stat_prefix": "b", "enable_mode": "REQUEST" }),
                false,
                "limit_kbps: must be given",
            ),
            (
                json!({ "stat_prefix": "b" }),
                true,
                "limit_kbps: must be given",
            ),
            (
                json!({ "stat_prefix": "b", "fill_interval": "2s" }),
                false,
                "fill_interval: is not within 20 ms and 1 s",
            ),
            (
                json!({ "stat_prefix": "b", "enable_response_trailers": true }),
                false,
                "enable_response_trailers: not supported yet",
            ),
        ] {
            assert_eq!(decode(config, of_route).unwrap_err(), reason);
        }
    }
}
