//! What `[[causeway.policies]]` gives to circuits, as filters of Envoy and what routes tell them.
//!
//! The filters stand in the chain of each frontend and do nothing on their own; the route of a
//! circuit switches on what the circuit gets.

use std::time::Duration;

use causeway_xds::proto::causeway::v1::SharedRateLimit;
use causeway_xds::proto::core::http_uri::HttpUpstreamType;
use causeway_xds::proto::core::{HttpUri, RuntimeFractionalPercent, TypedExtensionConfig};
use causeway_xds::proto::endpoint::{Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint};
use causeway_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType,
};
use causeway_xds::proto::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use causeway_xds::proto::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use causeway_xds::proto::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use causeway_xds::proto::envoy::extensions::filters::http::compressor::v3 as compressor;
use causeway_xds::proto::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use causeway_xds::proto::envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
use causeway_xds::proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use causeway_xds::proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use causeway_xds::proto::envoy::r#type::matcher::v3::{
    ListStringMatcher, RegexMatcher, StringMatcher,
};
use causeway_xds::proto::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use causeway_xds::proto::google::protobuf::{Struct, Value, value};
use causeway_xds::proto::hcm::HttpFilter;
use causeway_xds::proto::route::route_action::HashPolicy;
use causeway_xds::proto::route::route_action::hash_policy::{self, PolicySpecifier};
use causeway_xds::proto::{Any, BoolValue, Cluster, ClusterLoadAssignment};
use causeway_xds::type_url::pack_as;

use super::filters::filter;
use super::listener::{address, duration, uint32};
use crate::config::{Authorizer, Coding, Connections, Policy, RateLimit, Traffic};
use crate::coordinator::model::{AppMode, Circuit};

pub const CORS: &str = "envoy.filters.http.cors";
const LIMIT: &str = "envoy.filters.http.local_ratelimit";
const LIMIT_MESSAGE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// Below which compression costs more than it saves.
const LEAST_LENGTH: u32 = 256;
/// As the filter `ext_authz` calls it: what the authorizer may say no client says.
const EXCLUSIVE: &str = "causeway.exclusive_upstream_headers";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether an entry is about a circuit.
fn fits(policy: &Policy, circuit: &Circuit) -> bool {
    let mode = match circuit.app_mode {
        AppMode::Interactive => Traffic::Interactive,
        AppMode::Inference => Traffic::Inference,
    };
    policy.app.as_ref().is_none_or(|app| *app == circuit.app)
        && policy.mode.is_none_or(|wanted| wanted == mode)
        && policy.user.is_none_or(|id| circuit.user_id == Some(id))
        && policy
            .endpoint
            .is_none_or(|id| circuit.endpoint_id == Some(id))
}

/// Of several entries the first that names a thing, and its place among them.
fn first<'p, T>(
    policies: &'p [Policy],
    circuit: &Circuit,
    named: impl Fn(&'p Policy) -> Option<&'p T>,
) -> Option<(usize, &'p T)> {
    let mut all = policies.iter().enumerate();
    all.find_map(|(place, policy)| {
        let named = named(policy)?;
        fits(policy, circuit).then_some((place, named))
    })
}

/// The filters that all entries together need. Whoever is not let in costs nothing else, and what
/// is asked before a request (CORS) needs no credentials.
pub fn chain(policies: &[Policy]) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if policies.iter().any(|policy| policy.cors.is_some()) {
        let message = "envoy.extensions.filters.http.cors.v3.Cors";
        filters.push(filter(CORS, &Cors {}, message));
    }
    if policies.iter().any(|policy| policy.rate_limit.is_some()) {
        let limit = LocalRateLimit {
            stat_prefix: "policies".to_owned(),
            ..LocalRateLimit::default()
        };
        filters.push(filter(LIMIT, &limit, LIMIT_MESSAGE));
    }
    for (place, policy) in policies.iter().enumerate() {
        if let Some(authorizer) = &policy.authorizer {
            filters.push(asking(place, authorizer));
        }
    }
    for coding in [Coding::Zstd, Coding::Br, Coding::Gzip] {
        let wanted = |policy: &Policy| policy.compression.iter().flatten().any(|c| *c == coding);
        if policies.iter().any(wanted) {
            filters.push(compressing(coding));
        }
    }
    filters
}

