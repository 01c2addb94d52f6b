use std::net::Ipv4Addr;

use causeway_xds::proto::route::rate_limit::{self as message, action, action::ActionSpecifier};
use causeway_xds::proto::{self, BoolValue, UInt32Value};
use http::HeaderMap;

use super::*;
use crate::route::matcher::{Headers, Values};

struct Request {
    query: &'static str,
    headers: HeaderMap,
}

impl Headers for Request {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        Values::of(&self.headers, name)
    }
}

impl RequestView for Request {
    fn path(&self) -> &str {
        "/"
    }
    fn query(&self) -> &str {
        self.query
    }
    fn random(&self) -> u64 {
        7
    }
}

fn limit(actions: Vec<ActionSpecifier>) -> model::RateLimit {
    let action = |specifier| message::Action {
        action_specifier: Some(specifier),
    };
    model::RateLimit::read(proto::route::RateLimit {
        actions: actions.into_iter().map(action).collect(),
        ..Default::default()
    })
    .unwrap()
}

fn header(name: &str, skip_if_absent: bool) -> ActionSpecifier {
    ActionSpecifier::RequestHeaders(action::RequestHeaders {
        header_name: name.into(),
        descriptor_key: name.into(),
        skip_if_absent,
    })
}

fn generic(value: &str) -> ActionSpecifier {
    ActionSpecifier::GenericKey(action::GenericKey {
        descriptor_value: value.into(),
        ..Default::default()
    })
}

fn entries(actions: Vec<ActionSpecifier>) -> Option<Vec<(String, String)>> {
    let mut headers = HeaderMap::new();
    headers.append("x-user", "first".parse().unwrap());
    headers.append("x-user", "second".parse().unwrap());
    let counted = Counted {
        request: &Request {
            query: "a=b%2Fc&d",
            headers,
        },
        client: Ipv4Addr::new(192, 0, 2, 77).into(),
        own_cluster: "edge",
        cluster: "app",
        dynamic_metadata: &|_| None,
        route_metadata: &[(
            "ns".into(),
            MetadataValue::Object(vec![("k".into(), MetadataValue::Text("v".into()))]),
        )],
    };
    let compiled = Limit::compile(&limit(actions), &Layers::default());
    compiled.descriptor(&counted).map(|d| d.entries)
}

fn pairs(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    Some(list.iter().map(owned).collect())
}

#[test]
fn each_action_adds_an_entry_in_order() {
    let masked = action::MaskedRemoteAddress {
        v4_prefix_mask_len: Some(UInt32Value { value: 24 }),
        v6_prefix_mask_len: None,
    };
    let found = entries(vec![
        ActionSpecifier::SourceCluster(action::SourceCluster {}),
        ActionSpecifier::DestinationCluster(action::DestinationCluster {}),
        ActionSpecifier::RemoteAddress(action::RemoteAddress {}),
        ActionSpecifier::MaskedRemoteAddress(masked),
        header("x-user", false),
        generic("v"),
        ActionSpecifier::QueryParameters(action::QueryParameters {
            query_parameter_name: "a".into(),
            descriptor_key: "q".into(),
            skip_if_absent: false,
        }),
    ]);
    let expected = pairs(&[
        ("source_cluster", "edge"),
        ("destination_cluster", "app"),
        ("remote_address", "192.0.2.77"),
        ("masked_remote_address", "192.0.2.0/24"),
        ("x-user", "first"),
        ("generic_key", "v"),
        ("q", "b/c"),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn one_action_without_an_entry_leaves_the_request_uncounted() {
    assert_eq!(entries(vec![generic("v"), header("x-none", false)]), None);
    let skipped = entries(vec![generic("v"), header("x-none", true)]);
    assert_eq!(skipped, pairs(&[("generic_key", "v")]));
    assert_eq!(entries(vec![header("x-none", true)]), None);
}

#[test]
fn a_match_may_be_expected_to_fail() {
    let matched = |expect, name: &str| {
        ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_value: "v".into(),
            expect_match: Some(BoolValue { value: expect }),
            headers: vec![proto::route::HeaderMatcher {
                name: name.into(),
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    let hit = pairs(&[("header_match", "v")]);
    assert_eq!(entries(vec![matched(true, "x-user")]), hit);
    assert_eq!(entries(vec![matched(false, "x-user")]), None);
    assert_eq!(entries(vec![matched(true, "x-none")]), None);
    assert_eq!(entries(vec![matched(false, "x-none")]), hit);
}

#[test]
fn limits_of_the_virtual_host_count_where_the_route_has_none() {
    let layers = Layers::default();
    let host: Arc<[Limit]> = Limit::compile_all(&[limit(vec![generic("host")])], &layers).into();
    let own = [limit(vec![generic("route")])];
    let count = |route: &[model::RateLimit], include, mode| {
        let limits = RateLimits::compile(route, include, &host, &layers).unwrap();
        assert_eq!(limits.of(1, mode).count(), 0, "another stage");
        limits.of(0, mode).count()
    };
    assert_eq!(count(&[], false, HostLimits::Override), 1);
    assert_eq!(count(&own, false, HostLimits::Override), 1);
    assert_eq!(count(&own, false, HostLimits::Include), 2);
    assert_eq!(count(&own, true, HostLimits::Override), 2);
    assert_eq!(count(&[], false, HostLimits::Ignore), 0);
    let none: Arc<[Limit]> = Arc::new([]);
    assert!(RateLimits::compile(&[], false, &none, &layers).is_none());
}

#[test]
fn what_is_no_escape_stays() {
    assert_eq!(percent_decoded(b"a%20b%2"), "a b%2");
    assert_eq!(percent_decoded(b"%zz%+1"), "%zz%+1");
}
