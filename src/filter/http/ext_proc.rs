//! `envoy.filters.http.ext_proc`: shows requests and responses to a processor, which may change them.
//!
//! One stream of gRPC for each exchange. What of it the processor is sent is its processing mode; each
//! message has to be answered within the message timeout, except where bodies are streamed both ways
//! (`FULL_DUPLEX_STREAMED`) and where the processor only observes. Without a processor nothing passes,
//! unless configuration says so (`failure_mode_allow`).

mod attributes;
mod config;
mod mutation;
mod over_http;
mod processing;
mod request;
mod response;
mod session;
mod streamed;
#[cfg(test)]
mod tests;
mod turn;

use std::rc::Rc;
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::reject::Invalid;

use self::config::{Fixed, PerRoute, Settings};
use self::processing::Processing;
use super::super::registry::Context;
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::telemetry::stats::Counter;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    name: "envoy.filters.http.ext_proc",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
        config::build_per_route,
    )],
};

#[derive(Debug)]
struct ExtProc {
    fixed: Arc<Fixed>,
    settings: Settings,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Stats {
    started: Arc<Counter>,
    msgs_sent: Arc<Counter>,
    msgs_received: Arc<Counter>,
    spurious: Arc<Counter>,
    closed: Arc<Counter>,
    failed: Arc<Counter>,
    failure_mode_allowed: Arc<Counter>,
    timeouts: Arc<Counter>,
    rejected: Arc<Counter>,
    override_received: Arc<Counter>,
    override_ignored: Arc<Counter>,
    clear_ignored: Arc<Counter>,
    clear_disabled: Arc<Counter>,
    immediate: Arc<Counter>,
}

impl Stats {
    fn new(context: &Context, prefix: &str) -> Self {
        let prefix = match prefix {
            "" => "ext_proc.".to_owned(),
            prefix => format!("ext_proc.{prefix}."),
        };
        let counter = |name: &str| context.counter(&format!("{prefix}{name}"));
        Self {
            started: counter("streams_started"),
            msgs_sent: counter("stream_msgs_sent"),
            msgs_received: counter("stream_msgs_received"),
            spurious: counter("spurious_msgs_received"),
            closed: counter("streams_closed"),
            failed: counter("streams_failed"),
            failure_mode_allowed: counter("failure_mode_allowed"),
            timeouts: counter("message_timeouts"),
            rejected: counter("rejected_header_mutations"),
            override_received: counter("override_message_timeout_received"),
            override_ignored: counter("override_message_timeout_ignored"),
            clear_ignored: counter("clear_route_cache_ignored"),
            clear_disabled: counter("clear_route_cache_disabled"),
            immediate: counter("immediate_responses_sent"),
        }
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let (fixed, settings) = config::decode_filter(config)?;
    let stats = Stats::new(context, &fixed.stat_prefix);
    Ok(Arc::new(ExtProc {
        fixed: Arc::new(fixed),
        settings,
        stats: Arc::new(stats),
    }))
}

impl HttpFilter for ExtProc {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let levels = stream.route_configs::<PerRoute>();
        let Some(settings) = self.settings.of_route(levels) else {
            return Flow::Continue;
        };
        let (fixed, stats) = (Arc::clone(&self.fixed), Arc::clone(&self.stats));
        let processing = Rc::new(Processing::new(fixed, settings, stats, stream));
        stream.keep(Rc::clone(&processing));
        match self.fixed.observes {
            true => request::observe(&processing, stream),
            false => request::begin(&processing, stream),
        }
    }

    fn response(&self, answer: &mut Answer<'_>) {
        // A request that never came here has none.
        if let Some(processing) = answer.kept::<Rc<Processing>>() {
            response::begin(&processing, answer);
        }
    }
}
