//! A format string, ready to be filled.

use std::borrow::Cow;
use std::time::SystemTime;

use causeway_xds::resource::format::{
    Fact, Format, GrpcStatusForm, HeaderChoice, Holder, Moment, Operator, Part as Model, PathOf,
    Point, TimeFormat, Unit,
};
use http::header::{CONTENT_TYPE, HeaderName};

use super::facts::{Facts, Key, Value};
use super::wants::Wants;
use super::{MAX_TEXT, json, time};
use crate::util::percent_decoded;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    /// What a value that is missing leaves.
    missing: &'static str,
    /// The text has values between quotation marks, so that no value may have any.
    quoted: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<str>),
    Command { operator: Op, max: usize },
}

/// A command with its header names looked up.
#[derive(Clone, Debug)]
enum Op {
    Fact(Fact),
    /// Known since the template was made.
    Fixed(Box<str>),
    Request {
        choice: Choice,
        query: bool,
    },
    Response(Choice),
    Trailer(Choice),
    Path {
        query: bool,
        of: PathOf,
    },
    QueryParameter(Box<str>),
    QueryParameters {
        decoded: bool,
    },
    Time {
        moment: Moment,
        format: TimeFormat,
    },
    Span {
        from: Option<Point>,
        to: Option<Point>,
        unit: Unit,
    },
    Metadata {
        of: Holder,
        namespace: Box<str>,
        path: Vec<String>,
    },
    DynamicMetadata {
        namespace: Box<str>,
        path: Vec<String>,
    },
    FilterState {
        key: Box<str>,
        typed: bool,
    },
    GrpcStatus(GrpcStatusForm),
    Nothing,
}

/// The second where the first is not there.
#[derive(Clone, Debug)]
struct Choice {
    first: Option<Key>,
    second: Option<Key>,
}

impl Choice {
    fn compile(model: &HeaderChoice) -> Self {
        Self {
            first: Key::parse(&model.name),
            second: Key::parse(&model.or),
        }
    }

    fn get<'f>(&self, look: impl Fn(&Key) -> Value<'f>) -> Value<'f> {
        for key in self.keys() {
            match look(key) {
                Value::Missing => {}
                found => return found,
            }
        }
        Value::Missing
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.first.iter().chain(&self.second)
    }
}

impl Template {
    /// `missing` stands for a value that is not there: `-` in logs, nothing in headers.
    pub fn compile(format: &Format, missing: &'static str) -> Self {
        let parts = format.0.iter().map(|part| match part {
            Model::Text(text) => Part::Text(text.as_str().into()),
            Model::Command { operator, max } => Part::Command {
                operator: Op::compile(operator),
                max: max.unwrap_or(usize::MAX),
            },
        });
        Self {
            parts: parts.collect(),
            missing,
            quoted: false,
        }
    }

    /// For a text that has values between quotation marks: those in a value become `_`.
    #[must_use]
    pub fn quoted(mut self) -> Self {
        self.quoted = true;
        self
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        for part in &self.parts {
            if let Part::Command { operator, .. } = part {
                operator.note(wants);
            }
        }
    }

    /// The text, no longer than [`MAX_TEXT`].
    pub fn render(&self, facts: &dyn Facts) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.render_into(facts, &mut out);
        out
    }

    /// As [`Template::render`], behind what is there.
    pub fn render_into(&self, facts: &dyn Facts, out: &mut Vec<u8>) {
        let limit = out.len() + MAX_TEXT;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Command { operator, max } => {
                    let from = out.len();
                    write(&operator.value(facts), *max, self.missing, out);
                    if self.quoted {
                        out[from..].iter_mut().for_each(unquote);
                    }
                }
            }
            if out.len() > limit {
                out.truncate(limit);
                return;
            }
        }
    }

    /// The value, of a template that is nothing but one command; JSON keeps its type.
    pub(super) fn single<'f>(&'f self, facts: &'f dyn Facts) -> Option<Value<'f>> {
        match &self.parts[..] {
            [Part::Command { operator, max }] => Some(shorten(operator.value(facts), *max)),
            _ => None,
        }
    }
}

