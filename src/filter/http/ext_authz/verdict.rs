//! What the service has decided.

use bytes::Bytes;
use causeway_xds::proto::core::{HeaderValueOption, QueryParameter};
use causeway_xds::proto::envoy::service::auth::v3::check_response::HttpResponse;
use causeway_xds::proto::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{AppendAction, asked_header, metadata_value};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri};

use super::config::HttpService;
use crate::filter::query::set_path;
use crate::route::edits::put;
use crate::util::percent_decoded;

#[derive(Debug)]
pub enum Verdict {
    Allowed(Box<Allowed>),
    Denied(Box<Denied>),
    /// The service cannot say; it may have said how to tell the client.
    Error(Option<Box<Denied>>),
    /// It asks for what cannot be done.
    Invalid,
}

/// What becomes of a request that may pass.
#[derive(Debug, Default)]
pub struct Allowed {
    pub headers: Vec<Edit>,
    pub remove: Vec<HeaderName>,
    pub query_set: Vec<(String, String)>,
    pub query_remove: Vec<String>,
    /// For the client.
    pub response: Vec<Edit>,
    pub metadata: Vec<(String, MetadataValue)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub target: Target,
    pub value: HeaderValue,
    pub how: AppendAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Field(HeaderName),
    Path,
    Method,
}

#[derive(Debug)]
pub struct Denied {
    pub status: StatusCode,
    pub headers: Vec<Edit>,
    pub body: Bytes,
    pub metadata: Vec<(String, MetadataValue)>,
}

/// A comma separated list of headers that the upstream is not to see.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

impl Verdict {
    pub fn of_http(response: Response<Bytes>, service: &HttpService) -> Self {
        let (head, body) = response.into_parts();
        if head.status.is_server_error() {
            return Self::Error(None);
        }
        let edit = |name: &HeaderName, value: &HeaderValue, how| Edit {
            target: Target::Field(name.clone()),
            value: value.clone(),
            how,
        };
        let mut metadata = Vec::new();
        for (name, value) in &head.headers {
            if service.metadata.matches(name.as_str()) {
                let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                metadata.push((name.as_str().to_owned(), MetadataValue::Text(text)));
            }
        }
        if head.status != StatusCode::OK {
            let told = head.headers.iter().filter(|(name, _)| {
                **name != HOST && !is_framing(name) && service.tells_client(name.as_str())
            });
            return Self::Denied(Box::new(Denied {
                status: head.status,
                headers: told
                    .map(|(n, v)| edit(n, v, AppendAction::AppendOrAdd))
                    .collect(),
                body,
                metadata,
            }));
        }
        let mut allowed = Allowed {
            metadata,
            ..Allowed::default()
        };
        for name in head.headers.keys() {
            for (index, value) in head.headers.get_all(name).iter().enumerate() {
                if is_framing(name) {
                    continue;
                }
                // The first replaces what the client has sent.
                let how = if index == 0 {
                    AppendAction::OverwriteOrAdd
                } else {
                    AppendAction::AppendOrAdd
                };
                if service.upstream.matches(name.as_str()) {
                    allowed.headers.push(edit(name, value, how));
                }
                if service.upstream_append.matches(name.as_str()) {
                    allowed
                        .headers
                        .push(edit(name, value, AppendAction::AppendOrAdd));
                }
                if service.client_on_success.matches(name.as_str()) {
                    allowed
                        .response
                        .push(edit(name, value, AppendAction::AppendOrAdd));
                }
            }
        }
        for list in head.headers.get_all(TO_REMOVE) {
            let names = list.to_str().unwrap_or_default().split(',');
            allowed.remove.extend(names.filter_map(removable));
        }
        Self::Allowed(Box::new(allowed))
    }

    /// `strict`: what cannot be done spoils the whole answer.
    pub fn of_grpc(response: CheckResponse, strict: bool) -> Self {
        let CheckResponse {
            status,
            dynamic_metadata,
            http_response,
        } = response;
        let metadata = dynamic_metadata.map(fields).unwrap_or_default();
        let ok = status.is_none_or(|status| status.code == 0);
        match (ok, http_response) {
            (true, Some(HttpResponse::OkResponse(message))) => {
                allowed(message, metadata, strict).map_or(Self::Invalid, Self::Allowed)
            }
            (true, _) => Self::Allowed(Box::new(Allowed {
                metadata,
                ..Allowed::default()
            })),
            (false, Some(HttpResponse::ErrorResponse(message))) => {
                let denied = denied(message, metadata, strict);
                denied.map_or(Self::Invalid, |denied| Self::Error(Some(denied)))
            }
            (false, Some(HttpResponse::DeniedResponse(message))) => {
                denied(message, metadata, strict).map_or(Self::Invalid, Self::Denied)
            }
            (false, _) => Self::Denied(Box::new(Denied {
                status: StatusCode::FORBIDDEN,
                headers: Vec::new(),
                body: Bytes::new(),
                metadata,
            })),
        }
    }
}

/// Whether a request is still one without this field.
pub fn is_strippable(name: &HeaderName) -> bool {
    *name != HOST && !is_framing(name)
}

