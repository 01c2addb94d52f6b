//! Matching one request against one route.

use std::fmt;

use causeway_xds::resource::matcher::{CookieMatcher, QueryMatch, QueryMatcher};
use causeway_xds::resource::route::{CertificateMatch, PathMatch, RouteMatch};
use regex::Regex;

use super::RequestView;
use super::fraction::Share;
use crate::matching::text::{Test, same, starts};
use crate::matching::value::MetadataCondition;
use crate::runtime::layers::Layers;

pub use crate::matching::headers::{
    AnyHeader, HeaderCondition, Headers, Values, cookie_value, query_value,
};

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
    certificate: CertificateMatch,
    metadata: Vec<MetadataCondition>,
    states: Vec<(String, Test)>,
}

/// Part of what a route asks of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// In words.
    pub text: String,
    /// Whether the request meets it.
    pub holds: bool,
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
        let rare = share.is_some()
            || model.grpc
            || !model.cookies.is_empty()
            || !model.metadata.is_empty()
            || !model.filter_state.is_empty()
            || model.certificate != CertificateMatch::default();
        Self {
            path,
            headers: model.headers.iter().map(HeaderCondition::compile).collect(),
            query: model.query.iter().map(CompiledQuery::compile).collect(),
            rare: rare.then(|| {
                Box::new(Rare {
                    cookies: model.cookies.iter().map(CompiledCookie::compile).collect(),
                    share,
                    grpc: model.grpc,
                    certificate: model.certificate,
                    metadata: model
                        .metadata
                        .iter()
                        .map(MetadataCondition::compile)
                        .collect(),
                    states: model
                        .filter_state
                        .iter()
                        .map(|state| (state.key.clone(), Test::string(&state.matcher)))
                        .collect(),
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

    /// Each condition in words, and whether a request meets it.
    pub fn conditions(&self, request: &impl RequestView) -> Vec<Condition> {
        let mut all = vec![Condition {
            text: self.path.to_string(),
            holds: match request.is_connect() {
                true => matches!(self.path, PathMatcher::Connect),
                false => self.path.matches(request.path()),
            },
        }];
        let mut add = |text: String, holds| all.push(Condition { text, holds });
        for header in &self.headers {
            add(header.to_string(), header.matches(request));
        }
        for query in &self.query {
            let text = format!("query parameter {:?} {}", query.name, query.test);
            add(text, query.matches(request.query()));
        }
        let Some(rare) = &self.rare else {
            return all;
        };
        if rare.grpc {
            add("request is gRPC".to_owned(), is_grpc(request));
        }
        for cookie in &rare.cookies {
            let not = if cookie.invert { "not: " } else { "" };
            let text = format!("{not}cookie {:?} {}", cookie.name, cookie.test);
            add(text, cookie.matches(request));
        }
        if rare.certificate != CertificateMatch::default() {
            let text = format!("client certificate: {:?}", rare.certificate);
            add(text, fits(rare.certificate, request.certificate()));
        }
        for condition in &rare.metadata {
            let text = format!("dynamic metadata {:?}", condition.namespace);
            add(text, has(condition, request));
        }
        for (key, test) in &rare.states {
            let text = format!("filter state {key:?} {test}");
            add(text, state_fits(key, test, request));
        }
        if let Some(share) = &rare.share {
            let text = "request is in the route's share (drawn anew for each request)";
            add(text.to_owned(), share.takes(request.random()));
        }
        all
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
            && fits(self.certificate, request.certificate())
            && self.cookies.iter().all(|cookie| cookie.matches(request))
            && self
                .metadata
                .iter()
                .all(|condition| has(condition, request))
            && (self.states.iter()).all(|(key, test)| state_fits(key, test, request))
            && self
                .share
                .as_ref()
                .is_none_or(|share| share.takes(request.random()))
    }
}

fn has(condition: &MetadataCondition, request: &impl RequestView) -> bool {
    condition.holds(request.metadata(&condition.namespace).as_deref())
}

/// What is not there fits nothing.
fn state_fits(key: &str, test: &Test, request: &impl RequestView) -> bool {
    let state = request.filter_state(key);
    state.is_some_and(|state| test.matches(state.as_bytes()))
}

/// Whether a client's certificate is one that is asked for: as [`RequestView::certificate`].
fn fits(asked: CertificateMatch, shown: Option<bool>) -> bool {
    let is = |asked: Option<bool>, really| asked.is_none_or(|asked| asked == really);
    is(asked.presented, shown.is_some()) && is(asked.validated, shown == Some(true))
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

impl fmt::Display for PathMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, text, ignore_case) = match self {
            Self::Root => ("begins with", "/", false),
            Self::Prefix { text, ignore_case } => ("begins with", text.as_str(), *ignore_case),
            Self::Exact { text, ignore_case } => ("is", text.as_str(), *ignore_case),
            Self::SeparatedPrefix { text, ignore_case } => (
                "is or continues behind a slash",
                text.as_str(),
                *ignore_case,
            ),
            Self::Regex(regex) => ("matches", regex.as_str(), false),
            Self::Connect => return f.write_str("method is CONNECT"),
        };
        let case = if ignore_case { " in any case" } else { "" };
        write!(f, "path {what} {text:?}{case}")
    }
}

/// As Envoy tells: `application/grpc`, alone or with the name of a coding behind a plus sign.
fn is_grpc(request: &impl RequestView) -> bool {
    let kind = request.header("content-type");
    let rest = kind.and_then(|k| k.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
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

#[cfg(test)]
mod tests;
