//! `envoy.filters.http.bandwidth_limit`: so many bytes per second, for all requests together.
//!
//! Configuration: `envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit`; that of a route
//! takes the place of the other, with a rate of its own. Requests and answers have a rate each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::bandwidth_limit::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, enumeration, not_empty};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use tokio::time::Instant;

use super::super::body::{BodyError, Frames, Transform};
use super::super::pace::{self, Delay, Paced, Rate};
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
    /// What clients are told of how long it took.
    trailers: Option<Names>,
    request_enabled: Arc<Counter>,
    response_enabled: Arc<Counter>,
    /// Of requests and answers: held for the one that comes after this.
    _next: Arc<[Arc<Next>; 2]>,
}

/// The rate of all bodies together.
#[derive(Clone, Debug)]
struct Shared {
    bytes_per_second: u64,
    next: Arc<Next>,
}

/// When the next byte may go.
type Next = Mutex<Option<Instant>>;

impl Shared {
    fn new(bytes_per_second: u64, next: &Arc<Next>) -> Self {
        Self {
            bytes_per_second,
            next: Arc::clone(next),
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
        let trailers = match enable_response_trailers {
            true => Some(Names::new(&response_trailer_prefix).at("response_trailer_prefix")?),
            false => None,
        };
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
        let next = context.keep(config, <[Arc<Next>; 2]>::default);
        let rate = |wanted: bool, next| {
            let limit = limit.filter(|_| wanted)?;
            Some(Shared::new(limit.saturating_mul(1024), next))
        };
        let enabled = runtime_enabled.map(parts::feature_flag).transpose();
        let enabled = enabled.at("runtime_enabled")?;
        let scope = format!("{prefix}.http_bandwidth_limit.");
        Ok(Self {
            request: rate(matches!(mode, M::Request | M::RequestAndResponse), &next[0]),
            response: rate(
                matches!(mode, M::Response | M::RequestAndResponse),
                &next[1],
            ),
            _next: next,
            enabled: enabled.map(|(default, key)| (default, context.layers.key(&key))),
            trailers,
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
            let paced = Paced::new(rate.clone(), ());
            let delay = paced.delay();
            stream.transform_body(Box::new(paced));
            if limit.trailers.is_some() {
                let took = Rc::new(Cell::new(Duration::ZERO));
                let (began, ended) = (Instant::now(), Rc::clone(&took));
                stream.transform_body(Box::new(Clocked { began, ended }));
                stream.keep(Took { took, delay });
            }
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
            let paced = Paced::new(rate.clone(), ());
            let delay = paced.delay();
            answer.transform(Box::new(paced));
            if let Some(names) = &limit.trailers {
                answer.transform(Box::new(Telling {
                    names: names.clone(),
                    request: answer.kept(),
                    began: Instant::now(),
                    delay,
                }));
            } else if let Some(length) = length {
                answer.headers.insert(CONTENT_LENGTH, length);
            }
        }
    }
}

/// What trailers are called: how long a body took, and how much of that it was held back.
#[derive(Clone, Debug)]
struct Names {
    request: [HeaderName; 2],
    response: [HeaderName; 2],
}

impl Names {
    fn new(prefix: &str) -> Result<Self, Invalid> {
        let name = |what: &str| {
            let name = match prefix {
                "" => format!("bandwidth-{what}-ms"),
                prefix => format!("{prefix}-bandwidth-{what}-ms"),
            };
            let wrong = |_| parts::fault("is no header name");
            HeaderName::try_from(name).map_err(wrong)
        };
        Ok(Self {
            request: [name("request-delay")?, name("request-filter-delay")?],
            response: [name("response-delay")?, name("response-filter-delay")?],
        })
    }
}

/// Of the body of a request.
struct Took {
    took: Rc<Cell<Duration>>,
    delay: Delay,
}

/// Notes how long a body took.
struct Clocked {
    began: Instant,
    ended: Rc<Cell<Duration>>,
}

impl Transform for Clocked {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.ended.set(self.began.elapsed());
        out.push_back(Frame::data(data));
        Ok(())
    }
}

/// Puts what is known behind a body.
struct Telling {
    names: Names,
    request: Option<Rc<Took>>,
    began: Instant,
    delay: Delay,
}

impl Transform for Telling {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        out.push_back(Frame::data(data));
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        let mut trailers = trailers.unwrap_or_default();
        let mut tell = |[took, delay]: &[HeaderName; 2], times: [Duration; 2]| {
            for (name, time) in [took, delay].into_iter().zip(times) {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                trailers.insert(name, HeaderValue::from(ms));
            }
        };
        if let Some(request) = &self.request {
            tell(
                &self.names.request,
                [request.took.get(), request.delay.get()],
            );
        }
        tell(
            &self.names.response,
            [self.began.elapsed(), self.delay.get()],
        );
        out.push_back(Frame::trailers(trailers));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use serde_json::{Value, json};