/// Fields that belong to the connection to the service.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length" | "transfer-encoding" | "connection" | "keep-alive" | "upgrade"
    )
}

/// The fields of a structure.
pub fn fields(message: causeway_xds::proto::Struct) -> Vec<(String, MetadataValue)> {
    match metadata_value(message) {
        MetadataValue::Object(fields) => fields,
        _ => Vec::new(),
    }
}

#[allow(deprecated, reason = "the older field for metadata still wins")]
fn allowed(
    message: OkHttpResponse,
    metadata: Vec<(String, MetadataValue)>,
    strict: bool,
) -> Option<Box<Allowed>> {
    let OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = message;
    let set = query_parameters_to_set.into_iter();
    Some(Box::new(Allowed {
        headers: edits(headers, strict, Side::Request)?,
        remove: headers_to_remove
            .iter()
            .filter_map(|n| removable(n))
            .collect(),
        query_set: set
            .map(|QueryParameter { key, value }| (key, value))
            .collect(),
        query_remove: query_parameters_to_remove,
        response: edits(response_headers_to_add, strict, Side::Response)?,
        metadata: dynamic_metadata.map_or(metadata, fields),
    }))
}

fn denied(
    message: DeniedHttpResponse,
    metadata: Vec<(String, MetadataValue)>,
    strict: bool,
) -> Option<Box<Denied>> {
    let DeniedHttpResponse {
        status,
        headers,
        body,
    } = message;
    let status = status.map_or(0, |status| status.code);
    let status = u16::try_from(status).ok().filter(|code| *code >= 200);
    Some(Box::new(Denied {
        status: status
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(StatusCode::FORBIDDEN),
        headers: edits(headers, strict, Side::Response)?,
        body: body.into(),
        metadata,
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

fn edits(options: Vec<HeaderValueOption>, strict: bool, side: Side) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    for option in options {
        match edit(option, side) {
            Some(edit) => edits.push(edit),
            None if strict => return None,
            None => {}
        }
    }
    Some(edits)
}

fn edit(option: HeaderValueOption, side: Side) -> Option<Edit> {
    let (name, value, how) = asked_header(option)?;
    let target = match name.as_str() {
        ":path" if side == Side::Request => Target::Path,
        ":method" if side == Side::Request => Target::Method,
        ":authority" | "host" if side == Side::Request => Target::Field(HOST),
        name => Target::Field(name.parse().ok().filter(|name| !is_framing(name))?),
    };
    Some(Edit {
        target,
        value: HeaderValue::from_bytes(&value).ok()?,
        how,
    })
}

/// What makes a request one is not removed.
fn removable(name: &str) -> Option<HeaderName> {
    let name: HeaderName = name.trim().parse().ok()?;
    (name != HOST).then_some(name)
}

impl Allowed {
    /// Whether the request is another one then.
    pub fn changes_request(&self) -> bool {
        !self.headers.is_empty()
            || !self.remove.is_empty()
            || !self.query_set.is_empty()
            || !self.query_remove.is_empty()
    }

    pub fn apply(&self, request: &mut Parts) {
        for edit in &self.headers {
            match &edit.target {
                Target::Field(name) => edit.apply_to(name, &mut request.headers),
                Target::Path => {
                    if let Ok(path) = PathAndQuery::try_from(edit.value.as_bytes()) {
                        set_path(&mut request.uri, path);
                    }
                }
                Target::Method => {
                    if let Ok(method) = Method::from_bytes(edit.value.as_bytes()) {
                        request.method = method;
                    }
                }
            }
        }
        for name in &self.remove {
            request.headers.remove(name);
        }
        if !self.query_set.is_empty() || !self.query_remove.is_empty() {
            self.edit_query(&mut request.uri);
        }
    }

    fn edit_query(&self, uri: &mut Uri) {
        let named = |pair: &&str, name: &String| {
            let key = pair.split('=').next().unwrap_or_default();
            percent_decoded(key.as_bytes()) == name.as_bytes()
        };
        let set = self.query_set.iter().map(|(name, _)| name);
        let gone: Vec<&String> = set.chain(&self.query_remove).collect();
        let query = uri.query().unwrap_or_default();
        let kept = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !gone.iter().any(|name| named(pair, name)));
        let mut pairs: Vec<String> = kept.map(str::to_owned).collect();
        let set = self.query_set.iter();
        let set = set.filter(|(name, _)| !self.query_remove.contains(name));
        pairs.extend(set.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))));
        let path = match pairs.is_empty() {
            true => uri.path().to_owned(),
            false => format!("{}?{}", uri.path(), pairs.join("&")),
        };
        if let Ok(path) = PathAndQuery::try_from(path) {
            set_path(uri, path);
        }
    }
}

impl Edit {
    pub fn apply(&self, headers: &mut HeaderMap) {
        if let Target::Field(name) = &self.target {
            self.apply_to(name, headers);
        }
    }

    fn apply_to(&self, name: &HeaderName, headers: &mut HeaderMap) {
        put(headers, name.clone(), self.value.clone(), self.how);
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
