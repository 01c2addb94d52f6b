//! `envoy.filters.http.ext_authz`: asks a service whether a request may pass.
//!
//! The service speaks HTTP or gRPC. Without an answer, or with one that nobody understands, the
//! request is refused, unless configuration says that it may pass then (`failure_mode_allow`).

mod check;
mod config;
mod per_route;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use self::check::{Grpc, Seen, Shown, http_request};
pub use self::check::{destination, metadata, now, source};
pub use self::config::{AnyOf, GrpcCall, check_version};
use self::config::{BodyRule, HttpService, Service};
use self::per_route::PerRoute;
pub use self::verdict::fields;
use self::verdict::{Allowed, Denied, Edit, Verdict};
use super::super::body::{Read, rejoined};
use super::super::call::{CallError, fetch, unary};
use super::super::flag::Flag;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, LocalReply, Stream, Then};
use crate::error::ResponseFlag;
use crate::formatter::Wants;
use crate::route::fraction::Share;
use crate::telemetry::stats::Counter;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::ext_authz::v3 as proto;
use causeway_xds::proto::envoy::service::auth::v3::CheckResponse;
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, flag, required, runtime_fraction};
use http::header::{HeaderName, HeaderValue, UPGRADE};
use http::{Method, StatusCode};

const NAME: &str = "envoy.filters.http.ext_authz";
/// The method of the service over gRPC.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const FAILURE_MODE_ALLOWED: HeaderName =
    HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
/// In the `filter_metadata` of an own policy: what an HTTP service may say of a request
/// (`allowed_upstream_headers`) is taken from what the client says, whatever the service answers.
const EXCLUSIVE: &str = "causeway.exclusive_upstream_headers";
/// Bytes of an answer of an HTTP service at most.
const MAX_ANSWER: u64 = 1 << 20;

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

/// What holds for one request.
struct Asking {
    inner: Arc<Inner>,
    service: Arc<Service>,
    body: Option<BodyRule>,
    context: Vec<(String, String)>,
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

impl Asking {
    /// The more specific level replaces what it names, and adds to the context.
    fn take(&mut self, said: &PerRoute) {
        let PerRoute::Settings {
            context,
            body,
            service,
        } = said
        else {
            return;
        };
        for (key, value) in context {
            self.context.retain(|(known, _)| known != key);
            self.context.push((key.clone(), value.clone()));
        }
        self.body = body.unwrap_or(self.body);
        if let Some(service) = service {
            self.service = Arc::clone(service);
        }
    }

    /// Reads as much as the service is to see, and goes on with the whole body all the same.
    fn with_body(self, stream: &mut Stream<'_>, rule: BodyRule) -> Flow {
        if stream.is_bodyless() {
            return self.ask(stream, Seen::default());
        }
        let max = rule.max as usize;
        // A part is whole as soon as it is long enough.
        let limit = u64::from(rule.max) - u64::from(rule.partial);
        stream.read_body(limit, move |stream, read| match read {
            Read::Whole(whole) => {
                let seen = Seen {
                    data: whole.data.clone(),
                    partial: Some(false),
                };
                stream.put_body(whole.boxed());
                self.ask(stream, seen)
            }
            Read::Larger(first, rest) if rule.partial => {
                let seen = Seen {
                    data: first.slice(..first.len().min(max)),
                    partial: Some(first.len() > max || !rest.is_end_stream()),
                };
                stream.put_body(rejoined(first, rest));
                self.ask(stream, seen)
            }
            Read::Larger(..) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                let reply = LocalReply::new(status, "request_payload_too_large");
                Flow::reply(reply.saying("Payload Too Large"))
            }
            Read::Broken(_) => {
                let reply = LocalReply::new(StatusCode::BAD_REQUEST, "request_body_broken");
                Flow::reply(reply.saying("Bad Request"))
            }
        })
    }

    fn ask(self, stream: &mut Stream<'_>, seen: Seen) -> Flow {
        let calls = stream.calls();
        let service = Arc::clone(&self.service);
        match &*service {
            Service::Http(http) => {
                let add = added(http, stream);
                let request = http_request(stream.request, http, self.inner.shown(), seen, add);
                let Some(request) = request else {
                    return self.inner.failed(stream, None);
                };
                let service = Arc::clone(&service);
                Flow::wait(async move {
                    let Service::Http(http) = &*service else {
                        return self.go_on(Verdict::Error(None));
                    };
                    let (cluster, limit) = (&http.cluster, http.timeout);
                    let answer = fetch(&*calls, cluster, request, limit, MAX_ANSWER).await;
                    let verdict = match answer {
                        Ok(answer) => Verdict::of_http(answer, http),
                        Err(error) => unanswered(cluster, &error),
                    };
                    self.go_on(verdict)
                })
            }
            Service::Grpc(_) => {
                let message = self.grpc().message(stream, seen);
                Flow::wait(async move {
                    let Service::Grpc(call) = &*service else {
                        return self.go_on(Verdict::Error(None));
                    };
                    let verdict = match checked(&*calls, call, &message).await {
                        Ok(answer) => Verdict::of_grpc(answer, self.inner.strict),
                        Err(error) => unanswered(&call.cluster, &error),
                    };
                    self.go_on(verdict)
                })
            }
        }
    }

