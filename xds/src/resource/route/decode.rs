//! Route tables: message to typed, down to the choice of a route.

use std::sync::Arc;

use super::{
    Action, CertificateMatch, MetadataValue, Mirror, PathMatch, PathTemplate, RequireTls, Retry,
    Route, RouteConfiguration, RouteMatch, VirtualHost, VirtualHostKey, domains, tree,
};
use crate::proto::core::Metadata;
use crate::proto::google::protobuf::value;
use crate::proto::route::route_match::{
    ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier, TlsContextMatchOptions,
};
use crate::proto::route::virtual_host::TlsRequirementType;
use crate::proto::route::{self, Vhds};
use crate::proto::{self, UInt32Value, UInt64Value};
use crate::reject::Invalid;
use crate::resource::config_source::{ConfigSource, Place};
use crate::resource::context::{
    At, Context, accept, each, enumeration, fault, filter_config, flag, not_empty, refuse, required,
};
use crate::resource::fraction::RuntimeFraction;
use crate::resource::headers::{EditFields, HeaderEdits};
use crate::resource::matcher::value::{FilterStateMatcher, MetadataMatcher};
use crate::resource::matcher::{CookieMatcher, HeaderMatcher, QueryMatcher, whole_regex};
use crate::resource::rate_limit::RateLimit;

/// `max_direct_response_body_size_bytes` when it is not given.
const DEFAULT_MAX_DIRECT_BODY: u32 = 4096;

/// Metadata (`causeway: { strip_prefix: true }`) that makes a prefix rewrite a
/// [`super::PathRewrite::StripPrefix`].
const NAMESPACE: &str = "causeway";
const STRIP_PREFIX: &str = "strip_prefix";

impl RouteConfiguration {
    pub(crate) fn decode(
        message: proto::RouteConfiguration,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        Self::decode_around(message, ctx, |virtual_hosts| {
            let virtual_hosts = each("virtual_hosts", virtual_hosts, |h| {
                VirtualHost::decode(h, ctx).map(Arc::new)
            })?;
            domains::check_unique(&virtual_hosts)?;
            Ok(virtual_hosts)
        })
    }

    /// The same with virtual hosts that are made from those of the message.
    pub(super) fn decode_around(
        message: proto::RouteConfiguration,
        ctx: &Context<'_>,
        hosts: impl FnOnce(Vec<route::VirtualHost>) -> Result<Vec<Arc<VirtualHost>>, Invalid>,
    ) -> Result<Self, Invalid> {
        let proto::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = message;
        refuse!(
            internal_only_headers,
            cluster_specifier_plugins,
            route_specifiers,
        );
        accept!(ctx, "RouteConfiguration": validate_clusters, metadata);

        let vhds = vhds
            .map(|Vhds { config_source }| {
                ConfigSource::decode_field(config_source, "config_source", ctx)
            })
            .transpose()
            .at("vhds")?;
        if vhds
            .as_ref()
            .is_some_and(|source| source.place != Place::SameOrigin)
        {
            // A file lists whole resources; virtual hosts one by one come with the rest or not.
            return Err(fault("only `self` is supported"))
                .at("config_source")
                .at("vhds");
        }
        if vhds.is_some() && name.is_empty() {
            return Err(Invalid::at(
                "name",
                "must not be empty: vhds builds names from it",
            ));
        }
        let virtual_hosts = hosts(virtual_hosts)?;
        let max_body =
            max_direct_response_body_size_bytes.map_or(DEFAULT_MAX_DIRECT_BODY, |v| v.value);
        for (index, host) in virtual_hosts.iter().enumerate() {
            host.check_direct_bodies(max_body)
                .at_index("virtual_hosts", index)?;
        }
        Ok(Self {
            name,
            virtual_hosts,
            vhds,
            vhost_key: VirtualHostKey::decode(&vhost_header)?,
            ignore_port_in_host_matching,
            edits: HeaderEdits::decode(EditFields {
                request_headers_to_add,
                request_headers_to_remove,
                response_headers_to_add,
                response_headers_to_remove,
            })?,
            most_specific_edits_win: most_specific_header_mutations_wins,
            ignore_path_parameters: ignore_path_parameters_in_path_matching,
            mirrors: Mirror::decode_all(request_mirror_policies, ctx)?,
            filter_config: filter_config(typed_per_filter_config, ctx)?,
            filter_secrets: Vec::new(),
        })
    }
}

