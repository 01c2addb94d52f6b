//! `envoy.filters.network.ext_authz`: asks a service whether a connection may go on.
//!
//! Configuration: `envoy.extensions.filters.network.ext_authz.v3.ExtAuthz`. The service speaks gRPC and
//! is asked once the connection is open, before its first byte: a server that speaks first tells
//! nothing to who may not connect. Without an answer the connection is closed, unless configuration
//! says otherwise (`failure_mode_allow`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::ext_authz::v3 as proto;
use causeway_xds::proto::envoy::service::auth::v3::attribute_context::{Request, TlsSession};
use causeway_xds::proto::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, not_empty, required};
use futures_util::future::LocalBoxFuture;

use super::super::call::{CallError, unary};
use super::super::http::ext_authz::{
    CHECK, GrpcCall, check_version, destination, fields, metadata, now, source,
};
use super::super::registry::{Context, decode};
use super::super::state::StreamState;
use super::{Asking, Build, Closing, Connection, NetworkFilter, Verdict};
use crate::telemetry::stats::{Counter, Gauge};

pub const FACTORY: (&str, Build) = (
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    build,
);

/// Where the service's metadata is left.
const NAMESPACE: &str = "envoy.filters.network.ext_authz";

#[derive(Debug)]
struct ExtAuthz {
    /// Shared with calls that run on.
    inner: Arc<Inner>,
    certificate: bool,
    session: bool,
    /// Namespaces of dynamic metadata that the service gets to see.
    metadata: Vec<String>,
}

#[derive(Debug)]
struct Inner {
    call: GrpcCall,
    failure_mode_allow: bool,
    total: Arc<Counter>,
    ok: Arc<Counter>,
    denied: Arc<Counter>,
    error: Arc<Counter>,
    failure_mode_allowed: Arc<Counter>,
    closed: Arc<Counter>,
    active: Arc<Gauge>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::ExtAuthz {
        stat_prefix,
        grpc_service,
        failure_mode_allow,
        include_peer_certificate,
        transport_api_version,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        include_tls_session,
        send_tls_alert_on_denial,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        shadow_mode,
    } = decode(config)?;
    refuse!(
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        send_tls_alert_on_denial,
        typed_metadata_context_namespaces,
        shadow_mode,
    );
    check_version(transport_api_version)?;
    let prefix = not_empty(stat_prefix, "stat_prefix")?;
    let scope = format!("ext_authz.{prefix}.");
    let service = required(grpc_service, "grpc_service")?;
    let counter = |name| context.counter_in(&scope, name);
    Ok(Arc::new(ExtAuthz {
        inner: Arc::new(Inner {
            call: GrpcCall::decode(service).at("grpc_service")?,
            failure_mode_allow,
            total: counter("total"),
            ok: counter("ok"),
            denied: counter("denied"),
            error: counter("error"),
            failure_mode_allowed: counter("failure_mode_allowed"),
            closed: counter("cx_closed"),
            active: context.gauge_in(&scope, "active"),
        }),
        certificate: include_peer_certificate,
        session: include_tls_session,
        metadata: metadata_context_namespaces,
    }))
}

impl ExtAuthz {
    fn question(&self, connection: &Connection<'_>) -> CheckRequest {
        let session = connection.session;
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source(connection.peer, session, self.certificate)),
                destination: Some(destination(connection.local, session)),
                request: Some(Request {
                    time: Some(now()),
                    http: None,
                }),
                tls_session: (self.session && session.is_some()).then(|| TlsSession {
                    sni: connection.server_name.to_owned(),
                }),
                metadata_context: Some(metadata(&self.metadata, |namespace| {
                    Some((*connection.state.metadata(namespace)?).clone())
                })),
                ..AttributeContext::default()
            }),
        }
    }
}

impl Inner {
    fn verdict(&self, answer: Result<CheckResponse, CallError>, state: &StreamState) -> Verdict {
        let close = |why: &'static str| {
            self.closed.inc();
            Verdict::Close(Closing {
                after: Duration::ZERO,
                why: why.into(),
            })
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(cluster = self.call.cluster, %error, "no answer about a connection");
                self.error.inc();
                if self.failure_mode_allow {
                    self.failure_mode_allowed.inc();
                    return Verdict::Pass;
                }
                return close("ext_authz_error");
            }
        };
        for (key, value) in answer.dynamic_metadata.map(fields).unwrap_or_default() {
            state.set_metadata(NAMESPACE, &key, value);
        }
        if answer.status.is_none_or(|status| status.code == 0) {
            self.ok.inc();
            return Verdict::Pass;
        }
        self.denied.inc();
        close("ext_authz_denied")
    }
}

impl NetworkFilter for ExtAuthz {
    fn asks(&self) -> bool {
        true
    }

    fn ask(
        &self,
        connection: &Connection<'_>,
        asking: &Asking<'_>,
    ) -> LocalBoxFuture<'static, Verdict> {
        let question = self.question(connection);
        let (calls, state) = ((asking.calls)(), Rc::clone(asking.state));
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            inner.total.inc();
            inner.active.inc();
            // Counted down also where the connection goes away meanwhile.
            let _asked = Asked(Arc::clone(&inner.active));
            let GrpcCall {
                cluster,
                timeout,
                metadata,
            } = &inner.call;
            let answer = unary(&*calls, cluster, CHECK, metadata, &question, *timeout).await;
            inner.verdict(answer, &state)
        })
    }
}

struct Asked(Arc<Gauge>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.dec();
    }
}