/// What the route of a circuit says to them, by their names.
pub fn per_route(policies: &[Policy], circuit: &Circuit) -> Vec<(String, Any)> {
    let mut said = Vec::new();
    if let Some((_, cors)) = first(policies, circuit, |policy| policy.cors.as_ref()) {
        let origin = |origin: &String| StringMatcher {
            ignore_case: false,
            match_pattern: Some(match origin.as_str() {
                "*" => MatchPattern::SafeRegex(RegexMatcher {
                    regex: ".*".to_owned(),
                    ..RegexMatcher::default()
                }),
                origin => MatchPattern::Exact(origin.to_owned()),
            }),
        };
        let policy = CorsPolicy {
            allow_origin_string_match: cors.origins.iter().map(origin).collect(),
            allow_methods: cors.methods.join(", "),
            allow_headers: cors.headers.join(", "),
            expose_headers: cors.exposed.join(", "),
            max_age: match cors.max_age.as_secs() {
                0 => String::new(),
                seconds => seconds.to_string(),
            },
            allow_credentials: Some(BoolValue {
                value: cors.credentials,
            }),
            ..CorsPolicy::default()
        };
        let message = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
        said.push((CORS.to_owned(), pack_as(&policy, message)));
    }
    if let Some((_, limit)) = first(policies, circuit, |policy| policy.rate_limit.as_ref()) {
        // However a request comes to the circuit, it is counted once.
        let shared = SharedRateLimit {
            share_key: format!("circuit/{}", circuit.id),
            limit: Some(pack_as(&limited(limit), LIMIT_MESSAGE)),
        };
        let message = "causeway.v1.SharedRateLimit";
        said.push((LIMIT.to_owned(), pack_as(&shared, message)));
    }
    if let Some((place, _)) = first(policies, circuit, |policy| policy.authorizer.as_ref()) {
        use ext_authz::ext_authz_per_route::Override;
        let settings = ext_authz::ExtAuthzPerRoute {
            r#override: Some(Override::CheckSettings(ext_authz::CheckSettings {
                context_extensions: [("circuit".to_owned(), circuit.id.to_string())].into(),
                ..ext_authz::CheckSettings::default()
            })),
        };
        let message = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
        said.push((authorizer(place), pack_as(&settings, message)));
    }
    if let Some((_, codings)) = first(policies, circuit, |policy| policy.compression.as_ref()) {
        use compressor::compressor_per_route::Override;
        let on = compressor::CompressorPerRoute {
            r#override: Some(Override::Overrides(compressor::CompressorOverrides {
                response_direction_config: Some(compressor::ResponseDirectionOverrides::default()),
                ..compressor::CompressorOverrides::default()
            })),
        };
        let message = "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute";
        let all = codings.iter();
        said.extend(all.map(|coding| (compressor_name(*coding).to_owned(), pack_as(&on, message))));
    }
    said
}

/// Whether a circuit keeps its clients at the kernels that they came to first. Kernels that are
/// relayed to as bytes see no requests that could be told apart.
pub fn is_sticky(policies: &[Policy], circuit: &Circuit) -> bool {
    let named = first(policies, circuit, |policy| policy.sticky.as_ref());
    circuit.protocol.is_http() && named.is_some_and(|(_, sticky)| *sticky)
}

/// A cookie that ends with the browser; its value tells nothing of kernels. Circuits can share a
/// host, so each has its own.
pub fn affinity(circuit: &Circuit) -> HashPolicy {
    HashPolicy {
        terminal: false,
        policy_specifier: Some(PolicySpecifier::Cookie(hash_policy::Cookie {
            name: format!("causeway-sticky-{}", circuit.id.simple()),
            ttl: Some(duration(Duration::ZERO)),
            path: "/".to_owned(),
            attributes: Vec::new(),
        })),
    }
}

/// How much the kernels of a circuit may be asked for at once.
pub fn connections(policies: &[Policy], circuit: &Circuit) -> Option<Connections> {
    let named = first(policies, circuit, |policy| policy.connections.as_ref());
    named.map(|(_, connections)| *connections)
}

/// Those whom the filters ask.
pub fn clusters(policies: &[Policy]) -> Vec<Cluster> {
    let all = policies.iter().enumerate();
    let asked = all.filter_map(|(place, policy)| {
        let authorizer_at = policy.authorizer.as_ref()?.address;
        let endpoint = LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                address: Some(address(authorizer_at)),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        };
        let name = authorizer_cluster(place);
        Some(Cluster {
            name: name.clone(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
            connect_timeout: Some(duration(CONNECT_TIMEOUT)),
            load_assignment: Some(ClusterLoadAssignment {
                cluster_name: name,
                endpoints: vec![LocalityLbEndpoints {
                    lb_endpoints: vec![endpoint],
                    ..LocalityLbEndpoints::default()
                }],
                ..ClusterLoadAssignment::default()
            }),
            ..Cluster::default()
        })
    });
    asked.collect()
}

fn authorizer(place: usize) -> String {
    format!("envoy.filters.http.ext_authz/{place}")
}

fn authorizer_cluster(place: usize) -> String {
    format!("authorizer/{place}")
}

/// Off unless a route switches it on.
fn off(filter: HttpFilter) -> HttpFilter {
    HttpFilter {
        disabled: true,
        ..filter
    }
}

