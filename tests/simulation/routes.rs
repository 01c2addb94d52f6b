//! A million hosts in one route table: found, changed, and in proportion to the change.

use std::sync::Arc;
use std::time::Instant;

use causeway::filter::Registry;
use causeway::route::{Filters, RouteTable};
use causeway_xds::ResourceType;
use causeway_xds::proto::route::route_action::ClusterSpecifier;
use causeway_xds::proto::route::{Route, RouteAction, RouteMatch, route, route_match};
use causeway_xds::proto::{self, Any};
use causeway_xds::resource::{Raw, Resource, RouteConfiguration, decode_again, decode_noting};
use causeway_xds::type_url::pack;

const HOSTS: usize = 1_000_000;

fn host(number: usize, cluster: &str) -> proto::VirtualHost {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    let everything = route_match::PathSpecifier::Prefix("/".to_owned());
    proto::VirtualHost {
        name: format!("h{number}"),
        domains: vec![format!("h{number}.apps.test")],
        routes: vec![Route {
            r#match: Some(RouteMatch {
                path_specifier: Some(everything),
                ..RouteMatch::default()
            }),
            action: Some(route::Action::Route(action)),
            ..Route::default()
        }],
        ..proto::VirtualHost::default()
    }
}

fn packed(changed: Option<usize>) -> Any {
    let cluster = |number| {
        if changed == Some(number) {
            "new"
        } else {
            "old"
        }
    };
    pack(&proto::RouteConfiguration {
        name: "many".to_owned(),
        virtual_hosts: (0..HOSTS).map(|n| host(n, cluster(n))).collect(),
        ..proto::RouteConfiguration::default()
    })
}

fn routes(resource: &Resource) -> &Arc<RouteConfiguration> {
    match resource {
        Resource::RouteConfiguration(routes) => routes,
        other => panic!("{other:?}"),
    }
}

/// Takes about 4 GB for a moment, most of it for the messages that the test makes.
#[test]
#[ignore = "takes gigabytes, and prints"]
fn a_million_hosts() {
    let registry = Registry::default();
    let filters: Arc<dyn Filters> = Arc::new(registry.clone());
    let changed = HOSTS / 2;
    let (first, second) = (packed(None), packed(Some(changed)));

    let start = Instant::now();
    let decoded = decode_noting(&first, None, &registry).unwrap();
    println!("decoded in {:?}", start.elapsed());
    let start = Instant::now();
    let table = RouteTable::compile(routes(&decoded.resource), &filters);
    println!("compiled in {:?}", start.elapsed());
    assert_eq!(table.len(), HOSTS);
    let start = Instant::now();
    for number in 0..HOSTS {
        // In an order that no cache knows.
        let number = number * 7_919 % HOSTS;
        let name = table.virtual_host(&format!("h{number}.apps.test"));
        assert_eq!(name.unwrap().name(), format!("h{number}"));
    }
    println!("found all in {:?}", start.elapsed());

    let start = Instant::now();
    let raw = Raw::new(ResourceType::RouteConfiguration, first);
    let earlier = (&raw, &decoded.resource, &*decoded.ignored);
    let again = decode_again(&second, earlier, &registry).unwrap();
    let next = table.recompile(routes(&again.resource), &filters);
    println!("one changed in {:?}", start.elapsed());
    for number in 0..HOSTS {
        let domain = format!("h{number}.apps.test");
        let (before, after) = (table.virtual_host(&domain), next.virtual_host(&domain));
        let same = Arc::ptr_eq(before.unwrap(), after.unwrap());
        assert_eq!(same, number != changed, "{domain}");
    }
}
