//! Matching one request against one route.

use causeway_xds::resource::matcher::{
    CookieMatcher, HeaderMatch, HeaderMatcher, QueryMatch, QueryMatcher,
};
use causeway_xds::resource::route::{PathMatch, RouteMatch};
use http::header::{HeaderMap, HeaderValue, ValueIter};
use regex::Regex;

use super::RequestView;
use super::fraction::Share;
use super::text::{Test, same, starts};
use crate::runtime::layers::Layers;

#[derive(Debug)]
pub struct RouteMatcher {
    path: PathMatcher,
    headers: Vec<HeaderCondition>,
    query: Vec<CompiledQuery>,
    /// What few routes ask for.
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
struct Rare {
    cookies: Vec<CompiledCookie>,
    share: Option<Share>,
    grpc: bool,
}

/// What a query parameter must be.
#[derive(Debug)]
pub(super) struct CompiledQuery {
    name: String,
    test: Test,
}

#[derive(Debug)]
struct CompiledCookie {
    name: String,
    test: Test,
    invert: bool,
}

#[derive(Debug)]
enum PathMatcher {
    /// The prefix `/`, in nearly every route of many: nothing to fetch from memory for it.
    Root,
    Prefix {
        text: String,
        ignore_case: bool,
    },
    Exact {
        text: String,
        ignore_case: bool,
    },
    SeparatedPrefix {
        text: String,
        ignore_case: bool,
    },
    Regex(Regex),
    Connect,
}

/// What a header must be.
#[derive(Debug)]
pub struct HeaderCondition {
    name: String,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

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

/// Matches the whole text, as RE2's full match does. The pattern was checked to compile when the
/// resource was decoded, so the fallback (which matches nothing) is never reached.
pub fn whole(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$"))
        .unwrap_or_else(|_| Regex::new("[^\\s\\S]").expect("a class that is empty"))
}

impl RouteMatcher {
    pub fn compile(model: &RouteMatch, layers: &Layers) -> Self {
        let ignore_case = !model.case_sensitive;
        let path = match &model.path {
            PathMatch::Prefix(text) if text == "/" => PathMatcher::Root,
            PathMatch::Prefix(text) => PathMatcher::Prefix {
                text: text.clone(),
                ignore_case,
            },
            PathMatch::Exact(text) => PathMatcher::Exact {
                text: text.clone(),
                ignore_case,
            },
            PathMatch::SeparatedPrefix(text) => PathMatcher::SeparatedPrefix {
                text: text.clone(),
                ignore_case,
            },
            PathMatch::Regex(pattern) => PathMatcher::Regex(whole(pattern)),
            PathMatch::Template(template) => PathMatcher::Regex(whole(&template.pattern)),
            PathMatch::Connect => PathMatcher::Connect,
        };
        let share = model.fraction.as_ref().map(|f| Share::compile(f, layers));
        let rare = share.is_some() || model.grpc || !model.cookies.is_empty();
        Self {
            path,
            headers: model.headers.iter().map(HeaderCondition::compile).collect(),
            query: model.query.iter().map(CompiledQuery::compile).collect(),
            rare: rare.then(|| {
                Box::new(Rare {
                    cookies: model.cookies.iter().map(CompiledCookie::compile).collect(),
                    share,
                    grpc: model.grpc,
                })
            }),
        }
    }

    pub fn matches(&self, request: &impl RequestView) -> bool {
        self.path.matches(request.path()) && self.matches_rest(request)
    }

    /// As [`RouteMatcher::matches`], for a request without a path.
    pub fn matches_connect(&self, request: &impl RequestView) -> bool {
        matches!(self.path, PathMatcher::Connect) && self.matches_rest(request)
    }

    fn matches_rest(&self, request: &impl RequestView) -> bool {
        self.headers.iter().all(|h| h.matches(request))
            && self.query.iter().all(|q| q.matches(request.query()))
            && self.rare.as_ref().is_none_or(|rare| rare.matches(request))
    }
}

impl Rare {
    fn matches(&self, request: &impl RequestView) -> bool {
        (!self.grpc || is_grpc(request))
            && self.cookies.iter().all(|cookie| cookie.matches(request))
            && self
                .share
                .as_ref()
                .is_none_or(|share| share.takes(request.random()))
    }
}

impl PathMatcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Root => path.starts_with('/'),
            Self::Prefix { text, ignore_case } => {
                starts(path.as_bytes(), text.as_bytes(), *ignore_case)
            }
            Self::Exact { text, ignore_case } => {
                same(path.as_bytes(), text.as_bytes(), *ignore_case)
            }
            Self::SeparatedPrefix { text, ignore_case } => {
                starts(path.as_bytes(), text.as_bytes(), *ignore_case)
                    && matches!(path.as_bytes().get(text.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::Connect => false,
        }
    }
}

/// As Envoy tells: `application/grpc`, alone or with the name of a coding behind a plus sign.
fn is_grpc(request: &impl RequestView) -> bool {
    let kind = request.header("content-type");
    let rest = kind.and_then(|k| k.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
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

impl CompiledQuery {
    pub(super) fn compile(model: &QueryMatcher) -> Self {
        Self {
            name: model.name.clone(),
            test: match &model.value {
                QueryMatch::Present => Test::Present,
                QueryMatch::Absent => Test::Absent,
                QueryMatch::String(matcher) => Test::string(matcher),
            },
        }
    }

    pub(super) fn matches(&self, query: &str) -> bool {
        match (&self.test, query_value(query, &self.name)) {
            (Test::Absent, value) => value.is_none(),
            (test, Some(value)) => test.matches(value),
            (_, None) => false,
        }
    }
}

impl CompiledCookie {
    fn compile(model: &CookieMatcher) -> Self {
        Self {
            name: model.name.clone(),
            test: Test::string(&model.value),
            invert: model.invert,
        }
    }

    /// A cookie that is not there matches an inverted test only.
    fn matches(&self, request: &impl RequestView) -> bool {
        let mut cookies = request.values("cookie");
        let value = cookies.find_map(|c| cookie_value(c, &self.name));
        value.is_some_and(|value| self.test.matches(value)) != self.invert
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

#[cfg(test)]
mod tests;
