//! Matching one request against one route.

use causeway_xds::resource::matcher::{CookieMatcher, QueryMatch, QueryMatcher};
use causeway_xds::resource::route::{PathMatch, RouteMatch};
use regex::Regex;

use super::RequestView;
use super::fraction::Share;
use crate::matching::text::{Test, same, starts};
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