impl VirtualHostKey {
    fn decode(header: &str) -> Result<Self, Invalid> {
        match header {
            "" => Ok(Self::Host),
            ":first-path-segment" => Ok(Self::FirstPathSegment),
            _ => Err(Invalid::at("vhost_header", "not supported yet")),
        }
    }
}

impl VirtualHost {
    /// A virtual host that is a resource of its own. The limit for direct responses that its route
    /// configuration sets is not known here, so the default one holds.
    pub(crate) fn decode_alone(
        message: proto::VirtualHost,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let host = Self::decode(message, ctx)?;
        domains::check_unique_within(&host)?;
        host.check_direct_bodies(DEFAULT_MAX_DIRECT_BODY)?;
        Ok(host)
    }

    pub(super) fn decode(message: proto::VirtualHost, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let proto::VirtualHost {
            name,
            domains,
            routes,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = message;
        refuse!(
            cors,
            retry_policy_typed_config,
            hedge_policy,
            route_specifiers,
        );
        accept!(ctx, "VirtualHost": virtual_clusters, metadata);
        if domains.is_empty() {
            return Err(Invalid::at("domains", "must not be empty"));
        }
        if matcher.is_some() && !routes.is_empty() {
            return Err(Invalid::at("matcher", "is given together with routes"));
        }
        let mut routes = each("routes", routes, |route| Route::decode(route, ctx))?;
        let tree = matcher.map(|matcher| tree::decode(matcher, &mut routes, ctx));
        Ok(Self {
            name: not_empty(name, "name")?,
            domains: each("domains", domains, domains::decode)?,
            tree: tree.transpose().at("matcher")?.map(Arc::new),
            routes,
            require_tls: match enumeration(require_tls, "require_tls")? {
                TlsRequirementType::None => RequireTls::None,
                TlsRequirementType::ExternalOnly => RequireTls::ExternalOnly,
                TlsRequirementType::All => RequireTls::All,
            },
            edits: HeaderEdits::decode(EditFields {
                request_headers_to_add,
                request_headers_to_remove,
                response_headers_to_add,
                response_headers_to_remove,
            })?,
            include_request_attempt_count,
            include_attempt_count_in_response,
            include_is_timeout_retry_header,
            retry: retry_policy
                .map(|policy| Retry::decode(policy, ctx).map(Arc::new))
                .transpose()
                .at("retry_policy")?,
            mirrors: Mirror::decode_all(request_mirror_policies, ctx)?,
            buffer_limit: buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit)?,
            rate_limits: RateLimit::decode_all(rate_limits, ctx)?,
            filter_config: filter_config(typed_per_filter_config, ctx)?,
        })
    }

    fn check_direct_bodies(&self, max: u32) -> Result<(), Invalid> {
        for (index, route) in self.routes.iter().enumerate() {
            let Action::Direct(direct) = &route.action else {
                continue;
            };
            if direct.body.len() > max as usize {
                let place = match &self.tree {
                    None => format!("routes[{index}].direct_response.body"),
                    Some(_) => format!("matcher: route {index} of it: direct_response.body"),
                };
                return Err(Invalid::at(
                    place,
                    format!("{} bytes are more than {max}", direct.body.len()),
                ));
            }
        }
        Ok(())
    }
}

