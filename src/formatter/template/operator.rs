//! The commands of a format, and their values.

use std::borrow::Cow;
use std::time::SystemTime;

use causeway_xds::resource::format::{
    Fact, GrpcStatusForm, HeaderChoice, Holder, Moment, Operator, PathOf, Point, TimeFormat, Unit,
};
use http::header::{CONTENT_TYPE, HeaderName};

use super::super::grpc_status::{GRPC_STATUS, grpc_status};
use crate::formatter::facts::{Facts, Key, Value};
use crate::formatter::wants::Wants;
use crate::formatter::{json, time};
use crate::util::percent_decoded;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A command with its header names looked up.
#[derive(Clone, Debug)]
pub(super) enum Op {
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
pub(super) struct Choice {
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

impl Op {
    pub(super) fn compile(model: &Operator) -> Self {
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

    pub(super) fn note(&self, wants: &mut Wants) {
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

    pub(super) fn value<'f>(&'f self, facts: &'f dyn Facts) -> Value<'f> {
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
