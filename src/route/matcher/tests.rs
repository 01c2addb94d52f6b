use std::rc::Rc;

use super::*;
use causeway_xds::resource::matcher::{HeaderMatch, HeaderMatcher, StringMatcher, StringPattern};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HeaderMap, HeaderValue};

struct Target(&'static str, HeaderMap);

fn request(target: &'static str, headers: Vec<(&'static str, &'static str)>) -> Target {
    let headers = headers.into_iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    Target(target, map)
}

impl RequestView for Target {
    fn path(&self) -> &str {
        self.0.split('?').next().unwrap_or_default()
    }
    fn query(&self) -> &str {
        self.0.split_once('?').map_or("", |(_, query)| query)
    }
    fn random(&self) -> u64 {
        0
    }
}

impl Headers for Target {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        Values::of(&self.1, name)
    }
}

fn compile(model: RouteMatch) -> RouteMatcher {
    RouteMatcher::compile(&model, &Layers::default())
}

fn any() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix(String::new()),
        case_sensitive: true,
        headers: vec![],
        query: vec![],
        cookies: vec![],
        fraction: None,
        grpc: false,
        certificate: CertificateMatch::default(),
        metadata: vec![],
        filter_state: vec![],
    }
}

fn path(path: PathMatch, case_sensitive: bool) -> RouteMatcher {
    compile(RouteMatch {
        path,
        case_sensitive,
        ..any()
    })
}

fn header(value: HeaderMatch, invert: bool, missing: bool) -> RouteMatcher {
    compile(RouteMatch {
        headers: vec![HeaderMatcher {
            name: "x".into(),
            value,
            invert,
            treat_missing_as_empty: missing,
        }],
        ..any()
    })
}

#[test]
fn paths_match_as_text() {
    let hit = |m: &RouteMatcher, p: &'static str| m.matches(&request(p, vec![]));
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
    let without = request("/", vec![]);
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
            range.matches(&request("/", vec![("x", value)])),
            hit,
            "{value}"
        );
    }
}

fn query(value: QueryMatch) -> RouteMatcher {
    compile(RouteMatch {
        path: PathMatch::Prefix("/".into()),
        query: vec![QueryMatcher {
            name: "a".into(),
            value,
        }],
        ..any()
    })
}

#[test]
fn the_first_value_of_a_parameter_counts_as_it_is_written() {
    let hit = |m: &RouteMatcher, p: &'static str| m.matches(&request(p, vec![]));
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
    let only = compile(RouteMatch {
        grpc: true,
        ..any()
    });
    for (kind, hit) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        let request = request("/", vec![("content-type", kind)]);
        assert_eq!(only.matches(&request), hit, "{kind}");
    }
    assert!(!only.matches(&request("/", vec![])));
}

#[test]
fn each_value_of_a_repeated_header_counts_by_itself() {
    let exact = |text: &str, invert| {
        let pattern = StringPattern::Exact(text.into());
        let matcher = StringMatcher {
            pattern,
            ignore_case: false,
        };
        header(HeaderMatch::String(matcher), invert, false)
    };
    let both = request("/", vec![("x", "a"), ("x", "b")]);
    assert!(exact("a", false).matches(&both) && exact("b", false).matches(&both));
    assert!(!exact("a,b", false).matches(&both));
    assert!(!exact("b", true).matches(&both) && exact("c", true).matches(&both));
}

#[test]
fn a_cookie_is_found_among_others_and_may_be_unwanted() {
    let cookie = |invert| {
        compile(RouteMatch {
            cookies: vec![CookieMatcher {
                name: "c".into(),
                value: StringMatcher {
                    pattern: StringPattern::Exact("1".into()),
                    ignore_case: false,
                },
                invert,
            }],
            ..any()
        })
    };
    for (value, there) in [
        ("c=1", true),
        ("a=2; c=1", true),
        ("c=\"1\"; d", true),
        ("c=2; c=1", false),
        ("cc=1", false),
        ("c", false),
    ] {
        let request = request("/", vec![("cookie", value)]);
        assert_eq!(cookie(false).matches(&request), there, "{value}");
        assert_eq!(cookie(true).matches(&request), !there, "{value}");
    }
    assert!(!cookie(false).matches(&request("/", vec![])));
    assert!(cookie(true).matches(&request("/", vec![])));
}

#[test]
fn a_certificate_is_asked_for_or_its_absence() {
    struct Shown(Option<bool>);
    impl Headers for Shown {
        fn values<'h>(&'h self, _: &str) -> Values<'h> {
            Values::One(None)
        }
    }
    impl RequestView for Shown {
        fn path(&self) -> &str {
            "/"
        }
        fn query(&self) -> &str {
            ""
        }
        fn certificate(&self) -> Option<bool> {
            self.0
        }
        fn random(&self) -> u64 {
            0
        }
    }
    let matches = |presented, validated, shown| {
        let certificate = CertificateMatch {
            presented,
            validated,
        };
        let route = RouteMatch {
            certificate,
            ..any()
        };
        compile(route).matches(&Shown(shown))
    };
    let (none, strange, known) = (None, Some(false), Some(true));
    assert_eq!(
        [none, strange, known].map(|s| matches(Some(true), None, s)),
        [false, true, true]
    );
    assert_eq!(
        [none, strange, known].map(|s| matches(Some(false), None, s)),
        [true, false, false]
    );
    assert_eq!(
        [none, strange, known].map(|s| matches(None, Some(true), s)),
        [false, false, true]
    );
    assert_eq!(
        [none, strange, known].map(|s| matches(None, Some(false), s)),
        [true, true, false]
    );
}

#[test]
fn what_filters_have_set_can_be_asked_for() {
    use causeway_xds::resource::matcher::value::{
        FilterStateMatcher, MetadataMatcher, ValueMatcher,
    };
    struct Set(Option<&'static str>);
    impl Headers for Set {
        fn values<'h>(&'h self, _: &str) -> Values<'h> {
            Values::One(None)
        }
    }
    impl RequestView for Set {
        fn path(&self) -> &str {
            "/"
        }
        fn query(&self) -> &str {
            ""
        }
        fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
            let text = MetadataValue::Text(self.0?.to_owned());
            let fields = vec![("v".to_owned(), text)];
            (namespace == "ns").then(|| Rc::new(MetadataValue::Object(fields)))
        }
        fn filter_state(&self, key: &str) -> Option<Rc<str>> {
            (key == "k").then_some(self.0).flatten().map(Rc::from)
        }
        fn random(&self) -> u64 {
            0
        }
    }
    let two = || StringMatcher {
        pattern: StringPattern::Exact("two".into()),
        ignore_case: false,
    };
    let metadata = |invert| RouteMatch {
        metadata: vec![MetadataMatcher {
            namespace: "ns".into(),
            path: vec!["v".into()],
            value: ValueMatcher::Text(two()),
            invert,
        }],
        ..any()
    };
    let state = RouteMatch {
        filter_state: vec![FilterStateMatcher {
            key: "k".into(),
            matcher: two(),
        }],
        ..any()
    };
    for (set, plain, inverted) in [
        (Some("two"), true, false),
        (Some("one"), false, true),
        (None, false, true),
    ] {
        let request = Set(set);
        assert_eq!(compile(metadata(false)).matches(&request), plain, "{set:?}");
        let matcher = compile(metadata(true));
        assert_eq!(matcher.matches(&request), inverted, "{set:?}");
        let matcher = compile(state.clone());
        assert_eq!(matcher.matches(&request), plain, "{set:?}");
        let told = matcher.conditions(&request);
        assert_eq!(told.last().map(|c| c.holds), Some(plain));
    }
}