fn unquote(byte: &mut u8) {
    if *byte == b'"' {
        *byte = b'_';
    }
}

fn shorten(value: Value<'_>, max: usize) -> Value<'_> {
    if max == usize::MAX {
        return value;
    }
    match value {
        Value::Text(text) if text.len() > max => {
            let cut = text.floor_char_boundary(max);
            Value::Text(Cow::Owned(text[..cut].to_owned()))
        }
        // Numbers and metadata keep their type.
        other @ (Value::Missing | Value::Text(_) | Value::Number(_) | Value::Metadata(_)) => other,
        other => {
            let mut out = Vec::new();
            other.write(&mut out);
            match out.len() > max {
                true => Value::Bytes(out[..max].to_vec().into()),
                false => other,
            }
        }
    }
}

fn write(value: &Value<'_>, max: usize, missing: &str, out: &mut Vec<u8>) {
    let from = out.len();
    match value {
        Value::Missing => return out.extend_from_slice(missing.as_bytes()),
        value => value.write(out),
    }
    out.truncate(from.saturating_add(max).min(out.len()));
}

impl Op {
    fn compile(model: &Operator) -> Self {
        match model {
            Operator::Fact(Fact::Hostname) => {
                let name = nix::unistd::gethostname().ok();
                let name = name.and_then(|name| name.into_string().ok());
                Self::Fixed(name.unwrap_or_default().into())
            }
            Operator::Fact(fact) => Self::Fact(*fact),
            Operator::RequestHeader(choice) => Self::Request {
                choice: Choice::compile(choice),
                query: true,
            },
            Operator::RequestHeaderWithoutQuery(choice) => Self::Request {
                choice: Choice::compile(choice),
                query: false,
            },
            Operator::ResponseHeader(choice) => Self::Response(Choice::compile(choice)),
            Operator::ResponseTrailer(choice) => Self::Trailer(Choice::compile(choice)),
            Operator::Path { query, of } => Self::Path {
                query: *query,
                of: *of,
            },
            Operator::QueryParameter(name) => Self::QueryParameter(name.as_str().into()),
            Operator::QueryParameters { decoded } => Self::QueryParameters { decoded: *decoded },
            Operator::Time { moment, format } => Self::Time {
                moment: *moment,
                format: format.clone(),
            },
            Operator::Span { from, to, unit } => Self::Span {
                from: *from,
                to: *to,
                unit: *unit,
            },
            Operator::Metadata { of, path } => match path.split_first() {
                Some((namespace, path)) => Self::Metadata {
                    of: *of,
                    namespace: namespace.as_str().into(),
                    path: path.to_vec(),
                },
                None => Self::Nothing,
            },
            Operator::DynamicMetadata(path) => match path.split_first() {
                Some((namespace, path)) => Self::DynamicMetadata {
                    namespace: namespace.as_str().into(),
                    path: path.to_vec(),
                },
                None => Self::Nothing,
            },
            Operator::FilterState { key, typed } => Self::FilterState {
                key: key.as_str().into(),
                typed: *typed,
            },
            Operator::Environment(name) => {
                // A name that the system cannot hold would make `var` panic.
                let held = !name.contains(['=', '\0']);
                let value = held.then(|| std::env::var(name).ok()).flatten();
                Self::Fixed(value.unwrap_or_else(|| "-".to_owned()).into())
            }
            Operator::GrpcStatus(form) => Self::GrpcStatus(*form),
            Operator::Nothing => Self::Nothing,
        }
    }

    fn note(&self, wants: &mut Wants) {
        match self {
            Self::Request { choice, .. } => choice.keys().for_each(|key| wants.request(key)),
            Self::Response(choice) => choice.keys().for_each(|key| wants.response(key)),
            Self::Trailer(choice) => choice.keys().for_each(|key| wants.trailer(key)),
            Self::Path { .. } | Self::QueryParameter(_) | Self::QueryParameters { .. } => {
                wants.request(&Key::Path);
                wants.request(&Key::Field(ORIGINAL_PATH));
            }
            Self::GrpcStatus(_) | Self::Fact(Fact::GrpcStatusNumber) => {
                wants.request(&Key::Field(CONTENT_TYPE));
                wants.response(&Key::Field(GRPC_STATUS));
                wants.trailer(&Key::Field(GRPC_STATUS));
            }
            Self::Span { .. } => wants.points = true,
            Self::Fact(
                Fact::RequestDuration
                | Fact::RequestTxDuration
                | Fact::ResponseDuration
                | Fact::ResponseTxDuration,
            ) => wants.points = true,
            Self::Fact(Fact::RequestHeadersBytes | Fact::ResponseHeadersBytes) => {
                wants.sizes = true;
            }
            Self::Metadata {
                of: Holder::Route, ..
            }
            | Self::Fact(Fact::RouteName) => wants.route = true,
            Self::Fact(Fact::StreamId) => wants.request(&Key::Field(REQUEST_ID)),
            Self::Metadata { .. }
            | Self::DynamicMetadata { .. }
            | Self::FilterState { .. }
            | Self::Fact(_)
            | Self::Fixed(_)
            | Self::Time { .. }
            | Self::Nothing => {}
        }
        wants.anything = true;
    }

    fn value<'f>(&'f self, facts: &'f dyn Facts) -> Value<'f> {
        match self {
            Self::Fact(Fact::GrpcStatusNumber) => grpc_status(facts, GrpcStatusForm::Number),
            Self::Fact(fact) => facts.fact(*fact),
            Self::Fixed(text) => Value::Text(Cow::Borrowed(text)),
            Self::Request { choice, query } => {
                let value = choice.get(|key| facts.request(key));
                if *query { value } else { without_query(value) }
            }
            Self::Response(choice) => choice.get(|key| facts.response(key)),
            Self::Trailer(choice) => choice.get(|key| match key {
                Key::Field(name) => facts.trailer(name),
                _ => Value::Missing,
            }),
            Self::Path { query, of } => {
                let value = path(facts, *of);
                if *query { value } else { without_query(value) }
            }
            Self::QueryParameter(name) => match path(facts, PathOf::Sent).bytes() {
                Some(path) => parameter(path, name),
                None => Value::Missing,
            },
            Self::QueryParameters { decoded } => match path(facts, PathOf::Sent).bytes() {
                Some(path) => parameters(path, *decoded),
                None => Value::Missing,
            },
            Self::Time { moment, format } => {
                let at = match moment {
                    Moment::Start => facts.start(),
                    Moment::Emit => SystemTime::now(),
                };
                Value::Text(Cow::Owned(time::render(at, format)))
            }
            Self::Span { from, to, unit } => span(facts, *from, *to, *unit),
            Self::Metadata {
                of,
                namespace,
                path,
            } => facts
                .metadata(*of, namespace, path)
                .map_or(Value::Missing, |value| Value::Metadata(Cow::Owned(value))),
            Self::DynamicMetadata { namespace, path } => match facts.dynamic_metadata(namespace) {
                Some(all) => all.get(path).map_or(Value::Missing, |value| {
                    Value::Metadata(Cow::Owned(value.clone()))
                }),
                None => Value::Missing,
            },
            Self::FilterState { key, typed } => match facts.filter_state(key) {
                Some(value) if *typed => {
                    let mut out = Vec::new();
                    json::write_quoted(value.as_bytes(), &mut out);
                    Value::Bytes(out.into())
                }
                Some(value) => Value::Text(Cow::Owned(value.to_string())),
                // What is no text has no other form.
                None if *typed => facts
                    .filter_state_object(key)
                    .map_or(Value::Missing, |value| {
                        Value::Metadata(Cow::Owned((*value).clone()))
                    }),
                None => Value::Missing,
            },
            Self::GrpcStatus(form) => grpc_status(facts, *form),
            Self::Nothing => Value::Missing,
        }
    }
}

fn path(facts: &dyn Facts, of: PathOf) -> Value<'_> {
    let original = || facts.request(&Key::Field(ORIGINAL_PATH));
    match of {
        PathOf::Original => original(),
        PathOf::Sent => facts.request(&Key::Path),
        PathOf::OriginalOrSent => match original() {
            Value::Missing => facts.request(&Key::Path),
            found => found,
        },
    }
}

