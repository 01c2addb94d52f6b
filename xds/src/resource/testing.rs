//! Messages to start from, and tables of changes that must be refused.

use super::{Decoded, Resource, decode_noting};
use crate::extension::{Extensions, TypedExtension};
use crate::proto::core::{self, TransportSocket, socket_address::PortSpecifier};
use crate::proto::listener::{Filter, FilterChain, filter};
use crate::proto::route::{self, route_action, route_match};
use crate::proto::{self, Any, Message, hcm};
use crate::reject::Invalid;
use crate::type_url::{PREFIX, pack};

pub(crate) const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
pub(crate) const CERTIFICATE: &str =
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
pub(crate) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

/// Knows the router and a filter `test.Filter`; nothing may contain `bad`.
pub(crate) struct Known;

impl Known {
    fn check(extension: &TypedExtension, known: &[&str]) -> Result<(), Invalid> {
        if !known.contains(&extension.message_name()) {
            return Err(super::context::unknown_type(&extension.type_url));
        }
        match extension.value.starts_with(b"bad") {
            true => Err(Invalid::at("inner", "is bad")),
            false => Ok(()),
        }
    }
}

impl Extensions for Known {
    fn knows_http_filter(&self, message_name: &str) -> bool {
        [ROUTER, "test.Filter"].contains(&message_name)
    }

    fn check_http_filter(&self, filter: &TypedExtension) -> Result<(), Invalid> {
        Self::check(filter, &[ROUTER, "test.Filter"])
    }

    fn check_per_route(&self, _: &str, config: &TypedExtension) -> Result<(), Invalid> {
        Self::check(config, &["test.Filter"])
    }
}

pub(crate) fn any(name: &str, value: &[u8]) -> Any {
    Any {
        type_url: format!("{PREFIX}{name}"),
        value: value.to_vec(),
    }
}

pub(crate) fn extension(name: &str) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: "x".into(),
        typed_config: Some(any(name, b"")),
    }
}

pub(crate) fn decoded<M: Message + prost::Name>(message: &M) -> Decoded {
    decode_noting(&pack(message), None, &Known).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn resource<M: Message + prost::Name>(message: &M) -> Resource {
    decoded(message).resource
}

/// `path: reason` of the refusal.
pub(crate) fn refusal<M: Message + prost::Name>(message: &M) -> String {
    match decode_noting(&pack(message), None, &Known) {
        Err(rejected) => rejected.invalid.to_string(),
        Ok(_) => "accepted".to_owned(),
    }
}

/// A change to a message, and the refusal it must lead to.
pub(crate) type Case<M> = (&'static str, fn(&mut M));

/// Tries each change on a message of its own; `wrap` puts the message into a resource.
pub(crate) fn assert_refused<M, R: Message + prost::Name>(
    start: fn() -> M,
    wrap: fn(M) -> R,
    at: &str,
    cases: &[Case<M>],
) {
    resource(&wrap(start()));
    for (expected, change) in cases {
        let mut message = start();
        change(&mut message);
        let expected = match at {
            "" => (*expected).to_owned(),
            _ => format!("{at}.{expected}"),
        };
        assert_eq!(refusal(&wrap(message)), expected);
    }
}

pub(crate) fn uint(value: u32) -> Option<proto::UInt32Value> {
    Some(proto::UInt32Value { value })
}

pub(crate) fn boolean(value: bool) -> Option<proto::BoolValue> {
    Some(proto::BoolValue { value })
}

pub(crate) fn seconds(seconds: i64) -> Option<proto::Duration> {
    Some(proto::Duration { seconds, nanos: 0 })
}

pub(crate) fn address(host: &str, port: u32) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    })
}

pub(crate) fn same_origin() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Self_(
            core::SelfConfigSource::default(),
        )),
        ..Default::default()
    })
}

pub(crate) fn inline(text: &str) -> Option<core::DataSource> {
    let specifier = Some(core::data_source::Specifier::InlineString(text.into()));
    Some(core::DataSource {
        specifier,
        ..Default::default()
    })
}

pub(crate) fn certificate() -> proto::tls::TlsCertificate {
    proto::tls::TlsCertificate {
        certificate_chain: inline(CERTIFICATE),
        private_key: inline(KEY),
        ..Default::default()
    }
}

pub(crate) fn transport_socket(config: Any) -> Option<TransportSocket> {
    Some(TransportSocket {
        name: "x".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    })
}

pub(crate) fn http_filter(name: &str) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(name, b""))),
        ..Default::default()
    }
}

pub(crate) fn manager() -> proto::HttpConnectionManager {
    proto::HttpConnectionManager {
        stat_prefix: "http".into(),
        http_filters: vec![http_filter(ROUTER)],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
            hcm::Rds {
                config_source: same_origin(),
                route_config_name: "routes".into(),
            },
        )),
        ..Default::default()
    }
}

pub(crate) fn filter(config: Any) -> Filter {
    Filter {
        name: "x".into(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn chain(config: Any) -> FilterChain {
    FilterChain {
        filters: vec![filter(config)],
        ..Default::default()
    }
}

pub(crate) fn listener() -> proto::Listener {
    with_manager(manager())
}

pub(crate) fn with_manager(manager: proto::HttpConnectionManager) -> proto::Listener {
    proto::Listener {
        name: "front".into(),
        address: address("127.0.0.1", 8080),
        filter_chains: vec![chain(pack(&manager))],
        ..Default::default()
    }
}

pub(crate) fn cluster() -> proto::Cluster {
    proto::Cluster {
        name: "app".into(),
        ..Default::default()
    }
}

pub(crate) fn forward() -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster("app".into())),
        ..Default::default()
    }
}

pub(crate) fn to(action: route::RouteAction) -> route::Route {
    route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

pub(crate) fn host(route: route::Route) -> proto::VirtualHost {
    proto::VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..Default::default()
    }
}

pub(crate) fn routes(host: proto::VirtualHost) -> proto::RouteConfiguration {
    proto::RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: vec![host],
        ..Default::default()
    }
}
