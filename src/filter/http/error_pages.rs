//! `causeway.error_pages`: gives the failures that the proxy answers itself a form that their
//! reader can use.
//!
//! Configuration: `xds/proto/causeway/v1/error_pages.proto`. Programs get a problem in JSON,
//! people get a page; who is which is told by `Accept` alone, by the rule that Backend.AI's worker
//! has always had. A failure that no page describes keeps its plain answer.

mod html;
mod language;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::causeway::v1 as proto;
use causeway_xds::reject::{FieldPath, Invalid};
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Method, StatusCode};
use serde::Serialize;

use self::language::Language;
use super::super::registry::{Context, decode};
use super::super::{Asked, Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::error::{Failure, ResponseFlag};
use crate::route::RouteConfig;

pub const FACTORY: Factory = Factory {
    message: "causeway.v1.ErrorPages",
    name: "causeway.error_pages",
    build,
    per_route: &[("causeway.v1.ErrorPagesPerRoute", build_per_route)],
};

const PRODUCT: &str = "Backend.AI";
const TYPE_BASE: &str = "https://api.backend.ai/probs/";
const NO_TYPE: &str = "about:blank";
/// The word in `failures` that every failure answers to.
const ANY: &str = "*";
const LABEL: &str = "%LABEL%";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");

#[derive(Debug)]
struct ErrorPages {
    product: String,
    pages: Vec<Page>,
    /// The first page for each word; nothing is searched when something fails.
    by_word: HashMap<String, usize>,
}

#[derive(Debug)]
struct Page {
    status: Option<StatusCode>,
    kind: String,
    title: String,
    error_code: String,
    message: Message,
    appearance: proto::error_page::Appearance,
    /// Zero is none.
    retry_after: u32,
}

/// The failure that a route answers with.
#[derive(Debug)]
struct RouteFailure {
    name: Arc<str>,
    status: Option<StatusCode>,
    message: Message,
}

/// A text with or without [`LABEL`] in it.
#[derive(Debug)]
struct Message {
    text: String,
    label: bool,
}

impl Message {
    fn new(text: String) -> Self {
        let label = text.contains(LABEL);
        Self { text, label }
    }

    fn told(&self, host: Option<&HeaderValue>) -> Cow<'_, str> {
        if self.label {
            Cow::Owned(self.text.replace(LABEL, &label(host)))
        } else {
            Cow::Borrowed(&self.text)
        }
    }
}

/// The first label of a host. What is no label is not echoed.
fn label(host: Option<&HeaderValue>) -> String {
    let host = host.map_or(&b""[..], HeaderValue::as_bytes);
    let end = host.iter().position(|b| matches!(b, b'.' | b':'));
    let first = &host[..end.unwrap_or(host.len())];
    match std::str::from_utf8(first) {
        Ok(text)
            if (1..=63).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
        {
            text.to_ascii_lowercase()
        }
        _ => "?".to_owned(),
    }
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::ErrorPages {
        pages,
        product,
        type_base,
    } = decode(config)?;
    let or = |text: String, default: &str| match text.is_empty() {
        true => default.to_owned(),
        false => text,
    };
    let base = or(type_base, TYPE_BASE);
    visible(&base, "type_base")?;
    let mut filter = ErrorPages {
        product: or(product, PRODUCT),
        pages: Vec::with_capacity(pages.len()),
        by_word: HashMap::new(),
    };
    for (place, page) in pages.into_iter().enumerate() {
        let at = FieldPath::root().field("pages").index(place);
        let (words, page) = Page::build(page, &base).map_err(|e| e.within(&at))?;
        for word in words {
            filter.by_word.entry(word).or_insert(place);
        }
        filter.pages.push(page);
    }
    Ok(Arc::new(filter))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::ErrorPagesPerRoute {
        failure,
        status,
        message,
    } = decode(config)?;
    if failure.is_empty() {
        return Err(Invalid::at("failure", "must not be empty"));
    }
    Ok(RouteConfig::new(RouteFailure {
        name: failure.into(),
        status: checked_status(status)?,
        message: Message::new(message),
    }))
}

fn checked_status(status: u32) -> Result<Option<StatusCode>, Invalid> {
    match u16::try_from(status) {
        Ok(0) => Ok(None),
        Ok(status @ 400..=599) => Ok(StatusCode::from_u16(status).ok()),
        _ => Err(Invalid::at(
            "status",
            format!("{status} is not between 400 and 599"),
        )),
    }
}

/// Of characters that a URI and a header field can have.
fn visible(text: &str, field: &str) -> Result<(), Invalid> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Invalid::at(field, "has a character that is not visible"))
}

impl Page {
    fn build(page: proto::ErrorPage, base: &str) -> Result<(Vec<String>, Self), Invalid> {
        let appearance = page.appearance();
        let proto::ErrorPage {
            failures,
            status,
            r#type,
            title,
            error_code,
            message,
            appearance: number,
            retry_after,
        } = page;
        if failures.is_empty() {
            return Err(Invalid::at("failures", "must not be empty"));
        }
        // Protobuf lets any number through.
        if appearance as i32 != number {
            let reason = format!("{number} is not a known value");
            return Err(Invalid::at("appearance", reason));
        }
        visible(&r#type, "type")?;
        visible(&error_code, "error_code")?;
        let page = Self {
            status: checked_status(status)?,
            kind: match r#type.is_empty() {
                true => NO_TYPE.to_owned(),
                false => format!("{base}{}", r#type),
            },
            title,
            error_code,
            message: Message::new(message),
            appearance,
            retry_after,
        };
        Ok((failures, page))
    }
}

/// RFC 9457, in the order that Backend.AI has.
#[derive(Serialize)]
struct Problem<'p> {
    r#type: &'p str,
    title: &'p str,
    error_code: &'p str,
    #[serde(skip_serializing_if = "str::is_empty")]
    msg: &'p str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'p str,
}