fn without_query(value: Value<'_>) -> Value<'_> {
    let length = |bytes: &[u8]| bytes.iter().position(|b| *b == b'?');
    match value {
        Value::Bytes(Cow::Borrowed(bytes)) => {
            Value::Bytes(bytes[..length(bytes).unwrap_or(bytes.len())].into())
        }
        Value::Bytes(Cow::Owned(mut bytes)) => {
            bytes.truncate(length(&bytes).unwrap_or(bytes.len()));
            Value::Bytes(bytes.into())
        }
        Value::Kept(value) => match length(value.as_bytes()) {
            Some(length) => Value::Bytes(value.as_bytes()[..length].to_vec().into()),
            None => Value::Kept(value),
        },
        other => other,
    }
}

fn query(path: &[u8]) -> Option<&[u8]> {
    let at = path.iter().position(|b| *b == b'?')?;
    Some(&path[at + 1..])
}

/// The first of that name, as it was sent.
fn parameter(path: &[u8], name: &str) -> Value<'static> {
    let mut pairs = query(path).unwrap_or_default().split(|b| *b == b'&');
    let found = pairs.find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (&pair[..at] == name.as_bytes()).then(|| pair.get(at + 1..).unwrap_or_default())
    });
    match found {
        Some(value) => Value::Bytes(value.to_vec().into()),
        None => Value::Missing,
    }
}

