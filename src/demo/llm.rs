//! Answers like a model server: `/v1/chat/completions`, streamed token by token if asked to.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

const MODEL: &str = "causeway-demo";
/// Fast enough not to bore, slow enough to see that nothing on the way collects the pieces.
const PACE: Duration = Duration::from_millis(120);
const ANSWER: [&str; 12] = [
    "A",
    " causeway",
    " carries",
    " every",
    " stream",
    " across",
    ",",
    " one",
    " token",
    " at",
    " a",
    " time.",
];

pub fn router() -> Router {
    Router::new()
        .route(
            "/",
            get(async || "POST /v1/chat/completions with {\"stream\": true}\n"),
        )
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(complete))
}

async fn models() -> Json<Value> {
    Json(json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    stream: bool,
}

/// Takes any content type, because the line to try has `curl -d` without a header.
async fn complete(body: Bytes) -> Response {
    let Ok(asked) = serde_json::from_slice::<Asked>(&body) else {
        let error = json!({"error": {"message": "the body is not JSON"}});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    if asked.stream {
        return Sse::new(tokens()).into_response();
    }
    let message = json!({"role": "assistant", "content": ANSWER.concat()});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    Json(envelope("chat.completion", &choice)).into_response()
}

fn tokens() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(0, |place: usize| async move {
        if place > 0 {
            tokio::time::sleep(PACE).await;
        }
        let data = match place.cmp(&(ANSWER.len() + 1)) {
            std::cmp::Ordering::Less => chunk(ANSWER.get(place).copied()).to_string(),
            std::cmp::Ordering::Equal => "[DONE]".to_owned(),
            std::cmp::Ordering::Greater => return None,
        };
        Some((Ok(Event::default().data(data)), place + 1))
    })
}

/// One token, or the end.
fn chunk(token: Option<&str>) -> Value {
    let choice = match token {
        Some(token) => json!({"index": 0, "delta": {"content": token}, "finish_reason": null}),
        None => json!({"index": 0, "delta": {}, "finish_reason": "stop"}),
    };
    envelope("chat.completion.chunk", &choice)
}

fn envelope(object: &str, choice: &Value) -> Value {
    json!({"id": "chatcmpl-demo", "object": object, "model": MODEL, "choices": [choice]})
}
