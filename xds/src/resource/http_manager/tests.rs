mod refusals;

use super::*;
use crate::proto::core::Http2ProtocolOptions;
use crate::proto::envoy::config::accesslog::v3::{AccessLog, access_log};
use crate::proto::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use crate::proto::envoy::extensions::http::original_ip_detection::xff::v3::{
    XffConfig, XffTrustedCidrs,
};
use crate::proto::hcm::http_connection_manager::{
    InternalAddressConfig, RouteSpecifier, StripPortMode, UpgradeConfig,
};
use crate::proto::{self, BoolValue};
use crate::resource::listener::NetworkFilter;
use crate::resource::testing::*;
use crate::resource::{Reference, Resource};
use crate::type_url::{ResourceType, pack};

const AT: &str = "filter_chains[0].filters[0].typed_config";

fn typed(message: proto::HttpConnectionManager) -> HttpManager {
    let Resource::Listener(listener) = resource(&with_manager(message)) else {
        panic!()
    };
    let NetworkFilter::Http(manager) = &listener.filter_chains[0].filter else {
        panic!()
    };
    (**manager).clone()
}

fn upgrade(kind: &str) -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: kind.into(),
        ..Default::default()
    }
}

#[test]
fn a_small_manager_gets_envoys_defaults() {
    let manager = typed(manager());
    assert_eq!(manager.codec, Codec::Auto);
    assert_eq!(manager.timeouts, Timeouts::default());
    assert_eq!(
        (manager.max_request_headers_kb, manager.max_headers_count),
        (60, 100)
    );
    assert_eq!(manager.server_name, "envoy");
    assert_eq!(manager.path, PathRules::default());
    assert_eq!(manager.http2, Http2Options::default());
    assert!(!manager.resets_malformed);
    assert!(manager.generate_request_id);
    assert!(!manager.forwarded.use_remote_address);
    let RouteSource::Rds { name, source } = &manager.routes else {
        panic!()
    };
    assert_eq!(name, "routes");
    assert_eq!(source.initial_fetch_timeout, Duration::from_secs(15));
}

#[test]
fn what_is_told_of_failures_and_of_the_scheme_is_read() {
    use crate::proto::core::{SchemeHeaderTransformation, scheme_header_transformation};
    use crate::proto::hcm::http_connection_manager::{ProxyStatusConfig, proxy_status_config};
    use proxy_status_config::ProxyName as Name;
    let told = |name: Option<Name>| {
        let mut message = manager();
        message.proxy_status_config = Some(ProxyStatusConfig {
            remove_response_flags: true,
            proxy_name: name,
            ..Default::default()
        });
        typed(message).proxy_status
    };
    for (name, expected) in [
        (None, ProxyName::Server),
        (Some(Name::UseNodeId(true)), ProxyName::Node),
        (
            Some(Name::LiteralProxyName("a \"b\"".into())),
            ProxyName::Literal("a \"b\"".into()),
        ),
    ] {
        let expected = ProxyStatus {
            name: expected,
            details: true,
            flags: false,
            recommended_status: false,
        };
        assert_eq!(told(name), Some(expected));
    }
    assert_eq!(typed(manager()).proxy_status, None);

    let scheme = |match_upstream: bool, to: Option<&str>| {
        let mut message = manager();
        let to = to.map(str::to_owned);
        message.scheme_header_transformation = Some(SchemeHeaderTransformation {
            match_upstream,
            transformation: to.map(scheme_header_transformation::Transformation::SchemeToOverwrite),
        });
        typed(message).scheme
    };
    assert_eq!(scheme(false, None), SchemeRule::Keep);
    assert_eq!(scheme(true, None), SchemeRule::Upstream);
    assert_eq!(scheme(true, Some("http")), SchemeRule::Http);
    assert_eq!(scheme(false, Some("https")), SchemeRule::Https);
}

