//! What a route does with a request: message to typed.

use std::time::Duration;

use super::{
    Action, DirectResponse, Forward, HostRewrite, PathMatch, PathRewrite, Redirect, Retry, Upgrade,
};
use crate::proto::BoolValue;
use crate::proto::route::route::Action as Kind;
use crate::proto::route::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, UpgradeConfig,
};
use crate::proto::route::{DirectResponseAction, RouteAction};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, duration, each, enumeration, fault, flag, not_empty, refuse, required,
};
use crate::resource::headers::header_value;
use crate::resource::matcher::substitution;
use crate::resource::tls::DataSource;

/// `timeout` of a route when it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest body of a direct response that is read from a file at all. The real limit is in the
/// route configuration.
const MAX_DIRECT_FILE: usize = 16 * 1024 * 1024;

fn unsupported<T>(field: &str) -> Result<T, Invalid> {
    Err(Invalid::at(field, "not supported yet"))
}

impl Action {
    pub(super) fn decode(message: Kind, ctx: &Context<'_>) -> Result<Self, Invalid> {
        match message {
            Kind::Route(action) => Forward::decode(action, ctx)
                .at("route")
                .map(|f| Self::Forward(Box::new(f))),
            Kind::Redirect(action) => Redirect::decode(action, ctx)
                .at("redirect")
                .map(|r| Self::Redirect(Box::new(r))),
            Kind::DirectResponse(action) => DirectResponse::decode(action)
                .at("direct_response")
                .map(Self::Direct),
            Kind::FilterAction(_) => unsupported("filter_action"),
            Kind::NonForwardingAction(_) => unsupported("non_forwarding_action"),
        }
    }

    /// Turns a rewrite of the matched prefix to `/` into one that tells the upstream what was cut.
    pub(super) fn strip_prefix(&mut self, path: &PathMatch) -> Result<(), Invalid> {
        let Self::Forward(forward) = self else {
            return Err(Invalid::at(
                "metadata",
                "only a route to a cluster can strip its prefix",
            ));
        };
        if !matches!(&forward.path_rewrite, PathRewrite::Prefix(to) if to == "/") {
            return Err(Invalid::at(
                "route.prefix_rewrite",
                "must be \"/\" on a route that strips its prefix",
            ));
        }
        if !matches!(path, PathMatch::Prefix(_) | PathMatch::SeparatedPrefix(_)) {
            return Err(Invalid::at(
                "match",
                "must be a prefix, for the route strips it",
            ));
        }
        forward.path_rewrite = PathRewrite::StripPrefix;
        Ok(())
    }
}

impl Forward {
    fn decode(message: RouteAction, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = message;
        refuse!(
            metadata_match,
            path_rewrite_policy,
            path_rewrite,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            internal_redirect_policy,
            internal_redirect_action,
            hedge_policy,
            max_stream_duration,
        );
        accept!(ctx, "RouteAction":
            flush_timeout,
            early_data_policy,
            include_vh_rate_limits,
            max_internal_redirects,
        );

        header_value(&prefix_rewrite).at("prefix_rewrite")?;
        let path_rewrite = match (prefix_rewrite.is_empty(), regex_rewrite) {
            (true, None) => PathRewrite::None,
            (false, None) => PathRewrite::Prefix(prefix_rewrite),
            (true, Some(regex)) => {
                let (pattern, substitution) = substitution(regex, ctx).at("regex_rewrite")?;
                PathRewrite::Regex {
                    pattern,
                    substitution,
                }
            }
            (false, Some(_)) => {
                return Err(Invalid::at(
                    "regex_rewrite",
                    "is given together with prefix_rewrite",
                ));
            }
        };
        Ok(Self {
            cluster: cluster_name(cluster_specifier)?,
            cluster_not_found: not_found_status(cluster_not_found_response_code)?,
            path_rewrite,
            host_rewrite: HostRewrite::decode(host_rewrite_specifier)?,
            timeout: duration(timeout, "timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            idle_timeout: duration(idle_timeout, "idle_timeout")?,
            upgrades: Upgrade::decode_all(upgrade_configs, |config| {
                let UpgradeConfig {
                    upgrade_type,
                    enabled,
                    connect_config,
                } = config;
                refuse!(connect_config);
                Upgrade::decode(upgrade_type, enabled)
            })?,
            append_x_forwarded_host,
            retry: match retry_policy {
                None => Retry::default(),
                Some(policy) => Retry::decode(policy).at("retry_policy")?,
            },
        })
    }
}

fn cluster_name(message: Option<ClusterSpecifier>) -> Result<String, Invalid> {
    match required(message, "cluster_specifier")? {
        ClusterSpecifier::Cluster(name) => not_empty(name, "cluster"),
        ClusterSpecifier::ClusterHeader(_) => unsupported("cluster_header"),
        ClusterSpecifier::WeightedClusters(_) => unsupported("weighted_clusters"),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => unsupported("cluster_specifier_plugin"),
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            unsupported("inline_cluster_specifier_plugin")
        }
    }
}