fn parameters(path: &[u8], decoded: bool) -> Value<'static> {
    match query(path) {
        None | Some([]) => Value::Missing,
        Some(query) if decoded => Value::Bytes(percent_decoded(query).into()),
        Some(query) => Value::Bytes(query.to_vec().into()),
    }
}

fn span(facts: &dyn Facts, from: Option<Point>, to: Option<Point>, unit: Unit) -> Value<'static> {
    let at = |point: Option<Point>| facts.point(point?);
    let Some(span) = at(from)
        .zip(at(to))
        .and_then(|(from, to)| to.checked_sub(from))
    else {
        return Value::Missing;
    };
    let count = match unit {
        Unit::Milliseconds => span.as_millis(),
        Unit::Microseconds => span.as_micros(),
        Unit::Nanoseconds => span.as_nanos(),
    };
    Value::Number(u64::try_from(count).unwrap_or(u64::MAX))
}

/// In the order of their numbers, in both forms.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The number of the gRPC status of an answer: from its trailers, its head, or the HTTP status.
pub fn grpc_status_number(facts: &dyn Facts) -> Option<u64> {
    let number = |value: Value<'_>| std::str::from_utf8(value.bytes()?).ok()?.parse().ok();
    let told = number(facts.trailer(&GRPC_STATUS))
        .or_else(|| number(facts.response(&Key::Field(GRPC_STATUS))));
    told.or_else(|| match facts.fact(Fact::ResponseCode) {
        Value::Number(code) => Some(match code {
            200 => 0,
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        }),
        _ => None,
    })
}

fn grpc_status(facts: &dyn Facts, form: GrpcStatusForm) -> Value<'static> {
    let kind = facts.request(&Key::Field(CONTENT_TYPE));
    let is_grpc = kind.bytes().is_some_and(|kind| {
        kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';'))
    });
    let Some(number) = is_grpc.then(|| grpc_status_number(facts)).flatten() else {
        return Value::Missing;
    };
    let known = usize::try_from(number)
        .ok()
        .and_then(|n| GRPC_STATUSES.get(n));
    match (form, known) {
        (GrpcStatusForm::Number, _) => Value::Number(number),
        (GrpcStatusForm::Camel, Some((camel, _))) => Value::word(camel),
        (GrpcStatusForm::Snake, Some((_, snake))) => Value::word(snake),
        (_, None) => Value::shown(Some(number)),
    }
}