    use super::*;

    fn extension(mut config: Value) -> TypedExtension {
        config["@type"] = json!(format!("type.googleapis.com/{}", FACTORY.message));
        let any = text::any_from_value(&config).expect("a message");
        TypedExtension::from_any("x", any)
    }

    fn decode(config: Value, of_route: bool) -> Result<BandwidthLimit, String> {
        let config = extension(config);
        BandwidthLimit::decode(&config, &Context::default(), of_route).map_err(|e| e.to_string())
    }

    /// A new configuration takes the place of another; bodies that have begun go on by the old one.
    #[tokio::test(start_paused = true)]
    async fn a_rate_goes_on_across_a_change_of_what_is_around_it() {
        let context = Context::default().at("web/limit/0".to_owned());
        let limit = |kbps: u32, context: &Context| {
            let config =
                json!({ "stat_prefix": "b", "enable_mode": "RESPONSE", "limit_kbps": kbps });
            BandwidthLimit::decode(&extension(config), context, false).unwrap()
        };
        let take = |limit: &BandwidthLimit, bytes| limit.response.as_ref().unwrap().take(bytes);
        let before = limit(1, &context);
        assert_eq!(take(&before, 1024), Ok(()));
        let after = limit(1, &context);
        let later = take(&after, 1).unwrap_err();
        tokio::time::advance(later - Instant::now()).await;
        assert_eq!(take(&after, 512), Ok(()));
        let told = take(&before, 1);
        assert!(told.is_err(), "what the new one has let pass counts");
        // Another limit, and another place, begin anew.
        assert_eq!(take(&limit(2, &context), 1), Ok(()));
        let elsewhere = context.at("web/limit/1".to_owned());
        assert_eq!(take(&limit(1, &elsewhere), 1), Ok(()));
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

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_how_long_it_took_where_that_is_wanted() {
        use http_body_util::BodyExt as _;

        use crate::filter::body::Whole;
        use crate::filter::testing::{Nowhere, TestBody, chain, descend, pass, request};
        use crate::route::PerRoute;

        let config = proto::BandwidthLimit {
            stat_prefix: "b".into(),
            enable_mode: proto::bandwidth_limit::EnableMode::RequestAndResponse.into(),
            limit_kbps: Some(causeway_xds::proto::UInt64Value { value: 1 }),
            enable_response_trailers: true,
            response_trailer_prefix: "x".into(),
            ..Default::default()
        };
        let chain = chain(FACTORY.message, &config).unwrap();
        let (around, route) = (Nowhere::default(), PerRoute::default());
        let mut parts = request("/", &[]);
        let mut body = TestBody(Some(Whole::new(vec![0; 1024]).boxed()));
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        pass(&chain, &mut parts, &mut body, &route, client, &around).await;
        body.0.unwrap().collect().await.unwrap();
        let answer = (
            http::StatusCode::OK,
            HeaderMap::new(),
            Whole::new(vec![0; 512]).boxed(),
        );
        let answered = descend(&chain, answer, &route, &around).await;
        let all = answered.body.collect().await.unwrap();
        let trailers = all.trailers().unwrap();
        let told = |name: &str| trailers[name].to_str().unwrap().parse::<u64>().unwrap();
        // The first piece of 50 milliseconds goes at once.
        assert!((900..=1000).contains(&told("x-bandwidth-request-delay-ms")));
        assert!(told("x-bandwidth-request-filter-delay-ms") >= 900);
        assert!((400..=500).contains(&told("x-bandwidth-response-delay-ms")));
        assert!(told("x-bandwidth-response-filter-delay-ms") >= 400);
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
                json!({ "stat_prefix": "b", "enable_response_trailers": true,
                    "response_trailer_prefix": "a b" }),
                false,
                "response_trailer_prefix: is no header name",
            ),
        ] {
            assert_eq!(decode(config, of_route).unwrap_err(), reason);
        }
    }
}