fn not_found_status(code: i32) -> Result<u16, Invalid> {
    Ok(
        match enumeration(code, "cluster_not_found_response_code")? {
            ClusterNotFoundResponseCode::ServiceUnavailable => 503,
            ClusterNotFoundResponseCode::NotFound => 404,
            ClusterNotFoundResponseCode::InternalServerError => 500,
        },
    )
}

impl HostRewrite {
    fn decode(message: Option<HostRewriteSpecifier>) -> Result<Self, Invalid> {
        let Some(message) = message else {
            return Ok(Self::None);
        };
        match message {
            HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }) => Ok(Self::Auto),
            HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: false }) => Ok(Self::None),
            HostRewriteSpecifier::HostRewriteLiteral(host) => {
                header_value(&host).at("host_rewrite_literal")?;
                // Set but empty is the same as not set, in Envoy too.
                Ok(if host.is_empty() {
                    Self::None
                } else {
                    Self::Literal(host)
                })
            }
            HostRewriteSpecifier::HostRewriteHeader(_) => unsupported("host_rewrite_header"),
            HostRewriteSpecifier::HostRewritePathRegex(_) => unsupported("host_rewrite_path_regex"),
            HostRewriteSpecifier::HostRewrite(_) => unsupported("host_rewrite"),
        }
    }
}

impl Upgrade {
    /// A list of upgrades, each type once.
    pub(crate) fn decode_all<M>(
        messages: Vec<M>,
        decode: impl FnMut(M) -> Result<Self, Invalid>,
    ) -> Result<Vec<Self>, Invalid> {
        const FIELD: &str = "upgrade_configs";
        let upgrades = each(FIELD, messages, decode)?;
        for (index, upgrade) in upgrades.iter().enumerate() {
            if upgrades[..index]
                .iter()
                .any(|earlier| earlier.kind == upgrade.kind)
            {
                return Err(Invalid::at(
                    format!("{FIELD}[{index}].upgrade_type"),
                    format!("{:?} is given twice", upgrade.kind),
                ));
            }
        }
        Ok(upgrades)
    }

    pub(crate) fn decode(kind: String, enabled: Option<BoolValue>) -> Result<Self, Invalid> {
        const FIELD: &str = "upgrade_type";
        header_value(&kind).at(FIELD)?;
        let kind = not_empty(kind, FIELD)?.to_ascii_lowercase();
        match kind.as_str() {
            // Not values of the Upgrade header but methods, which make the proxy an open tunnel.
            "connect" | "connect-udp" => {
                Err(fault(format!("{kind:?} is not supported yet"))).at(FIELD)
            }
            _ => Ok(Self {
                kind,
                enabled: flag(enabled, true),
            }),
        }
    }
}

impl DirectResponse {
    fn decode(message: DirectResponseAction) -> Result<Self, Invalid> {
        let DirectResponseAction {
            status,
            body,
            body_format,
        } = message;
        refuse!(body_format);
        let status = match u16::try_from(status) {
            Ok(status @ 200..=599) => status,
            _ => {
                return Err(Invalid::at(
                    "status",
                    format!("{status} is not within 200 and 599"),
                ));
            }
        };
        let body = body
            .map_or(Ok(Vec::new()), |body| {
                DataSource::decode(body)?.load(MAX_DIRECT_FILE)
            })
            .at("body")?;
        Ok(Self {
            status,
            body: body.into(),
        })
    }
}
