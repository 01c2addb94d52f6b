//! A WebSocket that ends here: what its messages carry goes to an endpoint as bytes.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode, Version};
use tokio::sync::oneshot;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::body::Body;
use super::exchange::Exchange;
use super::failures::MAX_DURATION;
use super::head::UpgradeRequest;
use super::router::server_header;
use super::upgrade::{Active, Downstream};
use super::watch::Fired;
use crate::error::ResponseFlag;
use crate::filter::Bridge;
use crate::net::websocket::{self, Dialect, Ended, Leave, Rules};
use crate::runtime::farewell::Guest;
use crate::runtime::timer::Deadline;
use crate::upstream::Endpoint;
use crate::upstream::pool::{self, RawConnection};

/// What a client asked for, as far as an answer depends on it.
pub struct Handshake {
    /// Over HTTP/2 (RFC 8441).
    extended: bool,
    /// Of the client's key.
    accept: Option<HeaderValue>,
    /// `None`: it offers none that is known, and none is chosen.
    dialect: Option<Dialect>,
}

impl Handshake {
    pub fn of(headers: &HeaderMap, asked: &UpgradeRequest) -> Self {
        let accept = headers.get(SEC_WEBSOCKET_KEY);
        let accept = accept.map(|key| derive_accept_key(key.as_bytes()));
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let offered = offered
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(',').map(str::trim));
        Self {
            extended: asked.extended,
            accept: accept.and_then(|accept| HeaderValue::try_from(accept).ok()),
            dialect: Dialect::choose(offered),
        }
    }

    /// `idle` as for any other tunnel.
    pub fn rules(&self, bridge: Bridge, idle: Duration) -> Rules {
        Rules {
            dialect: self.dialect.unwrap_or_default(),
            max_message: bridge.max_message,
            ping: bridge.ping,
            idle,
        }
    }

    fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let protocol = self.dialect.map(Dialect::subprotocol);
        if self.extended {
            // There is neither a 101 nor an answer to a key over HTTP/2 (RFC 8441 section 5).
            *response.version_mut() = Version::HTTP_2;
        } else {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.extend(
                self.accept
                    .clone()
                    .map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)),
            );
        }
        if let Some(protocol) = protocol {
            let protocol = HeaderValue::from_static(protocol);
            response
                .headers_mut()
                .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Both ends of what is to be joined.
pub struct Tunnel {
    pub downstream: Downstream,
    pub upstream: (Arc<Endpoint>, RawConnection),
    pub rules: Rules,
    /// The cluster's name, if the log is to tell of it once it has ended.
    pub log: Option<Arc<str>>,
}

/// Answers a handshake, and carries bytes once the client's connection has switched.
pub fn accept(handshake: &Handshake, tunnel: Tunnel, exchange: Box<Exchange>) -> Response<Body> {
    let mut response = handshake.response();
    exchange.answered(response.status());
    server_header(response.headers_mut(), &exchange.connection);
    tokio::task::spawn_local(carry(tunnel, exchange));
    response
}

async fn carry(tunnel: Tunnel, exchange: Box<Exchange>) {
    let Tunnel {
        downstream,
        upstream: (endpoint, upstream),
        rules,
        log,
    } = tunnel;
    // Entered before anything is waited for: the thread may end meanwhile.
    let guest = Guest::enter();
    let (io, _counted) = upstream.into_parts();
    let (client, early) = match downstream.switched().await {
        Ok(downstream) => downstream,
        Err(error) => return tracing::debug!(%error, "upgrade was not completed"),
    };
    let config = Some(rules.config());
    let socket =
        WebSocketStream::from_partially_read(client, early.into(), Role::Server, config).await;
    // Zero would be for ever, and nothing may be left already.
    let limit = exchange.watch.duration_left();
    let left = limit.map_or(Duration::ZERO, |(left, _)| {
        left.max(Duration::from_nanos(1))
    });
    let leave = async {
        tokio::select! {
            () = guest.ending() => Leave::Restart,
            () = removed(&endpoint) => Leave::Away("no longer available"),
            () = Deadline::after(left) => Leave::Away(MAX_DURATION),
        }
    };
    let active = Active::begin(&exchange);
    let progress = &exchange.progress;
    let ended = websocket::join(socket, io, rules, leave, |sent, received| {
        progress.sent.set(progress.sent.get() + sent);
        progress.received.set(progress.received.get() + received);
    })
    .await;
    drop(active);
    tell(&ended, limit.map(|(_, fired)| fired), &exchange);
    if let Some(cluster) = log {
        tracing::info!(
            cluster = %cluster,
            peer = exchange.client.get().map(tracing::field::display),
            endpoint = %endpoint,
            ms = u64::try_from(exchange.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            received = progress.received.get(),
            sent = progress.sent.get(),
            flag = exchange.flagged().map_or("-", ResponseFlag::short),
            ?ended,
            "WebSocket ended"
        );
    }
    exchange.complete();
}

/// Resolves once the endpoint is removed. Its other connections are cut then; a WebSocket is told.
async fn removed(endpoint: &Endpoint) {
    let (mut tie, cut) = oneshot::channel::<()>();
    pool::spawn_tied(endpoint, async move { tie.closed().await });
    // Nothing is ever sent: the task's end is what is waited for.
    cut.await.ok();
}

/// What the log says of the end. `limit` is the duration that the stream may have.
fn tell(ended: &Ended, limit: Option<Fired>, exchange: &Exchange) {
    match ended {
        Ended::Closed | Ended::ByPeer(..) => {}
        Ended::Idle => {
            exchange.flag(ResponseFlag::StreamIdleTimeout);
            let stats = &exchange.connection.manager.stats;
            stats.downstream_rq_idle_timeout.inc();
        }
        Ended::Silent | Ended::SocketBroken(_) => {
            exchange.flag(ResponseFlag::DownstreamTermination);
        }
        Ended::Refused(..) => exchange.flag(ResponseFlag::DownstreamProtocolError),
        Ended::BytesBroken(_) => exchange.flag(ResponseFlag::UpstreamConnectionTermination),
        // As with any other stream that has lasted for as long as it may.
        Ended::Left(Leave::Away(MAX_DURATION)) => {
            if let Some(fired) = limit {
                fired.count(exchange);
            }
            match limit.and_then(Fired::flag) {
                None => exchange.detail(MAX_DURATION),
                Some(flag) => exchange.flag(flag),
            }
        }
        Ended::Left(Leave::Away(why)) => exchange.detail(*why),
        Ended::Left(Leave::Restart) => exchange.detail("restart"),
    }
    tracing::debug!(?ended, "websocket bridge ended");
}