fn asking(place: usize, authorizer_of: &Authorizer) -> HttpFilter {
    let Authorizer {
        address,
        path,
        timeout,
        headers,
        upstream_headers,
        fail_open,
    } = authorizer_of;
    let service = ext_authz::HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{address}"),
            timeout: Some(duration(*timeout)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(authorizer_cluster(place))),
        }),
        path_prefix: path.clone(),
        authorization_response: Some(ext_authz::AuthorizationResponse {
            allowed_upstream_headers: named(upstream_headers),
            ..ext_authz::AuthorizationResponse::default()
        }),
        ..ext_authz::HttpService::default()
    };
    let yes = Value {
        kind: Some(value::Kind::BoolValue(true)),
    };
    let config = ext_authz::ExtAuthz {
        services: Some(ext_authz::ext_authz::Services::HttpService(service)),
        allowed_headers: named(headers),
        failure_mode_allow: *fail_open,
        stat_prefix: format!("authorizer_{place}"),
        // What an app takes for the authorizer's word must not be the client's.
        filter_metadata: Some(Struct {
            fields: [(EXCLUSIVE.to_owned(), yes)].into_iter().collect(),
        }),
        ..ext_authz::ExtAuthz::default()
    };
    let message = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    off(filter(&authorizer(place), &config, message))
}

fn named(list: &[String]) -> Option<ListStringMatcher> {
    let exact = |name: &String| StringMatcher {
        ignore_case: true,
        match_pattern: Some(MatchPattern::Exact(name.clone())),
    };
    (!list.is_empty()).then(|| ListStringMatcher {
        patterns: list.iter().map(exact).collect(),
    })
}

fn always() -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        runtime_key: String::new(),
    })
}

fn limited(limit: &RateLimit) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "policies".to_owned(),
        token_bucket: Some(TokenBucket {
            max_tokens: limit.burst,
            tokens_per_fill: Some(uint32(limit.requests)),
            fill_interval: Some(duration(limit.per)),
        }),
        filter_enabled: always(),
        filter_enforced: always(),
        ..LocalRateLimit::default()
    }
}

const fn compressor_name(coding: Coding) -> &'static str {
    match coding {
        Coding::Gzip => "envoy.filters.http.compressor/gzip",
        Coding::Br => "envoy.filters.http.compressor/br",
        Coding::Zstd => "envoy.filters.http.compressor/zstd",
    }
}

fn compressing(coding: Coding) -> HttpFilter {
    let library = |name: &str, config: Any| TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    };
    let package = "envoy.extensions.compression";
    let packed = |message: &dyn Fn(&str) -> Any, name: &str| {
        library(name, message(&format!("{package}.{name}")))
    };
    let library = match coding {
        Coding::Gzip => packed(
            &|name| pack_as(&Gzip::default(), name),
            "gzip.compressor.v3.Gzip",
        ),
        Coding::Br => packed(
            &|name| pack_as(&Brotli::default(), name),
            "brotli.compressor.v3.Brotli",
        ),
        Coding::Zstd => packed(
            &|name| pack_as(&Zstd::default(), name),
            "zstd.compressor.v3.Zstd",
        ),
    };
    let config = compressor::Compressor {
        compressor_library: Some(library),
        response_direction_config: Some(compressor::compressor::ResponseDirectionConfig {
            common_config: Some(compressor::compressor::CommonDirectionConfig {
                min_content_length: Some(uint32(LEAST_LENGTH)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..compressor::Compressor::default()
    };
    let message = "envoy.extensions.filters.http.compressor.v3.Compressor";
    off(filter(compressor_name(coding), &config, message))
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::Message as _;
    use causeway_xds::proto::hcm::http_filter;

    use super::*;

    #[test]
    fn only_an_authorizer_says_what_it_may_say() {
        let authorizer = Authorizer {
            address: ([127, 0, 0, 1], 9000).into(),
            path: String::new(),
            timeout: Duration::from_secs(1),
            headers: Vec::new(),
            upstream_headers: vec!["x-user".to_owned()],
            fail_open: true,
        };
        let Some(http_filter::ConfigType::TypedConfig(config)) = asking(0, &authorizer).config_type
        else {
            panic!("no configuration")
        };
        let config = ext_authz::ExtAuthz::decode(config.value.as_slice()).unwrap();
        let said = &config.filter_metadata.unwrap().fields[EXCLUSIVE];
        assert_eq!(said.kind, Some(value::Kind::BoolValue(true)));
    }

    #[test]
    fn nothing_is_in_the_chain_that_nobody_gets() {
        assert!(chain(&[]).is_empty() && clusters(&[]).is_empty());
        let limit = RateLimit {
            requests: 1,
            per: Duration::from_secs(1),
            burst: 1,
        };
        let policies = [Policy {
            rate_limit: Some(limit),
            ..Policy::default()
        }];
        let names: Vec<String> = chain(&policies).into_iter().map(|f| f.name).collect();
        assert_eq!(names, [LIMIT]);
    }
}
