//! `envoy.filters.http.ext_authz`: asks a service whether a request may pass.
//!
//! The service speaks HTTP or gRPC. Without an answer, or with one that nobody understands, the
//! request is refused, unless configuration says that it may pass then (`failure_mode_allow`).

mod asking;
mod check;
mod config;
mod decide;
mod per_route;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use self::asking::Asking;
use self::check::Seen;
pub use self::check::{destination, metadata, now, source};
pub use self::config::{AnyOf, GrpcCall, check_version};
use self::config::{BodyRule, Service};
use self::per_route::PerRoute;
use self::verdict::Edit;
pub use self::verdict::fields;
use super::super::flag::Flag;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::error::ResponseFlag;
use crate::formatter::Wants;
use crate::route::fraction::Share;
use crate::telemetry::stats::Counter;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::ext_authz::v3 as proto;
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, flag, required, runtime_fraction};
use http::header::UPGRADE;
use http::{Method, StatusCode};

const NAME: &str = "envoy.filters.http.ext_authz";
/// The method of the service over gRPC.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// In the `filter_metadata` of an own policy: what an HTTP service may say of a request
/// (`allowed_upstream_headers`) is taken from what the client says, whatever the service answers.
const EXCLUSIVE: &str = "causeway.exclusive_upstream_headers";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    name: NAME,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        per_route::build,
    )],
};

#[derive(Debug)]
struct ExtAuthz(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Arc<Service>,
    body: Option<BodyRule>,
    allowed_headers: Option<AnyOf>,
    disallowed_headers: Option<AnyOf>,
    failure_mode_allow: bool,
    failure_mode_header: bool,
    status_on_error: StatusCode,
    clear_route_cache: bool,
    /// See [`EXCLUSIVE`].
    exclusive: bool,
    strict: bool,
    metadata: Vec<String>,
    route_metadata: Vec<String>,
    certificate: bool,
    session: bool,
    raw_headers: bool,
    takes_metadata: bool,
    /// Bytes of the body of a refusal that the client gets to see.
    max_denied_body: Option<usize>,
    enabled: Option<Share>,
    deny_at_disable: Option<Flag>,
    stats: Stats,
}

#[derive(Debug)]
struct Stats {
    ok: Arc<Counter>,
    denied: Arc<Counter>,
    error: Arc<Counter>,
    disabled: Arc<Counter>,
    failure_mode_allowed: Arc<Counter>,
    invalid: Arc<Counter>,
    ignored_metadata: Arc<Counter>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::ExtAuthz {
        transport_api_version,
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        bootstrap_metadata_labels_key,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        charge_cluster_response_stats: _, // calls count as what they are
        encode_raw_headers,
        decoder_header_mutation_rules,
        enable_dynamic_metadata_ingestion,
        filter_metadata, // beside one key for logs of a kind that is not offered, as the next
        emit_filter_state_stats: _,
        max_denied_response_body_bytes,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span: _, // there are no spans
        services,
    } = decode(config)?;
    refuse!(
        typed_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        decoder_header_mutation_rules,
        enforce_response_header_limits,
        shadow_mode,
    );
    let status = status_on_error.map_or(Ok(StatusCode::FORBIDDEN), |status| {
        let code = u16::try_from(status.code).ok().filter(|code| *code >= 100);
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        code.ok_or_else(|| Invalid::at("status_on_error.code", "is no HTTP status"))
    })?;
    let prefix = match stat_prefix.is_empty() {
        true => "ext_authz.".to_owned(),
        false => format!("ext_authz.{stat_prefix}."),
    };
    let counter = |name: &str| context.counter(&format!("{prefix}{name}"));
    let enabled = filter_enabled
        .map(runtime_fraction)
        .transpose()
        .at("filter_enabled")?;
    let said = filter_metadata.as_ref();
    let said = said.and_then(|all| all.fields.get(EXCLUSIVE)?.kind.as_ref());
    let deny = deny_at_disable
        .map(|flag| Flag::decode(flag, &context.layers))
        .transpose()
        .at("deny_at_disable")?;
    Ok(Arc::new(ExtAuthz(Arc::new(Inner {
        service: Arc::new(Service::decode(
            required(services, "services")?,
            transport_api_version,
        )?),
        body: with_request_body
            .map(BodyRule::decode)
            .transpose()
            .at("with_request_body")?,
        allowed_headers: AnyOf::decode(allowed_headers, "allowed_headers")?,
        disallowed_headers: AnyOf::decode(disallowed_headers, "disallowed_headers")?,
        failure_mode_allow,
        failure_mode_header: failure_mode_allow_header_add,
        status_on_error: status,
        clear_route_cache,
        exclusive: matches!(said, Some(Kind::BoolValue(true))),
        strict: validate_mutations,
        metadata: metadata_context_namespaces,
        route_metadata: route_metadata_context_namespaces,
        certificate: include_peer_certificate,
        session: include_tls_session,
        raw_headers: encode_raw_headers,
        takes_metadata: flag(enable_dynamic_metadata_ingestion, true),
        max_denied_body: match max_denied_response_body_bytes {
            0 => None,
            max => Some(max as usize),
        },
        enabled: enabled.map(|share| Share::compile(&share, &context.layers)),
        deny_at_disable: deny,
        stats: Stats {
            ok: counter("ok"),
            denied: counter("denied"),
            error: counter("error"),
            disabled: counter("disabled"),
            failure_mode_allowed: counter("failure_mode_allowed"),
            invalid: counter("invalid"),
            ignored_metadata: counter("ignored_dynamic_metadata"),
        },
    }))))
}

impl HttpFilter for ExtAuthz {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let inner = &self.0;
        if let Some(PerRoute::Disabled) = stream.route_config() {
            inner.stats.disabled.inc();
            return Flow::Continue;
        }
        let takes = |share: &Share| share.takes(fastrand::u64(..));
        if inner.enabled.as_ref().is_some_and(|share| !takes(share)) {
            inner.stats.disabled.inc();
            return match &inner.deny_at_disable {
                Some(flag) if flag.is_on() => {
                    let reply = LocalReply::new(inner.status_on_error, "ext_authz_error");
                    Flow::reply(reply.flagged(ResponseFlag::Unauthorized))
                }
                _ => Flow::Continue,
            };
        }
        let mut asking = Asking {
            inner: Arc::clone(inner),
            service: Arc::clone(&inner.service),
            body: inner.body,
            context: Vec::new(),
        };
        for said in stream.route_configs::<PerRoute>() {
            asking.take(said);
        }
        let upgrades = stream.request.headers.contains_key(UPGRADE);
        match asking.body {
            Some(rule) if !upgrades && stream.request.method != Method::CONNECT => {
                asking.with_body(stream, rule)
            }
            _ => asking.ask(stream, Seen::default()),
        }
    }

    /// What the service has for the client, also where the answer is ours.
    fn response(&self, answer: &mut Answer<'_>) {
        if let Some(edits) = answer.kept::<Vec<Edit>>() {
            for edit in edits.iter() {
                edit.apply(answer.headers);
            }
        }
    }

    fn wants(&self) -> Wants {
        self.0.service.wants()
    }
}
