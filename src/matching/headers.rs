//! The fields of a message, and what they must be.

use std::borrow::Cow;
use std::fmt;

use causeway_xds::resource::matcher::{HeaderMatch, HeaderMatcher};
use http::header::{HOST, HeaderMap, HeaderValue, ValueIter};
use http::request::Parts;

use super::text::Test;

/// The fields of a message.
pub trait Headers {
    fn values<'h>(&'h self, name: &str) -> Values<'h>;

    /// The first value.
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }
}

/// The values of one field, which may be a pseudo header.
pub enum Values<'h> {
    One(Option<&'h [u8]>),
    All(ValueIter<'h, HeaderValue>),
}

impl<'h> Values<'h> {
    pub fn of(headers: &'h HeaderMap, name: &str) -> Self {
        Self::All(headers.get_all(name).into_iter())
    }
}

impl<'h> Iterator for Values<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        match self {
            Self::One(value) => value.take(),
            Self::All(values) => values.next().map(HeaderValue::as_bytes),
        }
    }
}

/// What a header must be.
#[derive(Debug)]
pub struct HeaderCondition {
    name: String,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

/// The values of a field joined by commas; `None` when there is none.
pub fn joined(mut values: Values<'_>) -> Option<Cow<'_, [u8]>> {
    let mut all = Cow::Borrowed(values.next()?);
    for value in values {
        let all = all.to_mut();
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(all)
}

/// The first value of a parameter, as it is written: Envoy decodes neither names nor values here.
pub fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q [u8]> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

/// The first value of a cookie in one `Cookie` header, without the quotes around it.
pub fn cookie_value<'c>(cookies: &'c [u8], name: &str) -> Option<&'c [u8]> {
    cookies.split(|b| *b == b';').find_map(|pair| {
        let equals = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let inner = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        (key == name.as_bytes()).then(|| inner.unwrap_or(value))
    })
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.invert { "not: " } else { "" };
        write!(f, "{not}header {:?} {}", self.name, self.test)?;
        match self.missing_is_empty {
            true => f.write_str(" (missing is empty)"),
            false => Ok(()),
        }
    }
}

impl HeaderCondition {
    pub fn compile(model: &HeaderMatcher) -> Self {
        let test = match &model.value {
            HeaderMatch::Present => Test::Present,
            HeaderMatch::Absent => Test::Absent,
            HeaderMatch::Range { start, end } => Test::Range {
                start: *start,
                end: *end,
            },
            HeaderMatch::String(matcher) => Test::string(matcher),
        };
        Self {
            name: model.name.clone(),
            test,
            invert: model.invert,
            missing_is_empty: model.treat_missing_as_empty,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Each value counts by itself, and one that passes is enough.
    pub fn matches(&self, headers: &impl Headers) -> bool {
        self.holds(headers.values(&self.name))
    }

    /// Whether it matches these values of its field.
    pub fn holds<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        let first = values.next();
        let hit = match (&self.test, first) {
            (Test::Present, value) => value.is_some(),
            (Test::Absent, value) => value.is_none(),
            (test, Some(first)) => test.matches(first) || values.any(|value| test.matches(value)),
            (test, None) if self.missing_is_empty => test.matches(b""),
            // A missing header never matches a value test, inverted or not (Envoy 1.40).
            (_, None) => return false,
        };
        hit != self.invert
    }
}

/// Header matchers of which one is enough.
#[derive(Debug, Default)]
pub struct AnyHeader(Vec<HeaderCondition>);

impl AnyHeader {
    pub fn compile(models: &[HeaderMatcher]) -> Self {
        Self(models.iter().map(HeaderCondition::compile).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, headers: &impl Headers) -> bool {
        self.0.iter().any(|matcher| matcher.matches(headers))
    }
}

/// The fields of a request, and its pseudo headers.
pub struct RequestHead<'r>(pub &'r Parts);

impl Headers for RequestHead<'_> {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        request_values(self.0, name)
    }
}

/// The values of one field of a request, which may be a pseudo header.
pub fn request_values<'h>(request: &'h Parts, name: &str) -> Values<'h> {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = request;
    match name {
        ":method" => Values::One(Some(method.as_str().as_bytes())),
        ":path" => Values::One(uri.path_and_query().map(|p| p.as_str().as_bytes())),
        ":authority" | "host" => Values::One(headers.get(HOST).map(HeaderValue::as_bytes)),
        ":scheme" => Values::One(uri.scheme_str().map(str::as_bytes)),
        _ => Values::of(headers, name),
    }
}
