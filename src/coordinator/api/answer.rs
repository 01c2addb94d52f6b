//! The form of answers: refusals as a page or as JSON, and the fields that every answer has.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::field;
use crate::coordinator::problem::{Situation, TYPE_BASE};
use crate::util::escape_html;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-backendai-requestid");
const METHOD_OVERRIDE: &str = "x-method-override";
const ANYTHING: HeaderValue = HeaderValue::from_static("*");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What of a request decides the form of its answer.
#[derive(Debug)]
pub struct Asked {
    /// As `X-Method-Override` says, if it does.
    pub method: Method,
    json: bool,
    request_id: HeaderValue,
}

impl Asked {
    pub fn of(request: &Parts) -> Self {
        let headers = &request.headers;
        let told = field(headers, METHOD_OVERRIDE);
        let overridden = told.and_then(|m| m.trim().to_ascii_uppercase().parse().ok());
        let accepts = headers.get_all(header::ACCEPT).iter();
        Self {
            method: overridden.unwrap_or_else(|| request.method.clone()),
            json: accepts
                .filter_map(|value| value.to_str().ok())
                .any(|value| value.contains("application/json")),
            request_id: request_id(headers),
        }
    }

    /// The method as a label: anybody can invent methods, so they are not all told apart.
    pub fn method_label(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        }
    }
}

/// The caller's own id, so that its logs and ours can be laid side by side; but only one that does
/// no harm there.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    let given = field(headers, REQUEST_ID.as_str())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(harmless));
    let id = given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
}

/// Why a request is refused: the situation, in the words of this request.
#[derive(Debug)]
pub struct Refusal {
    pub situation: &'static Situation,
    message: Cow<'static, str>,
    data: Option<Value>,
}

impl Refusal {
    pub const fn of(situation: &'static Situation) -> Self {
        Self {
            situation,
            message: Cow::Borrowed(situation.message),
            data: None,
        }
    }

    #[must_use]
    pub fn saying(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    fn json(&self, request_id: &str) -> Value {
        let mut document = json!({
            "type": format!("{TYPE_BASE}{}", self.situation.kind),
            "title": self.situation.title,
            "error_code": self.situation.error_code,
        });
        if !self.message.is_empty() {
            document["msg"] = json!(self.message);
        }
        if let Some(data) = &self.data {
            document["data"] = data.clone();
        }
        document["request_id"] = json!(request_id);
        document
    }

    fn html(&self, request_id: &str) -> String {
        let message = match &*self.message {
            "" => String::new(),
            message => format!("<p>{}</p>\n", escape(message)),
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <title>{title}</title></head>\n<body>\n<h1>Backend.AI</h1>\n<h2>{title}</h2>\n\
             {message}<p><small>{code} &middot; {id}</small></p>\n</body>\n</html>\n",
            title = escape(self.situation.title),
            code = escape(self.situation.error_code),
            id = escape(request_id),
        )
    }

    fn into_response(self, asked: &Asked) -> Response {
        let id = asked.request_id.to_str().unwrap_or_default();
        let (kind, body) = if asked.json {
            (JSON, self.json(id).to_string())
        } else {
            (HTML, self.html(id))
        };
        let status = StatusCode::from_u16(self.situation.status);
        let mut response = with_body(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            kind,
            body,
        );
        let headers = response.headers_mut();
        // A refusal is about now; none is to be shown again to somebody who comes back later.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.situation.status == 405 {
            headers.insert(header::ALLOW, METHODS);
        }
        response
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape_html(text, &mut out);
    out
}

pub fn with_body(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub fn json(status: StatusCode, value: &Value) -> Response {
    with_body(status, JSON, value.to_string())
}

/// To a browser that asks whether a page of another origin may call: yes, without credentials.
pub fn preflight(headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allow = response.headers_mut();
    allow.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    allow.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    // `*` would leave Authorization out, so what is asked for is what is allowed.
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        allow.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        allow.insert(
            header::VARY,
            HeaderValue::from_static("access-control-request-headers"),
        );
    }
    response
}

/// The answer as it leaves.
pub fn finish(result: Result<Response, Refusal>, asked: &Asked) -> Response {
    let mut response = result.unwrap_or_else(|refusal| refusal.into_response(asked));
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("BackendAI"));
    headers.insert(REQUEST_ID, asked.request_id.clone());
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANYTHING);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANYTHING);
    headers
        .entry(header::ACCESS_CONTROL_ALLOW_HEADERS)
        .or_insert(ANYTHING);
    response
}
