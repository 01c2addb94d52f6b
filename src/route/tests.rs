//! The index of a large virtual host against asking every route in order; and a virtual host that is kept
//! packed against one that was ready from the start.

mod light;

use causeway_xds::resource::HostSource;
use causeway_xds::resource::fraction::{Fraction, RuntimeFraction};
use causeway_xds::resource::matcher::{HeaderMatch, HeaderMatcher};
use causeway_xds::resource::route as model;
use causeway_xds::resource::route::{DirectResponse, PathMatch, PathTemplate, RouteMatch};

use super::host::Order;
use super::matcher::Headers;
use super::per_filter::Deaf;
use super::*;
use crate::route::matcher::Values;

struct Request {
    path: String,
    marked: bool,
}

impl Headers for Request {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        Values::One((self.marked && name == "x-mark").then_some(b"1"))
    }
}

impl RequestView for Request {
    fn path(&self) -> &str {
        &self.path
    }
    fn query(&self) -> &str {
        ""
    }
    fn random(&self) -> u64 {
        self.path.len() as u64
    }
}

/// Short paths of few letters, so that routes overlap and requests meet them.
fn path(random: &mut fastrand::Rng, least: usize) -> String {
    let mut path = String::new();
    for _ in 0..random.usize(least..5) {
        path.push('/');
        for _ in 0..random.usize(0..3) {
            path.push(random.choice(['a', 'b', 'A', 'é']).unwrap());
        }
    }
    path
}

fn route(random: &mut fastrand::Rng) -> RouteMatch {
    let text = path(random, 0);
    let path = match random.u8(0..8) {
        0..=2 => PathMatch::Exact(text),
        3..=4 => PathMatch::Prefix(text),
        5 => PathMatch::SeparatedPrefix(text),
        6 => PathMatch::Regex(format!("{}.*", regex::escape(&text))),
        _ => PathMatch::Template(PathTemplate {
            pattern: format!("{text}/[ab]+"),
            variables: vec![],
        }),
    };
    let mark = HeaderMatcher {
        name: "x-mark".into(),
        value: HeaderMatch::Present,
        invert: random.bool(),
        treat_missing_as_empty: false,
    };
    let some = RuntimeFraction {
        default: Fraction {
            numerator: 3,
            denominator: 100,
        },
        runtime_key: String::new(),
    };
    RouteMatch {
        path,
        case_sensitive: random.u8(0..4) > 0,
        headers: if random.u8(0..3) == 0 {
            vec![mark]
        } else {
            vec![]
        },
        query: vec![],
        cookies: vec![],
        fraction: (random.u8(0..5) == 0).then_some(some),
        grpc: false,
        certificate: Default::default(),
        metadata: vec![],
        filter_state: vec![],
    }
}

fn virtual_host(routes: Vec<RouteMatch>) -> Arc<VirtualHost> {
    let routes = routes.into_iter().map(|matcher| model::Route {
        name: String::new(),
        metadata: Vec::new(),
        matcher,
        action: model::Action::Direct(DirectResponse {
            status: 200,
            body: bytes::Bytes::new(),
            format: None,
        }),
        edits: Default::default(),
        filter_config: vec![],
        buffer_limit: None,
    });
    let host = model::VirtualHost {
        name: "v".into(),
        domains: vec!["*".into()],
        routes: routes.collect(),
        tree: None,
        require_tls: model::RequireTls::None,
        edits: Default::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        include_is_timeout_retry_header: false,
        retry: None,
        mirrors: vec![],
        buffer_limit: None,
        rate_limits: vec![],
        filter_config: vec![],
    };
    let config = model::RouteConfiguration {
        name: "r".into(),
        ..Default::default()
    };
    let common = Common::new(&config, &Deaf::shared());
    VirtualHost::compile(HostSource::Decoded(Arc::new(host)), &common)
}

#[test]
fn the_index_finds_what_asking_in_order_finds() {
    let mut hits = 0;
    for seed in 0..60 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let count = random.usize(16..120);
        let host = virtual_host((0..count).map(|_| route(random)).collect());
        assert!(matches!(host.plan().order, Order::Indexed(_)));
        for _ in 0..200 {
            let request = Request {
                path: path(random, 1),
                marked: random.bool(),
            };
            let first = host
                .plan()
                .routes
                .iter()
                .find(|r| r.matcher.matches(&request));
            let found = host.find(&request);
            hits += usize::from(found.is_some());
            assert!(
                match (first, found) {
                    (Some(first), Some(found)) => Arc::ptr_eq(first, found),
                    (None, None) => true,
                    _ => false,
                },
                "seed {seed}, {:?}",
                request.path
            );
        }
    }
    assert!(hits > 1000, "only {hits} requests met a route");
}

/// Counts how often a path is looked at: each route that is asked looks once.
struct Counting(Request, std::cell::Cell<usize>);

impl Headers for Counting {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        self.0.values(name)
    }
}

impl RequestView for Counting {
    fn path(&self) -> &str {
        self.1.set(self.1.get() + 1);
        self.0.path()
    }
    fn query(&self) -> &str {
        ""
    }
    fn random(&self) -> u64 {
        0
    }
}

#[test]
fn ten_thousand_routes_are_not_asked_one_by_one() {
    let routes = (0..10_000).map(|n| RouteMatch {
        path: match n % 2 {
            0 => PathMatch::Exact(format!("/exact/{n}")),
            _ => PathMatch::Prefix(format!("/prefix/{n}/")),
        },
        case_sensitive: true,
        headers: vec![],
        query: vec![],
        cookies: vec![],
        fraction: None,
        grpc: false,
        certificate: Default::default(),
        metadata: vec![],
        filter_state: vec![],
    });
    let host = virtual_host(routes.collect());
    for (path, there) in [
        ("/exact/9998", true),
        ("/prefix/9999/x", true),
        ("/nowhere", false),
    ] {
        let request = Request {
            path: path.into(),
            marked: false,
        };
        let request = Counting(request, Default::default());
        assert_eq!(host.find(&request).is_some(), there, "{path}");
        assert!(
            request.1.get() < 10,
            "{path} was looked at {}",
            request.1.get()
        );
    }
}

#[test]
fn parameters_of_a_path_are_passed_over_when_they_do_not_count() {
    let routes = || {
        vec![RouteMatch {
            path: PathMatch::Exact("/a".into()),
            case_sensitive: true,
            headers: vec![],
            query: vec![],
            cookies: vec![],
            fraction: None,
            grpc: false,
            certificate: Default::default(),
            metadata: vec![],
            filter_state: vec![],
        }]
    };
    let request = Request {
        path: "/a;v=1".into(),
        marked: false,
    };
    let mut host = virtual_host(routes());
    assert!(host.find(&request).is_none());
    host.plan();
    let plan = Arc::get_mut(&mut host).unwrap().plan.get_mut();
    plan.unwrap().ignore_path_parameters = true;
    assert!(host.find(&request).is_some());
}
