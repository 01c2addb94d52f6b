use super::*;
use crate::proto::core::{self, HeaderValue, HeaderValueOption, Metadata};
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::proto::route::header_matcher::HeaderMatchSpecifier as Specifier;
use crate::proto::route::{self, redirect_action as redirect, route_action, route_match};
use crate::proto::{
    self,
    google::protobuf::{Struct, Value, value},
};
use crate::resource::testing::*;
use crate::resource::{Resource, decode, decode_named};
use crate::type_url::{ResourceType, pack};

mod actions;
mod refusals;
mod source;

const ROUTE: &str = "virtual_hosts[0].routes[0]";

fn table() -> proto::RouteConfiguration {
    routes(host(route()))
}

fn route() -> route::Route {
    to(forward())
}

fn in_table(route: route::Route) -> proto::RouteConfiguration {
    routes(host(route))
}

fn typed(message: &proto::RouteConfiguration) -> RouteConfiguration {
    let Resource::RouteConfiguration(routes) = resource(message) else {
        panic!()
    };
    (*routes).clone()
}

fn typed_route(message: route::Route) -> Route {
    typed(&in_table(message)).virtual_hosts[0].routes[0].clone()
}

fn forwarded(action: route::RouteAction) -> Forward {
    let Action::Forward(forward) = typed_route(to(action)).action else {
        panic!()
    };
    *forward
}

fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: pattern.into(),
        ..Default::default()
    }
}

fn substitute(pattern: &str, substitution: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution: substitution.into(),
    }
}

fn path(specifier: route_match::PathSpecifier) -> Option<route::RouteMatch> {
    Some(route::RouteMatch {
        path_specifier: Some(specifier),
        ..Default::default()
    })
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn set_strip_prefix(message: &mut route::Route, kind: value::Kind) {
    let mut ours = Struct::default();
    ours.fields
        .insert("strip_prefix".into(), Value { kind: Some(kind) });
    let mut metadata = Metadata::default();
    metadata.filter_metadata.insert("causeway".into(), ours);
    message.metadata = Some(metadata);
}

fn stripping() -> route::Route {
    let mut message = to(route::RouteAction {
        prefix_rewrite: "/".into(),
        ..forward()
    });
    set_strip_prefix(&mut message, value::Kind::BoolValue(true));
    message
}

#[test]
fn a_small_table_gets_the_defaults() {
    let routes = typed(&table());
    assert_eq!(routes.vhost_key, VirtualHostKey::Host);
    assert!(routes.edits.is_empty());
    let route = &routes.virtual_hosts[0].routes[0];
    assert!(route.matcher.case_sensitive);
    let Action::Forward(forward) = &route.action else {
        panic!()
    };
    assert_eq!(forward.timeout, Duration::from_secs(15));
    assert_eq!(
        (forward.idle_timeout, forward.cluster_not_found),
        (None, 503)
    );
}

#[test]
fn what_is_only_for_show_is_accepted_and_noted() {
    let mut message = table();
    message.validate_clusters = boolean(true);
    message.virtual_hosts[0].routes[0].stat_prefix = "r".into();
    assert_eq!(
        decoded(&message).ignored,
        ["Route.stat_prefix", "RouteConfiguration.validate_clusters"]
    );
}

#[test]
fn rewrites_are_read() {
    let rewrite = |action| forwarded(action).path_rewrite;
    assert_eq!(rewrite(forward()), PathRewrite::None);
    assert_eq!(
        rewrite(route::RouteAction {
            prefix_rewrite: "/x".into(),
            ..forward()
        }),
        PathRewrite::Prefix("/x".into())
    );
    let swap = substitute("^/(a+)/(.*)$", r"/\2\\$\1");
    assert_eq!(
        rewrite(route::RouteAction {
            regex_rewrite: Some(swap),
            ..forward()
        }),
        PathRewrite::Regex {
            pattern: "^/(a+)/(.*)$".into(),
            substitution: r"/${2}\$$${1}".into()
        }
    );
    let Action::Forward(stripped) = typed_route(stripping()).action else {
        panic!()
    };
    assert_eq!(stripped.path_rewrite, PathRewrite::StripPrefix);
    let host =
        route_action::HostRewriteSpecifier::AutoHostRewrite(proto::BoolValue { value: true });
    let auto = route::RouteAction {
        host_rewrite_specifier: Some(host),
        ..forward()
    };
    assert_eq!(forwarded(auto).host_rewrite, HostRewrite::Auto);
}

#[test]
fn redirects_and_direct_responses_are_read() {
    let action = route::route::Action::Redirect(route::RedirectAction {
        port_redirect: 8443,
        response_code: 4,
        scheme_rewrite_specifier: Some(redirect::SchemeRewriteSpecifier::HttpsRedirect(true)),
        path_rewrite_specifier: Some(redirect::PathRewriteSpecifier::PrefixRewrite("/n".into())),
        ..Default::default()
    });
    let Action::Redirect(redirect) = typed_route(route::Route {
        action: Some(action),
        ..route()
    })
    .action
    else {
        panic!()
    };
    assert_eq!(
        *redirect,
        Redirect {
            scheme: Some("https".into()),
            port: Some(8443),
            path: RedirectPath::Prefix("/n".into()),
            status: 308,
            ..Default::default()
        }
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let name = file.path().to_str().unwrap().to_owned();
    let action = route::route::Action::DirectResponse(route::DirectResponseAction {
        status: 418,
        body: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::Filename(name)),
            ..Default::default()
        }),
        body_format: None,
    });
    let Action::Direct(direct) = typed_route(route::Route {
        action: Some(action),
        ..route()
    })
    .action
    else {
        panic!()
    };
    assert_eq!(
        direct,
        DirectResponse {
            status: 418,
            body: "from a file".into(),
            format: None,
        }
    );
}

