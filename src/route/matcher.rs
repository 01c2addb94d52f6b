//! Matching one request against one route.

use std::borrow::Cow;

use causeway_xds::resource::matcher::{
    HeaderMatch, HeaderMatcher, QueryMatch, QueryMatcher, StringMatcher, StringPattern,
};
use causeway_xds::resource::route::{PathMatch, RouteMatch};
use regex::Regex;
use regex::bytes::Regex as BytesRegex;

use super::RequestView;

#[derive(Debug)]
pub struct RouteMatcher {
    path: PathMatcher,
    headers: Vec<HeaderCondition>,
    query: Vec<CompiledQuery>,
    grpc: bool,
}

/// What a query parameter must be.
#[derive(Debug)]
struct CompiledQuery {
    name: String,
    test: HeaderTest,
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
}

/// What a header must be.
#[derive(Debug)]
pub struct HeaderCondition {
    name: String,
    test: HeaderTest,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Debug)]
enum HeaderTest {
    Present,
    Absent,
    Range { start: i64, end: i64 },
    Exact { text: Vec<u8>, ignore_case: bool },
    Prefix { text: Vec<u8>, ignore_case: bool },
    Suffix { text: Vec<u8>, ignore_case: bool },
    Contains { text: Vec<u8>, ignore_case: bool },
    Regex(BytesRegex),
}

/// Matches the whole text, as RE2's full match does. The pattern was checked to compile when the
/// resource was decoded, so the fallback (which matches nothing) is never reached.
pub fn whole(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$"))
        .unwrap_or_else(|_| Regex::new("[^\\s\\S]").expect("a class that is empty"))
}

fn whole_bytes(pattern: &str) -> BytesRegex {
    BytesRegex::new(&format!("^(?:{pattern})$"))
        .unwrap_or_else(|_| BytesRegex::new("[^\\s\\S]").expect("a class that is empty"))
}

fn starts(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| same(head, prefix, ignore_case))
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

impl RouteMatcher {
    pub fn compile(model: &RouteMatch) -> Self {
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
        };
        Self {
            path,
            headers: model.headers.iter().map(HeaderCondition::compile).collect(),
            query: model.query.iter().map(CompiledQuery::compile).collect(),
            grpc: model.grpc,
        }
    }

    pub fn matches(&self, request: &impl RequestView) -> bool {
        self.path.matches(request.path())
            && self.headers.iter().all(|h| h.matches(request))
            && self.query.iter().all(|q| q.matches(request.query()))
            && (!self.grpc || is_grpc(request))
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
        }
    }
}

/// As Envoy tells: `application/grpc`, alone or with the name of a coding behind a plus sign.
fn is_grpc(request: &impl RequestView) -> bool {
    let kind = request.header("content-type");
    let rest = kind
        .as_deref()
        .and_then(|k| k.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// The first value of a parameter, as it is written: Envoy decodes neither names nor values here.
fn first_value<'q>(query: &'q str, name: &str) -> Option<&'q [u8]> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value.as_bytes())
    })
}

impl CompiledQuery {
    fn compile(model: &QueryMatcher) -> Self {
        Self {
            name: model.name.clone(),
            test: match &model.value {
                QueryMatch::Present => HeaderTest::Present,
                QueryMatch::Absent => HeaderTest::Absent,
                QueryMatch::String(matcher) => HeaderTest::string(matcher),
            },
        }
    }

    fn matches(&self, query: &str) -> bool {
        match (&self.test, first_value(query, &self.name)) {
            (HeaderTest::Absent, value) => value.is_none(),
            (test, Some(value)) => test.matches(value),
            (_, None) => false,
        }
    }
}

