//! What becomes of a request once the service has spoken, or has not.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::check::Shown;
use super::config::Service;
use super::verdict::{self, Allowed, Denied, Verdict};
use super::{Inner, NAME};
use crate::error::ResponseFlag;
use crate::filter::{Flow, LocalReply, Stream};

const FAILURE_MODE_ALLOWED: HeaderName =
    HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

impl Inner {
    pub(super) fn shown(&self) -> Shown<'_> {
        Shown {
            allowed: self.allowed_headers.as_ref(),
            disallowed: self.disallowed_headers.as_ref(),
        }
    }

    pub(super) fn decide(&self, stream: &mut Stream<'_>, verdict: Verdict) -> Flow {
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
    pub(super) fn failed(&self, stream: &mut Stream<'_>, told: Option<&Denied>) -> Flow {
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