    fn grpc(&self) -> Grpc<'_> {
        let inner = &self.inner;
        let context = self.context.iter();
        Grpc {
            shown: inner.shown(),
            context: context.map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            metadata: &inner.metadata,
            route_metadata: &inner.route_metadata,
            certificate: inner.certificate,
            session: inner.session,
            raw_headers: inner.raw_headers,
            body_as_bytes: self.body.is_some_and(|rule| rule.as_bytes),
        }
    }

    fn go_on(self, verdict: Verdict) -> Then {
        Box::new(move |stream: &mut Stream<'_>| self.inner.decide(stream, verdict))
    }
}

async fn checked(
    calls: &dyn super::super::call::Calls,
    call: &GrpcCall,
    message: &causeway_xds::proto::envoy::service::auth::v3::CheckRequest,
) -> Result<CheckResponse, CallError> {
    let GrpcCall {
        cluster,
        timeout,
        metadata,
    } = call;
    unary(calls, cluster, CHECK, metadata, message, *timeout).await
}

fn unanswered(cluster: &str, error: &CallError) -> Verdict {
    tracing::debug!(cluster, %error, "no answer about a request");
    Verdict::Error(None)
}

/// What configuration adds to the request to the service.
fn added(service: &HttpService, stream: &Stream<'_>) -> Vec<(HeaderName, HeaderValue)> {
    if service.headers_to_add.is_empty() {
        return Vec::new();
    }
    let all = stream.with_facts(|facts| {
        let render = |(name, template): &(HeaderName, crate::formatter::Template)| {
            let value = HeaderValue::from_bytes(&template.render(facts)).ok()?;
            Some((name.clone(), value))
        };
        service.headers_to_add.iter().filter_map(render).collect()
    });
    all.unwrap_or_default()
}

impl Inner {
    fn shown(&self) -> Shown<'_> {
        Shown {
            allowed: self.allowed_headers.as_ref(),
            disallowed: self.disallowed_headers.as_ref(),
        }
    }

    fn decide(&self, stream: &mut Stream<'_>, verdict: Verdict) -> Flow {
        match verdict {
            Verdict::Allowed(allowed) => self.pass(stream, &allowed),
            Verdict::Denied(denied) => self.deny(stream, &denied),
            Verdict::Error(told) => self.failed(stream, told.as_deref()),
            Verdict::Invalid => {
                self.stats.invalid.inc();
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let reply = LocalReply::new(status, "ext_authz_invalid");
                Flow::reply(reply.flagged(ResponseFlag::Unauthorized))
            }
        }
    }

    fn pass(&self, stream: &mut Stream<'_>, allowed: &Allowed) -> Flow {
        self.stats.ok.inc();
        self.note(stream, &allowed.metadata);
        self.strip(stream);
        allowed.apply(stream.request);
        if !allowed.response.is_empty() {
            stream.keep(allowed.response.clone());
        }
        match self.clear_route_cache && allowed.changes_request() {
            true => Flow::Reroute,
            false => Flow::Continue,
        }
    }

    /// Takes away what only the service may say. After it was asked: it may judge by the same
    /// fields, as where it makes a token of another one.
    fn strip(&self, stream: &mut Stream<'_>) {
        let Service::Http(service) = &*self.service else {
            return;
        };
        if !self.exclusive {
            return;
        }
        let headers = &mut stream.request.headers;
        let own = |name: &&HeaderName| {
            verdict::is_strippable(name) && service.upstream.matches(name.as_str())
        };
        let own: Vec<HeaderName> = headers.keys().filter(own).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }

    fn deny(&self, stream: &Stream<'_>, denied: &Denied) -> Flow {
        self.stats.denied.inc();
        self.note(stream, &denied.metadata);
        Flow::reply(self.told(denied, denied.status, "ext_authz_denied"))
    }

    fn told(&self, denied: &Denied, status: StatusCode, details: &'static str) -> LocalReply {
        let end = self
            .max_denied_body
            .map_or(denied.body.len(), |max| max.min(denied.body.len()));
        let mut reply = LocalReply::new(status, details);
        for edit in &denied.headers {
            edit.apply(&mut reply.headers);
        }
        let reply = reply.saying(denied.body.slice(..end));
        reply.flagged(ResponseFlag::Unauthorized)
    }

    /// The service has not answered, or could not say.
    fn failed(&self, stream: &mut Stream<'_>, told: Option<&Denied>) -> Flow {
        self.stats.error.inc();
        if self.failure_mode_allow {
            self.stats.failure_mode_allowed.inc();
            self.strip(stream);
            if self.failure_mode_header {
                let value = HeaderValue::from_static("true");
                stream.request.headers.insert(FAILURE_MODE_ALLOWED, value);
            }
            return Flow::Continue;
        }
        const DETAILS: &str = "ext_authz_error";
        Flow::reply(match told {
            Some(denied) => self.told(denied, denied.status, DETAILS),
            None => {
                LocalReply::new(self.status_on_error, DETAILS).flagged(ResponseFlag::Unauthorized)
            }
        })
    }

    fn note(
        &self,
        stream: &Stream<'_>,
        metadata: &[(String, causeway_xds::resource::metadata::MetadataValue)],
    ) {
        if !self.takes_metadata {
            if !metadata.is_empty() {
                self.stats.ignored_metadata.inc();
            }
            return;
        }
        for (key, value) in metadata {
            stream.state().set_metadata(NAME, key, value.clone());
        }
    }
}