#[test]
#[allow(deprecated, reason = "the older spellings are the subject")]
fn every_kind_of_header_matcher_is_read() {
    use crate::resource::matcher::{HeaderMatch, StringMatcher, StringPattern};
    let string = |pattern| {
        HeaderMatch::String(StringMatcher {
            pattern,
            ignore_case: false,
        })
    };
    let modern = matcher::StringMatcher {
        ignore_case: true,
        match_pattern: Some(matcher::string_matcher::MatchPattern::Suffix("z".into())),
    };
    let range = proto::envoy::r#type::v3::Int64Range { start: 1, end: 5 };
    let cases = [
        (None, HeaderMatch::Present),
        (Some(Specifier::PresentMatch(true)), HeaderMatch::Present),
        (Some(Specifier::PresentMatch(false)), HeaderMatch::Absent),
        (
            Some(Specifier::RangeMatch(range)),
            HeaderMatch::Range { start: 1, end: 5 },
        ),
        (
            Some(Specifier::ExactMatch("".into())),
            string(StringPattern::Exact("".into())),
        ),
        (
            Some(Specifier::PrefixMatch("a".into())),
            string(StringPattern::Prefix("a".into())),
        ),
        (
            Some(Specifier::SuffixMatch("a".into())),
            string(StringPattern::Suffix("a".into())),
        ),
        (
            Some(Specifier::ContainsMatch("a".into())),
            string(StringPattern::Contains("a".into())),
        ),
        (
            Some(Specifier::SafeRegexMatch(regex("a|b"))),
            string(StringPattern::Regex("a|b".into())),
        ),
        (
            Some(Specifier::StringMatch(modern)),
            HeaderMatch::String(StringMatcher {
                pattern: StringPattern::Suffix("z".into()),
                ignore_case: true,
            }),
        ),
    ];
    for (specifier, expected) in cases {
        let mut message = route();
        message.r#match.as_mut().unwrap().headers = vec![route::HeaderMatcher {
            name: ":Authority".into(),
            header_match_specifier: specifier,
            ..Default::default()
        }];
        let matcher = &typed_route(message).matcher.headers[0];
        assert_eq!(
            (matcher.name.as_str(), &matcher.value),
            (":authority", &expected)
        );
    }
}

#[test]
fn header_edits_are_read() {
    let mut message = table();
    message.request_headers_to_add = vec![header("X-A", "100%%"), header("x-b", "")];
    message.request_headers_to_add[1].append_action = 2;
    message.response_headers_to_remove = vec!["Server".into()];
    #[allow(deprecated, reason = "still written by control planes")]
    {
        message.response_headers_to_add = vec![HeaderValueOption {
            append: boolean(false),
            ..header("x-c", "%%%%")
        }];
    }
    let edits = typed(&message).edits;
    let added: Vec<_> = edits
        .request_add
        .iter()
        .map(|e| (e.name.as_str(), e.value.literal().unwrap(), e.action))
        .collect();
    use crate::resource::headers::AppendAction as A;
    assert_eq!(
        added,
        [
            ("x-a", "100%", A::AppendOrAdd),
            ("x-b", "", A::OverwriteOrAdd)
        ]
    );
    assert_eq!(edits.response_remove, ["server"]);
    let added = &edits.response_add[0];
    assert_eq!(
        (added.value.literal().unwrap(), added.action),
        ("%%", A::OverwriteOrAdd)
    );
}

#[test]
fn a_virtual_host_of_its_own_is_named_after_its_table() {
    let mut message = host(route());
    message.name = "slot/10205/app-1".into();
    let resource = decode(&pack(&message), &Known).unwrap();
    assert_eq!(
        (resource.kind(), resource.name()),
        (ResourceType::VirtualHost, "slot/10205/app-1")
    );
    assert_eq!(
        split_virtual_host_name("slot/10205/app-1"),
        Some(("slot/10205", "app-1"))
    );

    for name in ["app-1", "/app-1", "wildcard/"] {
        message.name = name.into();
        let rejected = decode(&pack(&message), &Known).unwrap_err();
        assert_eq!(rejected.name, name);
        assert!(
            rejected
                .invalid
                .to_string()
                .starts_with("name: must be <route configuration>/")
        );
    }
    // VHDS names the resource, not the virtual host in it.
    message.name = "anything".into();
    let resource = decode_named("wildcard/app-1", &pack(&message), &Known).unwrap();
    assert_eq!(resource.name(), "wildcard/app-1");

    let rejected = decode_named("other", &pack(&table()), &Known).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "route \"other\": was delivered under the name \"other\" but is named \"routes\""
    );
}