#[test]
fn malformed_requests_end_what_the_first_of_three_fields_says() {
    for (own, both, older, resets) in [
        (None, None, false, false),
        (None, None, true, true),
        (None, Some(true), false, true),
        (None, Some(false), true, false),
        (Some(false), Some(true), true, false),
        (Some(true), Some(false), false, true),
    ] {
        let mut message = manager();
        #[allow(deprecated, reason = "it is read")]
        let options = Http2ProtocolOptions {
            override_stream_error_on_invalid_http_message: own.map(|value| BoolValue { value }),
            stream_error_on_invalid_http_messaging: older,
            ..Http2ProtocolOptions::default()
        };
        message.http2_protocol_options = Some(options);
        message.stream_error_on_invalid_http_message = both.map(|value| BoolValue { value });
        assert_eq!(
            typed(message).resets_malformed,
            resets,
            "{own:?} {both:?} {older}"
        );
    }
}

#[test]
fn what_is_set_is_read() {
    let mut message = manager();
    message.codec_type = 2;
    message.request_timeout = seconds(7);
    message.stream_idle_timeout = seconds(0);
    message.common_http_protocol_options = Some(proto::core::HttpProtocolOptions {
        idle_timeout: seconds(9),
        headers_with_underscores_action: 1,
        ..Default::default()
    });
    message.normalize_path = boolean(true);
    message.path_with_escaped_slashes_action = 4;
    message.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true));
    message.upgrade_configs = vec![upgrade("WebSocket"), upgrade("*")];
    message.http_filters.insert(0, http_filter("test.Filter"));

    let manager = typed(message);
    assert_eq!(manager.codec, Codec::Http2);
    assert_eq!(manager.timeouts.request, Duration::from_secs(7));
    assert_eq!(manager.timeouts.stream_idle, Duration::ZERO);
    assert_eq!(manager.timeouts.idle, Duration::from_secs(9));
    assert_eq!(manager.underscores, Underscores::RejectRequest);
    assert_eq!(
        manager.path.escaped_slashes,
        EscapedSlashes::UnescapeAndForward
    );
    assert_eq!(manager.host.strip_port, StripPort::Any);
    let kinds: Vec<_> = manager
        .upgrades
        .iter()
        .map(|u| (u.kind.as_str(), u.enabled))
        .collect();
    assert_eq!(kinds, [("websocket", true), ("*", true)]);
    let filters: Vec<_> = manager
        .filters
        .iter()
        .map(|f| match &f.config {
            HttpFilterConfig::Inline(config) => config.message_name(),
            HttpFilterConfig::Discovered(_) => panic!("in place"),
        })
        .collect();
    assert_eq!(filters, ["test.Filter", ROUTER]);
}

#[test]
fn an_unknown_filter_is_left_out_only_if_it_is_optional() {
    let mut message = manager();
    message.http_filters.insert(0, http_filter("test.Unknown"));
    message.http_filters[0].is_optional = true;
    let decoded = decoded(&with_manager(message.clone()));
    assert_eq!(decoded.ignored, ["HttpFilter.unknown_optional_filter"]);

    message.http_filters[0].is_optional = false;
    assert_eq!(
        refusal(&with_manager(message)),
        format!(
            "{AT}.http_filters[0].typed_config: extension type \
             \"type.googleapis.com/test.Unknown\" is not supported"
        )
    );
}

fn trusting(networks: &[(&str, u32)]) -> XffConfig {
    let range = |(address, length): &(&str, u32)| proto::core::CidrRange {
        address_prefix: (*address).into(),
        prefix_len: uint(*length),
    };
    XffConfig {
        xff_trusted_cidrs: Some(XffTrustedCidrs {
            cidrs: networks.iter().map(range).collect(),
        }),
        ..Default::default()
    }
}

fn detect(message: &mut proto::HttpConnectionManager, configs: &[XffConfig]) {
    let extension = |config| proto::core::TypedExtensionConfig {
        name: "xff".into(),
        typed_config: Some(pack(config)),
    };
    message.original_ip_detection_extensions = configs.iter().map(extension).collect();
}