impl HeaderCondition {
    pub fn compile(model: &HeaderMatcher) -> Self {
        let test = match &model.value {
            HeaderMatch::Present => HeaderTest::Present,
            HeaderMatch::Absent => HeaderTest::Absent,
            HeaderMatch::Range { start, end } => HeaderTest::Range {
                start: *start,
                end: *end,
            },
            HeaderMatch::String(matcher) => HeaderTest::string(matcher),
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

    pub fn matches(&self, request: &impl RequestView) -> bool {
        let value = request.header(&self.name);
        match (&self.test, value) {
            (HeaderTest::Present, value) => value.is_some() != self.invert,
            (HeaderTest::Absent, value) => value.is_none() != self.invert,
            (test, Some(value)) => test.matches(&value) != self.invert,
            (test, None) if self.missing_is_empty => test.matches(b"") != self.invert,
            // A missing header never matches a value test, inverted or not (Envoy 1.40).
            (_, None) => false,
        }
    }
}

impl HeaderTest {
    fn string(matcher: &StringMatcher) -> Self {
        let ignore_case = matcher.ignore_case;
        match &matcher.pattern {
            StringPattern::Exact(t) => Self::Exact {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Prefix(t) => Self::Prefix {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Suffix(t) => Self::Suffix {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Contains(t) => Self::Contains {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Regex(pattern) => Self::Regex(whole_bytes(pattern)),
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok())
                .is_some_and(|n| (*start..*end).contains(&n)),
            Self::Exact { text, ignore_case } => same(value, text, *ignore_case),
            Self::Prefix { text, ignore_case } => starts(value, text, *ignore_case),
            Self::Suffix { text, ignore_case } => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|from| same(&value[from..], text, *ignore_case)),
            Self::Contains { text, ignore_case } => {
                text.is_empty()
                    || value
                        .windows(text.len())
                        .any(|part| same(part, text, *ignore_case))
            }
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Joins the values of a repeated header with a comma, without copying a single one.
pub fn joined<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request(&'static str, Vec<(&'static str, &'static str)>);
    impl RequestView for Request {
        fn path(&self) -> &str {
            self.0.split('?').next().unwrap_or_default()
        }
        fn query(&self) -> &str {
            self.0.split_once('?').map_or("", |(_, query)| query)
        }
        fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            joined(
                self.1
                    .iter()
                    .filter(|(n, _)| *n == name)
                    .map(|(_, v)| v.as_bytes()),
            )
        }
    }

    fn path(path: PathMatch, case_sensitive: bool) -> RouteMatcher {
        RouteMatcher::compile(&RouteMatch {
            path,
            case_sensitive,
            headers: vec![],
            query: vec![],
            grpc: false,
        })
    }

    fn header(value: HeaderMatch, invert: bool, missing: bool) -> RouteMatcher {
        RouteMatcher::compile(&RouteMatch {
            path: PathMatch::Prefix(String::new()),
            case_sensitive: true,
            headers: vec![HeaderMatcher {
                name: "x".into(),
                value,
                invert,
                treat_missing_as_empty: missing,
            }],
            query: vec![],
            grpc: false,
        })
    }

    #[test]
    fn paths_match_as_text() {
        let hit = |m: &RouteMatcher, p: &'static str| m.matches(&Request(p, vec![]));
        let prefix = path(PathMatch::Prefix("/api".into()), true);
        assert!(hit(&prefix, "/api") && hit(&prefix, "/apix") && !hit(&prefix, "/API"));
        let exact = path(PathMatch::Exact("/Mixed".into()), false);
        assert!(hit(&exact, "/mIXED") && !hit(&exact, "/mixed/"));
        let separated = path(PathMatch::SeparatedPrefix("/a/b".into()), true);
        assert!(hit(&separated, "/a/b") && hit(&separated, "/a/b/c") && !hit(&separated, "/a/bc"));
        let regex = path(PathMatch::Regex("/[0-9]+".into()), true);
        assert!(hit(&regex, "/12") && !hit(&regex, "/12/") && !hit(&regex, "x/12"));
    }

    #[test]
    fn a_missing_header_never_matches_a_value_unless_it_counts_as_empty() {
        let value = || {
            HeaderMatch::String(StringMatcher {
                pattern: StringPattern::Exact("v".into()),
                ignore_case: false,
            })
        };
        let without = Request("/", vec![]);
        assert!(!header(value(), true, false).matches(&without));
        assert!(header(value(), true, true).matches(&without));
        assert!(!header(HeaderMatch::Present, false, false).matches(&without));
        assert!(header(HeaderMatch::Absent, false, false).matches(&without));
    }

    #[test]
    fn ranges_take_a_plus_sign_and_exclude_the_end() {
        let range = header(HeaderMatch::Range { start: 10, end: 20 }, false, false);
        for (value, hit) in [("+15", true), ("10", true), ("20", false), ("x", false)] {
            assert_eq!(
                range.matches(&Request("/", vec![("x", value)])),
                hit,
                "{value}"
            );
        }
    }

    fn query(value: QueryMatch) -> RouteMatcher {
        RouteMatcher::compile(&RouteMatch {
            path: PathMatch::Prefix("/".into()),
            case_sensitive: true,
            headers: vec![],
            query: vec![QueryMatcher {
                name: "a".into(),
                value,
            }],
            grpc: false,
        })
    }

    #[test]
    fn the_first_value_of_a_parameter_counts_as_it_is_written() {
        let hit = |m: &RouteMatcher, p: &'static str| m.matches(&Request(p, vec![]));
        let exact = query(QueryMatch::String(StringMatcher {
            pattern: StringPattern::Exact("1".into()),
            ignore_case: false,
        }));
        assert!(hit(&exact, "/?a=1") && hit(&exact, "/x?b&a=1&a=2"));
        for path in ["/", "/?a", "/?a=2&a=1", "/?a=%31", "/?A=1", "/?aa=1"] {
            assert!(!hit(&exact, path), "{path}");
        }
        let present = query(QueryMatch::Present);
        assert!(hit(&present, "/?a") && hit(&present, "/?b=1&a=") && !hit(&present, "/?b=a"));
        let absent = query(QueryMatch::Absent);
        assert!(hit(&absent, "/") && hit(&absent, "/?b") && !hit(&absent, "/?a=0"));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let only = RouteMatcher::compile(&RouteMatch {
            path: PathMatch::Prefix("/".into()),
            case_sensitive: true,
            headers: vec![],
            query: vec![],
            grpc: true,
        });
        for (kind, hit) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let request = Request("/", vec![("content-type", kind)]);
            assert_eq!(only.matches(&request), hit, "{kind}");
        }
        assert!(!only.matches(&Request("/", vec![])));
    }

    #[test]
    fn repeated_headers_are_joined() {
        let exact = header(
            HeaderMatch::String(StringMatcher {
                pattern: StringPattern::Exact("a,b".into()),
                ignore_case: false,
            }),
            false,
            false,
        );
        assert!(exact.matches(&Request("/", vec![("x", "a"), ("x", "b")])));
    }
}
