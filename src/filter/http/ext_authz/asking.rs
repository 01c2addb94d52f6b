//! Asking the service about one request.

use std::sync::Arc;

use causeway_xds::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http::header::{HeaderName, HeaderValue};

use super::check::{Grpc, Seen, http_request};
use super::config::GrpcCall;
use super::config::{BodyRule, HttpService, Service};
use super::per_route::PerRoute;
use super::verdict::Verdict;
use super::{CHECK, Inner};
use crate::filter::body::{Read, rejoined};
use crate::filter::call::{CallError, Calls, fetch, unary};
use crate::filter::{Flow, LocalReply, Stream, Then};

/// Bytes of an answer of an HTTP service at most.
const MAX_ANSWER: u64 = 1 << 20;

/// What holds for one request.
pub(super) struct Asking {
    pub(super) inner: Arc<Inner>,
    pub(super) service: Arc<Service>,
    pub(super) body: Option<BodyRule>,
    pub(super) context: Vec<(String, String)>,
}

impl Asking {
    /// The more specific level replaces what it names, and adds to the context.
    pub(super) fn take(&mut self, said: &PerRoute) {
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
    pub(super) fn with_body(self, stream: &mut Stream<'_>, rule: BodyRule) -> Flow {
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
            Read::Larger(..) => Flow::reply(LocalReply::too_large()),
            Read::Broken(_) => Flow::reply(LocalReply::broken_body()),
        })
    }

    pub(super) fn ask(self, stream: &mut Stream<'_>, seen: Seen) -> Flow {
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
    calls: &dyn Calls,
    call: &GrpcCall,
    message: &CheckRequest,
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
