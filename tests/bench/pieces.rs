//! What the pieces of a request and of a change cost by themselves.
//!
//! ```sh
//! cargo bench --bench pieces -- routes      # some of them
//! ```

#![allow(clippy::unwrap_used, reason = "benchmarks")]

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway::filter::Registry;
use causeway::formatter::{Facts, Key, Template, Value};
use causeway::matching::headers::RequestHead;
use causeway::route::{Filters, RouteTable};
use causeway_xds::ResourceType;
use causeway_xds::proto::route::route_action::ClusterSpecifier;
use causeway_xds::proto::route::{Route, RouteAction, RouteMatch, route, route_match};
use causeway_xds::proto::{self, Any};
use causeway_xds::resource::format::{Fact, Format, Holder, Operator, Part, Point};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::{Raw, Resource, RouteConfiguration, decode_again, decode_noting};
use causeway_xds::type_url::pack;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const HOSTS: usize = 100_000;

fn to(prefix: &str, cluster: &str) -> Route {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix(prefix.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    }
}

fn host(number: usize, routes: Vec<Route>) -> proto::VirtualHost {
    proto::VirtualHost {
        name: format!("h{number}"),
        domains: vec![format!("h{number}.apps.test")],
        routes,
        ..proto::VirtualHost::default()
    }
}

fn configuration(hosts: impl Iterator<Item = proto::VirtualHost>) -> Any {
    pack(&proto::RouteConfiguration {
        name: "many".to_owned(),
        virtual_hosts: hosts.collect(),
        ..proto::RouteConfiguration::default()
    })
}

/// Each host has a cluster; that of the one in the middle can be another.
fn many(of_the_middle: &str) -> Any {
    configuration((0..HOSTS).map(|number| {
        let cluster = match number == HOSTS / 2 {
            true => of_the_middle.to_owned(),
            false => format!("c{number}"),
        };
        host(number, vec![to("/", &cluster)])
    }))
}

fn routes(resource: &Resource) -> &Arc<RouteConfiguration> {
    match resource {
        Resource::RouteConfiguration(routes) => routes,
        other => panic!("{other:?}"),
    }
}

fn route_tables(c: &mut Criterion) {
    let registry = Registry::default();
    let filters: Arc<dyn Filters> = Arc::new(registry.clone());
    let (first, second) = (many("one"), many("two"));
    let decoded = decode_noting(&first, None, &registry).unwrap();
    let table = RouteTable::compile(routes(&decoded.resource), &filters);

    c.bench_function("routes: one host again and again", |b| {
        b.iter(|| {
            table
                .virtual_host(black_box("h77.apps.test"))
                .unwrap()
                .len()
        });
    });
    let names: Vec<String> = (0..HOSTS)
        .map(|number| format!("h{}.apps.test", number * 7_919 % HOSTS))
        .collect();
    let mut next = names.iter().cycle();
    c.bench_function("routes: one host of 100,000", |b| {
        b.iter(|| table.virtual_host(next.next().unwrap()).unwrap().len());
    });

    let prefixes = (0..200).map(|number| to(&format!("/app/{number}/"), "c"));
    let one = configuration(std::iter::once(host(0, prefixes.collect())));
    let one = decode_noting(&one, None, &registry).unwrap();
    let one = RouteTable::compile(routes(&one.resource), &filters);
    let one = one.virtual_host("h0.apps.test").unwrap();
    let request = http::Request::get("/app/150/x").body(()).unwrap();
    let (parts, ()) = request.into_parts();
    c.bench_function("routes: a prefix of 200", |b| {
        b.iter(|| one.find(&RequestHead(black_box(&parts))).is_some());
    });

    let mut group = c.benchmark_group("100,000 hosts");
    group.sample_size(10);
    group.bench_function("decode", |b| {
        b.iter(|| decode_noting(&first, None, &registry).unwrap());
    });
    group.bench_function("compile", |b| {
        b.iter(|| RouteTable::compile(routes(&decoded.resource), &filters));
    });
    group.bench_function("decode and compile one that changed", |b| {
        let raw = Raw::new(ResourceType::RouteConfiguration, first.clone());
        let earlier = (&raw, &decoded.resource, &*decoded.ignored);
        b.iter_batched(
            || second.clone(),
            |second| {
                let again = decode_again(&second, earlier, &registry).unwrap();
                table.recompile(routes(&again.resource), &filters)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A request without anything but its path.
struct Asked;

impl Facts for Asked {
    fn request(&self, key: &Key) -> Value<'_> {
        match key {
            Key::Path => Value::Bytes(b"/a/path?and=query"[..].into()),
            _ => Value::Missing,
        }
    }
    fn fact(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::ResponseCode => Value::Number(200),
            Fact::Protocol => Value::word("HTTP/1.1"),
            _ => Value::Missing,
        }
    }
    fn start(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
    fn point(&self, _: Point) -> Option<Duration> {
        Some(Duration::from_micros(1500))
    }
    fn metadata(&self, _: Holder, _: &str, _: &[String]) -> Option<MetadataValue> {
        None
    }
    fn dynamic_metadata(&self, _: &str) -> Option<Rc<MetadataValue>> {
        None
    }
    fn filter_state(&self, _: &str) -> Option<Rc<str>> {
        None
    }
}

fn formatter(c: &mut Criterion) {
    let command = |operator| Part::Command {
        operator,
        max: None,
    };
    let format = Format(vec![
        Part::Text("status ".into()),
        command(Operator::Fact(Fact::ResponseCode)),
        Part::Text(" by ".into()),
        command(Operator::Fact(Fact::Protocol)),
        Part::Text(" for ".into()),
        command(Operator::Fact(Fact::DownstreamDirectRemoteAddress)),
    ]);
    let template = Template::compile(&format, "-");
    let mut line = Vec::with_capacity(256);
    c.bench_function("formatter: a line of three values", |b| {
        b.iter(|| {
            line.clear();
            template.render_into(black_box(&Asked), &mut line);
            line.len()
        });
    });
}

criterion_group!(pieces, route_tables, formatter);
criterion_main!(pieces);
