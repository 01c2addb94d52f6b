//! `envoy.filters.http.fault`: requests that are delayed or refused on purpose, answers that come
//! slowly.
//!
//! Configuration: `envoy.extensions.filters.http.fault.v3.HTTPFault`, for the filter and for routes;
//! that of a route takes the place of the other. Percentages and values can be changed by runtime
//! keys, which have Envoy's names if no others are given.

mod settings;

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::reject::Invalid;
use http::StatusCode;

use self::settings::{Error, Settings};
use super::super::pace::{Alone, Paced};
use super::super::registry::Context;
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::error::ResponseFlag;
use crate::route::RouteConfig;
use crate::runtime::timer::Deadline;
use crate::telemetry::stats::{Counter, Gauge};

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    name: "envoy.filters.http.fault",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Fault {
    settings: Arc<Settings>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Stats {
    aborts: Arc<Counter>,
    delays: Arc<Counter>,
    slowed: Arc<Counter>,
    overflow: Arc<Counter>,
    active: Arc<Gauge>,
}

struct OfRoute(Arc<Settings>);

/// What is done to one stream, for as long as it lasts.
struct Active {
    gauge: Arc<Gauge>,
    /// Bytes per second of the answer.
    rate: Option<u64>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    Ok(Arc::new(Fault {
        settings: Arc::new(Settings::decode(config, context)?),
        stats: Arc::new(Stats {
            aborts: context.counter("fault.aborts_injected"),
            delays: context.counter("fault.delays_injected"),
            slowed: context.counter("fault.response_rl_injected"),
            overflow: context.counter("fault.faults_overflow"),
            active: context.gauge("fault.active_faults"),
        }),
    }))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let settings = Settings::decode(config, context)?;
    Ok(RouteConfig::new(OfRoute(Arc::new(settings))))
}

impl HttpFilter for Fault {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let of_route = stream.route_config::<OfRoute>();
        let settings = of_route.map_or(&self.settings, |of| &of.0);
        let stats = &self.stats;
        if stats.active.value() >= settings.max_active() {
            stats.overflow.inc();
            return Flow::Continue;
        }
        if !settings.concern(stream.request, stream.cluster()) {
            return Flow::Continue;
        }
        let rate = settings.rate(stream.request);
        let delay = settings.delay(stream.request);
        if rate.is_some() {
            stats.slowed.inc();
        }
        if rate.is_some() || delay.is_some() {
            stats.begin(stream, rate);
        }
        let Some(delay) = delay else {
            return abort(settings, stats, stream);
        };
        stats.delays.inc();
        stream.flag(ResponseFlag::DelayInjected);
        let (settings, stats) = (Arc::clone(settings), Arc::clone(stats));
        Flow::wait(async move {
            Deadline::after(delay).await;
            Box::new(move |stream: &mut Stream<'_>| abort(&settings, &stats, stream)) as Then
        })
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let active = answer.kept::<Active>();
        if let Some(rate) = active.and_then(|active| active.rate)
            && !answer.bodyless
        {
            // The stream holds what counts it; the length stays what it was.
            let length = answer.headers.get(http::header::CONTENT_LENGTH).cloned();
            answer.transform(Box::new(Paced::new(Alone::new(rate), ())));
            if let Some(length) = length {
                answer.headers.insert(http::header::CONTENT_LENGTH, length);
            }
        }
    }
}

impl Stats {
    fn begin(&self, stream: &Stream<'_>, rate: Option<u64>) {
        self.active.inc();
        stream.keep(Active {
            gauge: Arc::clone(&self.active),
            rate,
        });
    }
}

fn abort(settings: &Settings, stats: &Stats, stream: &mut Stream<'_>) -> Flow {
    let Some(error) = settings.abort(stream.request) else {
        return Flow::Continue;
    };
    stats.aborts.inc();
    let (status, grpc_status) = match error {
        Error::Http(status) => (status, None),
        Error::Grpc(status) => (StatusCode::OK, Some(status)),
    };
    let mut reply = LocalReply::new(status, "fault_filter_abort")
        .saying(settings.abort_body())
        .flagged(ResponseFlag::FaultInjected);
    reply.grpc_status = grpc_status;
    Flow::reply(reply)
}