#[test]
fn who_is_believed_about_the_client_is_read() {
    let read = |config: XffConfig| {
        let mut message = manager();
        detect(&mut message, &[config]);
        typed(message).forwarded.detection.unwrap()
    };
    let networks = trusting(&[("10.1.2.3", 8), ("::1", 128), ("0.0.0.0", 0)]);
    let detection = read(XffConfig {
        skip_xff_append: boolean(false),
        ..networks
    });
    assert!(detection.append);
    let Trusted::Networks(networks) = detection.trusted else {
        panic!()
    };
    let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.2.3/8", "::1/128", "0.0.0.0/0"]);

    let detection = read(XffConfig {
        xff_num_trusted_hops: 2,
        ..Default::default()
    });
    let expected = Detection {
        trusted: Trusted::Hops(2),
        append: false,
    };
    assert_eq!(detection, expected);
    assert_eq!(typed(manager()).forwarded.detection, None);
}

#[test]
fn a_field_that_says_who_the_client_is_is_read() {
    let read = |name: &str, status: Option<i32>| {
        let mut message = manager();
        message.original_ip_detection_extensions = vec![proto::core::TypedExtensionConfig {
            name: "header".into(),
            typed_config: Some(pack(&CustomHeaderConfig {
                header_name: name.into(),
                reject_with_status: status
                    .map(|code| proto::envoy::r#type::v3::HttpStatus { code }),
                ..Default::default()
            })),
        }];
        message
    };
    let otherwise = |status| match typed(read("X-Client", status)).forwarded.detection {
        Some(Detection {
            trusted: Trusted::Header {
                name, otherwise, ..
            },
            append: true,
        }) => {
            assert_eq!(name, "x-client");
            otherwise
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(otherwise(None), None);
    for (given, used) in [(401, 401), (511, 511), (200, 403), (512, 403), (-1, 403)] {
        assert_eq!(otherwise(Some(given)), Some(used));
    }
    let refused = refusal(&with_manager(read("a b", None)));
    assert!(
        refused.contains("original_ip_detection_extensions[0].typed_config.header_name"),
        "{refused}"
    );
}

#[test]
fn early_mutations_are_read_in_their_order() {
    let mut message = manager();
    let fields = "mutations: [{remove: X-A}, {remove_on_match: {key_matcher: {prefix: x-b-}}}, \
                  {append: {header: {key: x-c, value: d}}}]";
    let text = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
    message.early_header_mutation_extensions = vec![early(text, fields)];
    let [
        HeaderMutation::Remove(removed),
        HeaderMutation::RemoveMatching(matcher),
        HeaderMutation::Edit(edit),
    ] = &typed(message).early_edits[..]
    else {
        panic!()
    };
    assert_eq!((&**removed, &*edit.name), ("x-a", "x-c"));
    assert_eq!(
        matcher.pattern,
        crate::resource::matcher::StringPattern::Prefix("x-b-".into())
    );
    let mut message = manager();
    message.early_header_mutation_extensions =
        vec![early(text, "mutations: [{remove_on_match: {}}]")];
    let refused = refusal(&with_manager(message));
    let at = "early_header_mutation_extensions[0].typed_config.mutations[0].remove_on_match";
    assert!(
        refused.ends_with(&format!("{at}.key_matcher: must be given")),
        "{refused}"
    );
}

/// An extension from its text.
fn early(message: &str, fields: &str) -> proto::core::TypedExtensionConfig {
    let text = format!("{{'@type': type.googleapis.com/{message}, {fields}}}");
    let any = crate::text::parse_any(&text, &crate::text::Options::default());
    proto::core::TypedExtensionConfig {
        name: "early".into(),
        typed_config: Some(any.expect("a message")),
    }
}

#[test]
fn a_field_without_effect_is_accepted_and_noted() {
    let mut message = manager();
    message.http1_safe_max_connection_duration = true;
    assert_eq!(
        decoded(&with_manager(message)).ignored,
        ["HttpConnectionManager.http1_safe_max_connection_duration"]
    );
}

#[test]
fn rds_and_inline_vhds_are_references() {
    let rds = resource(&listener()).references();
    let [
        Reference {
            kind: ResourceType::RouteConfiguration,
            name,
            source,
            optional: false,
        },
    ] = &rds[..]
    else {
        panic!("{rds:?}")
    };
    assert_eq!(
        (name.as_str(), &source.place),
        ("routes", &crate::resource::config_source::Place::SameOrigin)
    );

    let mut message = manager();
    let mut inline = routes(host(to(forward())));
    inline.vhds = Some(proto::route::Vhds {
        config_source: same_origin(),
    });
    message.route_specifier = Some(RouteSpecifier::RouteConfig(inline));
    let vhds = resource(&with_manager(message)).references();
    assert_eq!(
        (vhds[0].kind, vhds[0].name.as_str()),
        (ResourceType::VirtualHost, "routes/")
    );
}

fn discovered(change: fn(&mut proto::core::ExtensionConfigSource)) -> proto::HttpConnectionManager {
    let mut source = proto::core::ExtensionConfigSource {
        config_source: same_origin(),
        type_urls: vec!["type.googleapis.com/test.Filter".into()],
        ..Default::default()
    };
    change(&mut source);
    let mut filter = http_filter("far");
    filter.config_type = Some(proto::hcm::http_filter::ConfigType::ConfigDiscovery(source));
    let mut manager = manager();
    manager.http_filters.insert(0, filter);
    manager
}

#[test]
fn a_filter_may_have_its_configuration_elsewhere() {
    let message = with_manager(discovered(|source| {
        source.default_config = Some(any("test.Filter", b"x"));
        source.apply_default_config_without_warming = true;
    }));
    let listener = resource(&message);
    let all = listener.references();
    let reference = all
        .iter()
        .find(|r| r.kind == ResourceType::FilterConfig)
        .unwrap();
    assert_eq!((&*reference.name, reference.optional), ("far", true));

    const AT: &str = "filter_chains[0].filters[0].typed_config.http_filters[0].config_discovery";
    let cases: [Case<proto::core::ExtensionConfigSource>; 7] = [
        ("config_source: must be given", |s| s.config_source = None),
        ("type_urls: must have at least one", |s| s.type_urls.clear()),
        (
            "type_urls[1]: extension type \"x/test.Unknown\" is not supported",
            |s| s.type_urls.push("x/test.Unknown".into()),
        ),
        ("type_urls[0]: the router cannot be discovered", |s| {
            s.type_urls[0] = ROUTER.into();
        }),
        (
            "default_config: is a envoy.extensions.filters.http.router.v3.Router, expected test.Filter",
            |s| s.default_config = Some(any(ROUTER, b"")),
        ),
        ("default_config.inner: is bad", |s| {
            s.default_config = Some(any("test.Filter", b"bad"));
        }),
        (
            "apply_default_config_without_warming: there is no `default_config` to apply",
            |s| s.apply_default_config_without_warming = true,
        ),
    ];
    for (expected, change) in cases {
        let refused = refusal(&with_manager(discovered(change)));
        assert_eq!(refused, format!("{AT}.{expected}"));
    }
}

#[test]
fn the_configuration_of_a_filter_is_a_resource() {
    let message = |config| proto::core::TypedExtensionConfig {
        name: "far".into(),
        typed_config: Some(config),
    };
    let Resource::FilterConfig(config) = resource(&message(any("test.Filter", b"x"))) else {
        panic!("a configuration")
    };
    assert_eq!(config.config.message_name(), "test.Filter");
    assert_eq!(
        refusal(&message(any("test.Filter", b"bad"))),
        "typed_config.inner: is bad"
    );
    assert_eq!(
        refusal(&proto::core::TypedExtensionConfig::default()),
        "name: must not be empty"
    );
}