/// What the reader of an answer makes of it.
enum Form {
    Json(&'static str),
    Page,
}

impl Form {
    fn of(asked: &Asked) -> Self {
        let accept = asked
            .accept
            .as_ref()
            .map_or(&b""[..], HeaderValue::as_bytes);
        let has = |part: &[u8]| accept.windows(part.len()).any(|w| w == part);
        if has(b"application/json") {
            Self::Json("application/json; charset=utf-8")
        } else if has(b"+json") {
            Self::Json("application/problem+json; charset=utf-8")
        } else {
            Self::Page
        }
    }
}

impl HttpFilter for ErrorPages {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some(route) = stream.route_config::<RouteFailure>() else {
            return Flow::Continue;
        };
        let page = self.by_word.get(&*route.name).map(|at| &self.pages[*at]);
        let status = route.status.or(page.and_then(|page| page.status));
        let text = route.message.told(stream.request.headers.get(HOST));
        let failure = Failure {
            named: Some(Arc::clone(&route.name)),
            flag: None,
            ..Failure::local(
                status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                ResponseFlag::NoRoute,
                "route_failure",
            )
        };
        Flow::Fail(Box::new(failure.saying(text.into_owned())))
    }

    fn renders(&self) -> bool {
        true
    }

    fn render(&self, failure: &Failure, asked: &Asked) -> Option<LocalReply> {
        let page = self.page(failure)?;
        // A route that answers with a failure has the last word about it.
        let named = failure.named.is_some();
        let status = match page.status {
            Some(status) if !named => status,
            _ => failure.status,
        };
        let message = match &page.message {
            message if message.text.is_empty() || (named && !failure.body.is_empty()) => {
                Cow::Borrowed(&*failure.body)
            }
            message => message.told(asked.host.as_ref()),
        };
        let title = match page.title.as_str() {
            "" => status.canonical_reason().unwrap_or("Error"),
            title => title,
        };
        let error_code = match page.error_code.as_str() {
            "" => failure.word(),
            code => code,
        };
        let request_id = String::from_utf8_lossy(asked.request_id.as_bytes());
        let mut headers = page.headers(error_code, asked);
        let body = match Form::of(asked) {
            Form::Json(content_type) => {
                let any = HeaderValue::from_static("*");
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any);
                headers.insert(CONTENT_LANGUAGE, Language::English.tag());
                let problem = Problem {
                    r#type: &page.kind,
                    title,
                    error_code,
                    msg: &message,
                    request_id: &request_id,
                };
                serde_json::to_string(&problem).expect("strings only")
            }
            Form::Page => {
                let language = Language::wanted(asked.accept_language.as_ref());
                let html = HeaderValue::from_static("text/html; charset=utf-8");
                headers.insert(CONTENT_TYPE, html);
                headers.insert(CONTENT_LANGUAGE, language.tag());
                // Only a request without a body can be sent again by looking again.
                let reload = (asked.method == Method::GET).then_some(page.retry_after);
                html::page(&html::Page {
                    language,
                    appearance: page.appearance,
                    product: &self.product,
                    title,
                    message: &message,
                    request_id: &request_id,
                    error_code,
                    reload: reload.unwrap_or(0),
                })
            }
        };
        Some(reply(status, headers, body, &asked.method))
    }
}

/// An answer to HEAD says how long that to GET would be, and is empty.
fn reply(status: StatusCode, mut headers: HeaderMap, body: String, method: &Method) -> LocalReply {
    let body = if *method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        String::new()
    } else {
        body
    };
    LocalReply {
        headers,
        // The failure has said how it came about.
        ..LocalReply::new(status, "").saying(body)
    }
}

impl ErrorPages {
    /// The first page that applies.
    fn page(&self, failure: &Failure) -> Option<&Page> {
        let word = failure.word();
        // `upstream_reset_before_response_started{overflow}` is one of several of its kind.
        let kind = word.split('{').next().unwrap_or(word);
        let flag = failure.flag.map_or(word, |flag| flag.short());
        let places = [word, kind, flag, ANY];
        let first = places.iter().filter_map(|word| self.by_word.get(*word));
        first.min().map(|place| &self.pages[*place])
    }
}

impl Page {
    fn headers(&self, error_code: &str, asked: &Asked) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        if let Ok(code) = HeaderValue::from_str(error_code) {
            headers.insert(X_ERROR_CODE, code);
        }
        let id = asked.request_id.as_bytes();
        if !id.is_empty()
            && let Ok(id) = HeaderValue::from_bytes(id)
        {
            headers.insert(X_REQUEST_ID, id);
        }
        if self.retry_after > 0 {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        headers
    }
}

#[cfg(test)]
mod tests;
