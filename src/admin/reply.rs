//! Answers in Envoy's forms.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde_json::Value;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub fn text(body: impl Into<Body>) -> Response {
    build(StatusCode::OK, TEXT, body.into())
}

pub fn refused(status: StatusCode, body: impl Into<Body>) -> Response {
    build(status, TEXT, body.into())
}

pub fn json(value: &Value) -> Response {
    json_with(StatusCode::OK, value)
}

/// For people: indented.
pub fn json_pretty(value: &Value) -> Response {
    build(StatusCode::OK, JSON, format!("{value:#}\n").into())
}

pub fn json_with(status: StatusCode, value: &Value) -> Response {
    build(status, JSON, value.to_string().into())
}

/// Makes an answer that may take long (ten thousand clusters) without holding up the thread that
/// everything else of the control plane runs on.
pub async fn off_thread(make: impl FnOnce() -> Response + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(make).await {
        Ok(response) => response,
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed\n"),
    }
}

/// The control task is gone: the process is ending.
pub fn stopped() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n")
}

fn build(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
