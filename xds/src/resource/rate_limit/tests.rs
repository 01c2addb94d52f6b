//! Entries as configuration writes them, and what is refused.

use super::*;
use crate::proto::UInt32Value;
use crate::proto::envoy::r#type::metadata::v3::{self as metadata, metadata_key};
use crate::proto::route;
use crate::proto::route::rate_limit::action::{self, ActionSpecifier, meta_data};
use crate::proto::route::rate_limit::r#override::OverrideSpecifier;
use crate::proto::route::rate_limit::{self as message};

fn of(actions: Vec<ActionSpecifier>) -> route::RateLimit {
    let action = |specifier| message::Action {
        action_specifier: Some(specifier),
    };
    route::RateLimit {
        actions: actions.into_iter().map(action).collect(),
        ..Default::default()
    }
}

fn refused(message: route::RateLimit) -> String {
    RateLimit::read(message).unwrap_err().to_string()
}

#[test]
fn keys_have_the_defaults_that_the_service_expects() {
    let limit = RateLimit::read(of(vec![
        ActionSpecifier::GenericKey(action::GenericKey {
            descriptor_value: "v".into(),
            ..Default::default()
        }),
        ActionSpecifier::MaskedRemoteAddress(action::MaskedRemoteAddress {
            v4_prefix_mask_len: Some(UInt32Value { value: 24 }),
            v6_prefix_mask_len: None,
        }),
    ]))
    .unwrap();
    let expected = [
        Action::GenericKey {
            key: "generic_key".into(),
            value: "v".into(),
        },
        Action::MaskedRemoteAddress { v4: 24, v6: 128 },
    ];
    assert_eq!(limit.actions, expected);
    assert_eq!(limit.stage, 0);
    assert_eq!(limit.headers, None);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    assert_eq!(refused(of(vec![])), "actions: must not be empty");
    let generic = || ActionSpecifier::RemoteAddress(action::RemoteAddress {});
    let mut late = of(vec![generic()]);
    late.stage = Some(UInt32Value { value: 11 });
    assert_eq!(refused(late), "stage: 11 is not within 0 and 10");
    let mut done = of(vec![generic()]);
    done.apply_on_stream_done = true;
    assert_eq!(refused(done), "apply_on_stream_done: not supported yet");
    let nameless = ActionSpecifier::RequestHeaders(action::RequestHeaders {
        header_name: "x-a".into(),
        ..Default::default()
    });
    assert_eq!(
        refused(of(vec![generic(), nameless])),
        "actions[1].request_headers.descriptor_key: must not be empty"
    );
    let of_cluster = ActionSpecifier::Metadata(action::MetaData {
        descriptor_key: "k".into(),
        source: meta_data::Source::ClusterEntry as i32,
        metadata_key: Some(metadata::MetadataKey {
            key: "n".into(),
            path: vec![metadata_key::PathSegment {
                segment: Some(metadata_key::path_segment::Segment::Key("a".into())),
            }],
        }),
        ..Default::default()
    });
    assert_eq!(
        refused(of(vec![of_cluster])),
        "actions[0].metadata.source: not supported yet"
    );
}

#[test]
fn an_override_names_a_unit() {
    let mut limit = of(vec![ActionSpecifier::RemoteAddress(
        action::RemoteAddress {},
    )]);
    let specifier = |unit| message::Override {
        override_specifier: Some(OverrideSpecifier::RateLimit(
            message::r#override::RateLimitOverride {
                requests_per_unit: 5,
                unit,
            },
        )),
    };
    limit.limit = Some(specifier(RateLimitUnit::Hour as i32));
    let unit = Unit::Hour;
    let expected = Some(Override::Limit { requests: 5, unit });
    assert_eq!(RateLimit::read(limit.clone()).unwrap().limit, expected);
    limit.limit = Some(specifier(0));
    let error = "limit.rate_limit.unit: must be a unit of time";
    assert_eq!(refused(limit), error);
}