impl Route {
    pub(super) fn decode(message: route::Route, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let route::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = message;
        refuse!(route_specifiers);
        accept!(ctx, "Route":
            decorator,
            tracing,
            stat_prefix,
        );
        let matcher = RouteMatch::decode(required(r#match, "match")?, ctx).at("match")?;
        let mut action = Action::decode(required(action, "action")?, &matcher.path, ctx)?;
        let metadata = metadata.unwrap_or_default();
        if asks_to_strip_prefix(&metadata)? {
            action.strip_prefix(&matcher.path)?;
        }
        Ok(Self {
            name,
            metadata: values(metadata),
            matcher,
            action,
            edits: HeaderEdits::decode(EditFields {
                request_headers_to_add,
                request_headers_to_remove,
                response_headers_to_add,
                response_headers_to_remove,
            })?,
            filter_config: filter_config(typed_per_filter_config, ctx)?,
            buffer_limit: buffer_limit(per_request_buffer_limit_bytes, request_body_buffer_limit)?,
        })
    }
}

/// The older and the newer field for the same.
fn buffer_limit(
    older: Option<UInt32Value>,
    newer: Option<UInt64Value>,
) -> Result<Option<u64>, Invalid> {
    match (older, newer) {
        (Some(_), Some(_)) => Err(Invalid::at(
            "request_body_buffer_limit",
            "is given together with per_request_buffer_limit_bytes",
        )),
        (older, newer) => Ok(newer.map(|v| v.value).or(older.map(|v| v.value.into()))),
    }
}

/// Our own key; the rest of the metadata is for formats.
fn asks_to_strip_prefix(metadata: &Metadata) -> Result<bool, Invalid> {
    let own = metadata.filter_metadata.get(NAMESPACE);
    let flag = own.and_then(|own| own.fields.get(STRIP_PREFIX));
    match flag.map(|value| &value.kind) {
        None => Ok(false),
        Some(Some(value::Kind::BoolValue(flag))) => Ok(*flag),
        Some(_) => Err(fault("is not true or false"))
            .at(STRIP_PREFIX)
            .at_key("metadata.filter_metadata", NAMESPACE),
    }
}

/// Metadata by namespace, sorted so that equal maps are equal lists.
fn values(metadata: Metadata) -> Vec<(String, MetadataValue)> {
    let namespaces = metadata.filter_metadata.into_iter();
    let mut values: Vec<_> = namespaces
        .map(|(name, fields)| (name, MetadataValue::object(fields)))
        .collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

impl RouteMatch {
    pub(crate) fn decode(message: route::RouteMatch, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let route::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = message;
        let grpc = grpc.map(|GrpcRouteMatchOptions {}| ()).is_some();
        Ok(Self {
            path: PathMatch::decode(required(path_specifier, "path_specifier")?, ctx)?,
            case_sensitive: flag(case_sensitive, true),
            headers: each("headers", headers, |header| {
                HeaderMatcher::decode(header, ctx)
            })?,
            query: each("query_parameters", query_parameters, |parameter| {
                QueryMatcher::decode(parameter, ctx)
            })?,
            cookies: each("cookies", cookies, |cookie| {
                CookieMatcher::decode(cookie, ctx)
            })?,
            fraction: runtime_fraction
                .map(RuntimeFraction::decode)
                .transpose()
                .at("runtime_fraction")?,
            grpc,
            metadata: each("dynamic_metadata", dynamic_metadata, |matcher| {
                MetadataMatcher::decode(matcher, ctx)
            })?,
            filter_state: each("filter_state", filter_state, |matcher| {
                FilterStateMatcher::decode(matcher, ctx)
            })?,
            certificate: tls_context.map_or_else(CertificateMatch::default, |tls| {
                let TlsContextMatchOptions {
                    presented,
                    validated,
                } = tls;
                CertificateMatch {
                    presented: presented.map(|flag| flag.value),
                    validated: validated.map(|flag| flag.value),
                }
            }),
        })
    }
}

impl PathMatch {
    fn decode(message: PathSpecifier, ctx: &Context<'_>) -> Result<Self, Invalid> {
        match message {
            PathSpecifier::Prefix(prefix) => Ok(Self::Prefix(prefix)),
            PathSpecifier::Path(path) => Ok(Self::Exact(path)),
            PathSpecifier::SafeRegex(regex) => {
                whole_regex(regex, ctx).at("safe_regex").map(Self::Regex)
            }
            PathSpecifier::PathSeparatedPrefix(prefix) => separated_prefix(prefix)
                .at("path_separated_prefix")
                .map(Self::SeparatedPrefix),
            PathSpecifier::ConnectMatcher(ConnectMatcher {}) => Ok(Self::Connect),
            PathSpecifier::PathMatchPolicy(policy) => PathTemplate::decode(policy)
                .at("path_match_policy")
                .map(Self::Template),
        }
    }
}

/// The message definition's own pattern: a slash at the end could never be followed by one.
fn separated_prefix(prefix: String) -> Result<String, Invalid> {
    match prefix.chars().last() {
        None => Err(fault("must not be empty")),
        Some('/') => Err(fault("must not end with a slash")),
        _ if prefix.contains(['?', '#']) => Err(fault("must not contain ? or #")),
        _ => Ok(prefix),
    }
}
