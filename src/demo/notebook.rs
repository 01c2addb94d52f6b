//! A page that shows at a glance whether a proxy lets live traffic through: a WebSocket echo and
//! a ticking event stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

const TICK: Duration = Duration::from_secs(1);

pub fn router() -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("notebook.html"))))
        .route("/ws", get(socket))
        .route("/events", get(events))
        .route("/headers", get(headers))
}

/// What arrived here, to see what a proxy adds.
async fn headers(headers: HeaderMap) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines.concat()
}

#[derive(Deserialize)]
struct Signal {
    /// How many to send; without it they go on for ever.
    ticks: Option<u64>,
}

async fn events(Query(wanted): Query<Signal>) -> impl IntoResponse {
    Sse::new(ticks(wanted.ticks.unwrap_or(u64::MAX)))
}

fn ticks(wanted: u64) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(0, move |count| async move {
        if count == wanted {
            return None;
        }
        if count > 0 {
            tokio::time::sleep(TICK).await;
        }
        Some((Ok(Event::default().data(count.to_string())), count + 1))
    })
}

/// Shakes hands (RFC 6455 §4.2) and echoes.
async fn socket(mut request: Request) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        let wanted = [(header::UPGRADE, HeaderValue::from_static("websocket"))];
        return (
            StatusCode::UPGRADE_REQUIRED,
            wanted,
            "a WebSocket is served here\n",
        )
            .into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(echo(hyper::upgrade::on(&mut request)));
    let answer = [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, &accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, answer).into_response()
}

async fn echo(upgrade: OnUpgrade) {
    // Whoever goes away in the middle of the handshake or later just ends the echo.
    let Ok(upgraded) = upgrade.await else { return };
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let is_data = message.is_text() || message.is_binary();
        if is_data && socket.send(message).await.is_err() {
            return;
        }
    }
}
