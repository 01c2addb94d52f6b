//! What goes wrong on the way to an endpoint, as the client is told.

use std::io::{self, ErrorKind};

use http::StatusCode;

use super::exchange::Exchange;
use super::timeouts::Timeouts;
use super::watch::Fired;
use crate::error::{Failure, ResponseFlag};
use crate::net::WireError;
use crate::upstream::pool::{Lease, SendError};

/// `max_stream_duration` is over.
pub const MAX_DURATION: &str = "max_duration_timeout";
/// The detail word of the cluster's `max_stream_duration`.
pub const UPSTREAM_DURATION: &str = "upstream_max_stream_duration_reached";

/// The timeout of the route has passed.
pub const ROUTE_TIMEOUT: &str = "response_timeout";

/// The route's timeout, or that of an attempt.
pub fn timeout(details: &'static str, timeouts: &Timeouts) -> Failure {
    let flag = ResponseFlag::UpstreamTimeout;
    if timeouts.alternative {
        return Failure::local(StatusCode::NO_CONTENT, flag, details);
    }
    Failure::local(StatusCode::GATEWAY_TIMEOUT, flag, details).saying("upstream request timeout")
}

/// A deadline of the stream has fired.
pub fn deadline(fired: Fired, exchange: &Exchange, timeouts: &Timeouts) -> Failure {
    match fired {
        Fired::RouteTimeout(_) => {
            let failure = timeout(ROUTE_TIMEOUT, timeouts).because(fired);
            exchange.upstream_failed(failure.status);
            failure
        }
        Fired::Duration(_) => {
            exchange.upstream_failed(StatusCode::GATEWAY_TIMEOUT);
            let status = match exchange.progress.request_ended.get() {
                true => StatusCode::GATEWAY_TIMEOUT,
                false => StatusCode::REQUEST_TIMEOUT,
            };
            let flag = ResponseFlag::DurationTimeout;
            let failure = Failure::local(status, flag, MAX_DURATION);
            Failure {
                // Envoy sets none.
                flag: None,
                ..failure.saying("downstream duration timeout").because(fired)
            }
        }
        Fired::Upstream(_) => {
            // Counted by its own counter, as with Envoy.
            let status = match exchange.progress.request_ended.get() {
                true => StatusCode::GATEWAY_TIMEOUT,
                false => StatusCode::REQUEST_TIMEOUT,
            };
            let flag = ResponseFlag::UpstreamMaxStreamDurationReached;
            Failure::local(status, flag, UPSTREAM_DURATION)
                .saying("upstream max stream duration reached")
                .because(fired)
        }
        Fired::Request(_) => {
            let timeout = StatusCode::REQUEST_TIMEOUT;
            Failure::local(
                timeout,
                ResponseFlag::DownstreamTermination,
                "request_overall_timeout",
            )
            .saying("request timeout")
            .because(fired)
        }
        Fired::StreamIdle(_) => {
            // Whoever was waited for is to blame: the client, or the upstream.
            let timeout = if exchange.progress.request_ended.get() {
                exchange.upstream_failed(StatusCode::GATEWAY_TIMEOUT);
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::REQUEST_TIMEOUT
            };
            Failure::local(
                timeout,
                ResponseFlag::StreamIdleTimeout,
                "stream_idle_timeout",
            )
            .saying("stream timeout")
            .because(fired)
        }
    }
}

/// The cluster has as many requests as it may have.
pub fn overflow(max: u32) -> Failure {
    Failure::local(
        StatusCode::SERVICE_UNAVAILABLE,
        ResponseFlag::UpstreamOverflow,
        "upstream_reset_before_response_started{overflow}",
    )
    .saying("upstream connect error or disconnect/reset before headers. reset reason: overflow")
    .because(format!("limit of {max} requests reached"))
}

/// The peer closed a connection that it had kept open between requests: it has not seen this one.
pub fn is_stale(error: &SendError) -> bool {
    match &error.error {
        WireError::Http1(error) => {
            let io = std::error::Error::source(error).and_then(|e| e.downcast_ref());
            error.is_canceled()
                || error.is_closed()
                || error.is_incomplete_message()
                || io.is_some_and(|io: &io::Error| {
                    matches!(
                        io.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                    )
                })
        }
        // A goodbye that leaves it out. A connection that breaks off may have been busy with it.
        WireError::Http2(error) => error.is_go_away() && error.is_remote(),
    }
}

/// What the upstream sent is not HTTP.
pub fn protocol_error() -> Failure {
    Failure::local(
        StatusCode::BAD_GATEWAY,
        ResponseFlag::UpstreamProtocolError,
        "upstream_reset_before_response_started{protocol_error}",
    )
    .saying(
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
    )
}

/// The upstream took a request and did not answer.
pub fn unanswered(error: &SendError, lease: &Lease) -> Failure {
    let cause = format!(
        "{}: waiting for response head: {:?}",
        lease.endpoint(),
        error.error
    );
    if matches!(&error.error, WireError::Http1(error) if error.is_parse() || error.is_parse_too_large())
    {
        return protocol_error().because(cause);
    }
    let (flag, reason) = if lease.is_http2() {
        (ResponseFlag::UpstreamRemoteReset, "remote reset")
    } else {
        (
            ResponseFlag::UpstreamConnectionTermination,
            "connection termination",
        )
    };
    Failure::local(
        StatusCode::SERVICE_UNAVAILABLE,
        flag,
        "upstream_reset_before_response_started{connection_termination}",
    )
    .saying(format!(
        "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
    ))
    .because(cause)
}
