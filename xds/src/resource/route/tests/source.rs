//! Virtual hosts that are kept packed say what they said before.

use std::collections::HashMap;

use super::*;
use crate::extension::{Extensions, TypedExtension};
use crate::proto::Any;
use crate::reject::Invalid;
use crate::resource::Raw;
use crate::resource::route::source::FEW;

/// What a filter `test.Quick` is told is made ready in no time.
struct Quick;

impl Extensions for Quick {
    fn check_http_filter(&self, _: &TypedExtension) -> Result<(), Invalid> {
        Ok(())
    }

    fn check_per_route(&self, _: &str, _: &TypedExtension) -> Result<(), Invalid> {
        Ok(())
    }

    fn is_light_per_route(&self, config: &TypedExtension) -> bool {
        config.message_name() == "test.Quick"
    }
}

/// As one that is a resource of its own is called.
const NAME: &str = "routes/all";

fn alone() -> proto::VirtualHost {
    proto::VirtualHost {
        name: NAME.into(),
        ..host(to(forward()))
    }
}

/// As it was decoded, and as it is kept when it is delivered under `name`.
fn kept(message: &proto::VirtualHost, name: &str) -> (HostSource, HostSource) {
    let any = pack(message);
    let Resource::VirtualHost { host, .. } = decode(&any, &Quick).unwrap() else {
        panic!()
    };
    let raw = Raw::new(ResourceType::VirtualHost, any);
    let packed = host.clone().packed(&name.into(), &raw, &Quick);
    (host, packed)
}

fn is_packed(message: &proto::VirtualHost) -> bool {
    matches!(kept(message, NAME).1, HostSource::Packed(_))
}

type Change = fn(&mut proto::VirtualHost);

fn first(host: &mut proto::VirtualHost) -> &mut route::Route {
    &mut host.routes[0]
}

fn matching(host: &mut proto::VirtualHost) -> &mut route::RouteMatch {
    first(host).r#match.as_mut().unwrap()
}

fn forwarding(host: &mut proto::VirtualHost) -> &mut route::RouteAction {
    let Some(route::route::Action::Route(action)) = &mut first(host).action else {
        panic!()
    };
    action
}

fn says(config: &str) -> HashMap<String, Any> {
    [("f".to_owned(), any(config, b""))].into()
}

/// What leaves a virtual host light.
const LIGHT: [Change; 9] = [
    |_| {},
    |h| h.domains = vec!["a.test".into(), "*.b.test".into()],
    |h| h.require_tls = 2,
    |h| h.include_request_attempt_count = true,
    |h| matching(h).path_specifier = Some(route_match::PathSpecifier::Path("/a".into())),
    |h| forwarding(h).timeout = seconds(3),
    |h| forwarding(h).prefix_rewrite = "/b".into(),
    |h| h.typed_per_filter_config = says("test.Quick"),
    |h| h.routes = (0..FEW).map(|_| to(forward())).collect(),
];

/// What does not.
const HEAVY: [Change; 10] = [
    |h| matching(h).path_specifier = Some(route_match::PathSpecifier::SafeRegex(regex("/a.*"))),
    |h| {
        matching(h).headers = vec![route::HeaderMatcher {
            name: "x-a".into(),
            header_match_specifier: Some(Specifier::PresentMatch(true)),
            ..Default::default()
        }];
    },
    |h| h.request_headers_to_add = vec![header("x-a", "b")],
    |h| first(h).response_headers_to_add = vec![header("x-a", "b")],
    |h| forwarding(h).regex_rewrite = Some(substitute("a", "b")),
    |h| h.retry_policy = Some(route::RetryPolicy::default()),
    |h| first(h).action = Some(route::route::Action::Redirect(Default::default())),
    |h| h.typed_per_filter_config = says("test.Slow"),
    |h| first(h).typed_per_filter_config = says("test.Slow"),
    |h| h.routes = (0..=FEW).map(|_| to(forward())).collect(),
];

#[test]
fn a_packed_host_says_what_it_said_before() {
    for change in LIGHT {
        let mut message = alone();
        change(&mut message);
        let (decoded, packed) = kept(&message, NAME);
        assert!(matches!(packed, HostSource::Packed(_)), "{message:?}");
        assert_eq!(packed.name(), decoded.name());
        assert!(packed.domains().eq(decoded.domains()), "{message:?}");
        assert_eq!(packed.require_tls(), decoded.require_tls());
        assert_eq!(packed.decoded(), decoded.decoded());
        assert_eq!(packed, decoded);
        assert!(packed.shares_with(&packed.clone()));
        assert!(!packed.shares_with(&decoded));
    }
}

#[test]
fn what_takes_time_to_be_made_ready_is_kept_decoded() {
    for (index, change) in HEAVY.into_iter().enumerate() {
        let mut message = alone();
        change(&mut message);
        assert!(!is_packed(&message), "{index}: {message:?}");
    }
}

#[test]
fn another_name_than_its_own_cannot_be_made_of_the_message() {
    let (decoded, kept) = kept(&alone(), "others/all");
    assert!(kept.shares_with(&decoded));
}

#[test]
fn packed_hosts_are_told_apart_by_what_they_say() {
    let of = |change: Change| {
        let mut message = alone();
        change(&mut message);
        kept(&message, NAME).1
    };
    for (index, one) in LIGHT.into_iter().enumerate() {
        for (other_index, other) in LIGHT.into_iter().enumerate() {
            assert_eq!(
                of(one) == of(other),
                index == other_index,
                "{index} {other_index}"
            );
        }
    }
}
