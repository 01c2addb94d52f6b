//! What a route does with a request: message to typed.

use std::sync::Arc;
use std::time::Duration;

use super::destination;
use super::{
    Action, Destination, DirectResponse, Forward, GrpcTimeout, HashPolicy, HostRewrite,
    InternalRedirect, MaxStreamDuration, Mirror, PathMatch, PathRewrite, Priority, Redirect, Retry,
    TemplateRewrite, Upgrade,
};
use crate::proto::BoolValue;
use crate::proto::core::RoutingPriority;
use crate::proto::route::route::Action as Kind;
use crate::proto::route::route_action::{
    self, ClusterNotFoundResponseCode, HostRewriteSpecifier, UpgradeConfig,
    upgrade_config::ConnectConfig,
};
use crate::proto::route::{DirectResponseAction, RouteAction};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, duration, each, enumeration, fault, flag, not_empty, refuse,
};
use crate::resource::format::FormatString;
use crate::resource::headers::{header_name, header_value};
use crate::resource::matcher::substitution;
use crate::resource::rate_limit::RateLimit;
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
    /// `path` is what the route matches by: some rewrites depend on it.
    pub(super) fn decode(
        message: Kind,
        path: &PathMatch,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        match message {
            Kind::Route(action) => Forward::decode(action, path, ctx)
                .at("route")
                .map(|f| Self::Forward(Box::new(f))),
            Kind::Redirect(action) => Redirect::decode(action, ctx)
                .at("redirect")
                .map(|r| Self::Redirect(Box::new(r))),
            Kind::DirectResponse(action) => DirectResponse::decode(action, ctx)
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
    fn decode(message: RouteAction, path: &PathMatch, ctx: &Context<'_>) -> Result<Self, Invalid> {
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
            path_rewrite,
            retry_policy_typed_config,
            cors,
            internal_redirect_action,
            hedge_policy,
        );
        let labels = destination::labels(metadata_match);
        let mut destination = Destination::decode(cluster_specifier, ctx)?;
        destination.inherit(&labels);
        accept!(ctx, "RouteAction":
            flush_timeout,
            early_data_policy,
            max_internal_redirects,
        );

        header_value(&prefix_rewrite).at("prefix_rewrite")?;
        let template = match path {
            PathMatch::Template(template) => Some(template),
            _ => None,
        };
        let rewrites = [
            Some(prefix_rewrite)
                .filter(|prefix| !prefix.is_empty())
                .map(|prefix| Ok(PathRewrite::Prefix(prefix))),
            regex_rewrite.map(|regex| {
                let (pattern, substitution) = substitution(regex, ctx).at("regex_rewrite")?;
                Ok(PathRewrite::Regex {
                    pattern,
                    substitution,
                })
            }),
            path_rewrite_policy.map(|policy| {
                TemplateRewrite::decode(policy, template)
                    .at("path_rewrite_policy")
                    .map(PathRewrite::Template)
            }),
        ];
        let mut rewrites = rewrites.into_iter().flatten();
        let path_rewrite = rewrites.next().unwrap_or(Ok(PathRewrite::None))?;
        if rewrites.next().is_some() {
            return Err(Invalid::at(
                "prefix_rewrite",
                "only one of it, regex_rewrite and path_rewrite_policy may be given",
            ));
        }
        let grpc_offset = duration(grpc_timeout_offset, "grpc_timeout_offset")?;
        Ok(Self {
            destination,
            labels,
            cluster_not_found: not_found_status(cluster_not_found_response_code)?,
            path_rewrite,
            host_rewrite: HostRewrite::decode(host_rewrite_specifier, ctx)?,
            timeout: duration(timeout, "timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            idle_timeout: duration(idle_timeout, "idle_timeout")?,
            max_stream_duration: max_stream_duration
                .map(MaxStreamDuration::decode)
                .transpose()
                .at("max_stream_duration")?,
            grpc_timeout: duration(max_grpc_timeout, "max_grpc_timeout")?.map(|max| GrpcTimeout {
                max,
                offset: grpc_offset,
            }),
            upgrades: Upgrade::decode_all(upgrade_configs, |config| {
                let UpgradeConfig {
                    upgrade_type,
                    enabled,
                    connect_config,
                } = config;
                let upgrade = Upgrade::decode(upgrade_type, enabled)?;
                let terminate = connect_config.map(check_connect).transpose();
                let terminate = terminate.at("connect_config")?.is_some();
                if terminate && upgrade.kind != CONNECT {
                    let reason = "is for the upgrade type CONNECT";
                    return Err(Invalid::at("connect_config", reason));
                }
                Ok(Upgrade {
                    terminate,
                    ..upgrade
                })
            })?,
            append_x_forwarded_host,
            retry: retry_policy
                .map(|policy| Retry::decode(policy, ctx).map(Arc::new))
                .transpose()
                .at("retry_policy")?,
            internal_redirect: internal_redirect_policy
                .map(|policy| InternalRedirect::decode(policy).map(Arc::new))
                .transpose()
                .at("internal_redirect_policy")?,
            mirrors: Mirror::decode_all(request_mirror_policies, ctx)?,
            hash_policy: HashPolicy::decode_all(hash_policy, ctx)?,
            rate_limits: RateLimit::decode_all(rate_limits, ctx)?,
            include_host_rate_limits: flag(include_vh_rate_limits, false),
            priority: match enumeration(priority, "priority")? {
                RoutingPriority::Default => Priority::Default,
                RoutingPriority::High => Priority::High,
            },
        })
    }
}

/// The upgrade type that is a method and not a value of the `Upgrade` header.
const CONNECT: &str = "connect";

fn check_connect(message: ConnectConfig) -> Result<(), Invalid> {
    let ConnectConfig {
        proxy_protocol_config,
        allow_post,
    } = message;
    refuse!(proxy_protocol_config, allow_post);
    Ok(())
}

impl MaxStreamDuration {
    fn decode(message: route_action::MaxStreamDuration) -> Result<Self, Invalid> {
        let route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = message;
        Ok(Self {
            limit: duration(max_stream_duration, "max_stream_duration")?,
            grpc_max: duration(grpc_timeout_header_max, "grpc_timeout_header_max")?,
            grpc_offset: duration(grpc_timeout_header_offset, "grpc_timeout_header_offset")?,
        })
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
    fn decode(message: Option<HostRewriteSpecifier>, ctx: &Context<'_>) -> Result<Self, Invalid> {
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
            HostRewriteSpecifier::HostRewriteHeader(name) if name.is_empty() => Ok(Self::None),
            HostRewriteSpecifier::HostRewriteHeader(name) => header_name(&name)
                .at("host_rewrite_header")
                .map(Self::Header),
            HostRewriteSpecifier::HostRewritePathRegex(regex) => {
                let regex = substitution(regex, ctx).at("host_rewrite_path_regex")?;
                let (pattern, substitution) = regex;
                Ok(Self::PathRegex {
                    pattern,
                    substitution,
                })
            }
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
            "connect-udp" => Err(fault(format!("{kind:?} is not supported yet"))).at(FIELD),
            _ => Ok(Self {
                kind,
                enabled: flag(enabled, true),
                terminate: false,
            }),
        }
    }
}

impl DirectResponse {
    fn decode(message: DirectResponseAction, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let DirectResponseAction {
            status,
            body,
            body_format,
        } = message;
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
            format: body_format
                .map(|format| FormatString::decode(format, ctx))
                .transpose()
                .at("body_format")?,
        })
    }
}
