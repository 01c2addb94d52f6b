use causeway_xds::text;
use serde_json::{Value, json};

use super::*;
use crate::route::rate_limits::Descriptor;

fn settings(mut limit: Value, of_route: bool) -> Result<Settings, String> {
    limit["@type"] = json!(format!("type.googleapis.com/{}", FACTORY.message));
    let any = text::any_from_value(&limit).expect("a message");
    let extension = TypedExtension::from_any("limit", any);
    Settings::decode(&extension, &Context::default(), of_route).map_err(|e| e.to_string())
}

fn bucket(max: u32) -> Value {
    json!({ "max_tokens": max, "tokens_per_fill": 1, "fill_interval": "3600s" })
}

fn descriptor(entries: &[(&str, &str)]) -> Counts {
    let entries = entries
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let descriptor = Descriptor {
        entries: entries.collect(),
        limit: None,
        hits: None,
    };
    (descriptor, None)
}

/// How many of 9 requests with these descriptors pass.
fn passing(settings: &Settings, request: &[Counts]) -> usize {
    let now = Instant::now();
    (0..9)
        .filter(|_| settings.counting.limiter.ask(request, now).allowed)
        .count()
}

#[test]
fn a_request_is_counted_by_its_descriptors_and_by_the_default() {
    let limits = |always: bool| {
        settings(
            json!({
                "stat_prefix": "s",
                "token_bucket": bucket(4),
                "always_consume_default_token_bucket": always,
                "descriptors": [
                    { "entries": [{ "key": "a", "value": "1" }], "token_bucket": bucket(6) },
                    { "entries": [{ "key": "user" }], "token_bucket": bucket(2) },
                ],
            }),
            false,
        )
        .unwrap()
    };
    assert_eq!(passing(&limits(true), &[descriptor(&[("a", "1")])]), 4);
    assert_eq!(passing(&limits(false), &[descriptor(&[("a", "1")])]), 6);
    assert_eq!(passing(&limits(false), &[descriptor(&[("a", "2")])]), 4);
    let each = limits(false);
    assert_eq!(passing(&each, &[descriptor(&[("user", "x")])]), 2);
    assert_eq!(passing(&each, &[descriptor(&[("user", "y")])]), 2);
    assert_eq!(passing(&each, &[descriptor(&[("user", "x")])]), 0);
    let longer = [descriptor(&[("user", "x"), ("a", "1")])];
    assert_eq!(passing(&each, &longer), 4, "it is another descriptor");
}

#[test]
fn a_connection_can_have_buckets_of_its_own() {
    let settings = settings(
        json!({
            "stat_prefix": "s",
            "token_bucket": bucket(2),
            "local_rate_limit_per_downstream_connection": true,
        }),
        false,
    )
    .unwrap();
    let each = settings.counting.per_connection.as_ref().unwrap();
    let now = Instant::now();
    let passing = |id| {
        let limiter = each.of(id, &settings.counting.limiter, now);
        (0..9).filter(|_| limiter.ask(&[], now).allowed).count()
    };
    assert_eq!((passing(1), passing(2), passing(1)), (2, 2, 0));
}

#[test]
fn values_that_were_not_seen_for_long_make_room() {
    let limits = settings(
        json!({
            "stat_prefix": "s",
            "max_dynamic_descriptors": 2,
            "descriptors": [{ "entries": [{ "key": "user" }], "token_bucket": bucket(1) }],
        }),
        false,
    )
    .unwrap();
    let start = Instant::now();
    let ask = |user: &str, after: u64| {
        let now = start + Duration::from_secs(after);
        let request = [descriptor(&[("user", user)])];
        limits.counting.limiter.ask(&request, now).allowed
    };
    assert!(ask("x", 0) && ask("y", 1) && !ask("x", 2));
    assert!(ask("z", 3), "in the place of y");
    assert!(!ask("x", 4), "x was seen since");
    assert!(ask("y", 5), "which is new again");
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused_with_its_place() {
    let entry = json!([{ "key": "a", "value": "1" }]);
    for (limit, of_route, reason) in [
        (json!({}), false, "stat_prefix: must not be empty"),
        (
            json!({ "stat_prefix": "s" }),
            true,
            "token_bucket: must be given where a route has a configuration of its own",
        ),
        (
            json!({ "stat_prefix": "s", "token_bucket": { "max_tokens": 1, "fill_interval": "0.01s" } }),
            false,
            "token_bucket.fill_interval: must be at least 50 ms",
        ),
        (
            json!({ "stat_prefix": "s", "descriptors": [{ "entries": entry }] }),
            false,
            "descriptors[0].token_bucket: must be given",
        ),
        (
            json!({ "stat_prefix": "s", "descriptors": [
                { "entries": entry, "token_bucket": bucket(1) },
                { "entries": entry, "token_bucket": bucket(2) },
            ] }),
            false,
            "descriptors[1].entries: are given twice",
        ),
        (
            json!({ "stat_prefix": "s", "stage": 11 }),
            false,
            "stage: 11 is above 10",
        ),
    ] {
        assert_eq!(settings(limit, of_route).unwrap_err(), reason);
    }
}

#[test]
fn a_status_that_is_no_refusal_is_another_one() {
    let status = |code| {
        refusal(Some(causeway_xds::proto::envoy::r#type::v3::HttpStatus {
            code,
        }))
        .as_u16()
    };
    assert_eq!((status(503), status(200), status(423)), (503, 429, 423));
    assert_eq!(refusal(None), StatusCode::TOO_MANY_REQUESTS);
}

/// As several routes say it, each in a place of its own.
#[test]
fn routes_that_share_a_key_take_from_one_bucket() {
    let context = Context::default().at("table".to_owned());
    let said = |place: &str, key: &str, max: u32| {
        let shared = json!({
            "@type": "type.googleapis.com/causeway.v1.SharedRateLimit",
            "share_key": key,
            "limit": {
                "@type": format!("type.googleapis.com/{}", FACTORY.message),
                "stat_prefix": "s", "token_bucket": bucket(max),
            },
        });
        let any = text::any_from_value(&shared).expect("a message");
        let extension = TypedExtension::from_any("limit", any);
        build_shared(&extension, &context.at(place.to_owned())).map_err(|e| e.to_string())
    };
    let (one, other) = (said("a", "k", 2).unwrap(), said("b", "k", 2).unwrap());
    let passing = |said: &RouteConfig| passing(said.get::<Settings>().unwrap(), &[]);
    assert_eq!((passing(&one), passing(&other)), (2, 0));
    assert_eq!(passing(&said("b", "l", 2).unwrap()), 2, "another key");
    assert_eq!(passing(&said("b", "k", 3).unwrap()), 3, "another limit");
    // Nobody keeps what is only checked.
    assert_eq!(passing(&said("", "k", 2).unwrap()), 2);
    let refused = said("a", "", 2).map(drop);
    assert_eq!(refused.unwrap_err(), "share_key: must not be empty");
    let other = TypedExtension {
        name: "limit".to_owned(),
        type_url: "type.googleapis.com/causeway.v1.SharedRateLimit".to_owned(),
        value: causeway_xds::proto::Message::encode_to_vec(&SharedRateLimit {
            share_key: "k".to_owned(),
            limit: Some(causeway_xds::proto::Any {
                type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(),
                value: Vec::new(),
            }),
        })
        .into(),
    };
    let refused = build_shared(&other, &context).map(drop).unwrap_err();
    assert!(
        refused.to_string().starts_with("limit: is no "),
        "{refused}"
    );
}
