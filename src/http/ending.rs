//! The end of an answer's way to its client, whoever made it.

use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};

use super::body::Body;
use super::forwarded::X_REQUEST_ID;
use crate::snapshot::{HttpManagerSpec, PROXY_STATUS, ProxyStatus};

/// What the end of an answer's way depends on.
pub struct Ending<'c> {
    manager: &'c HttpManagerSpec,
    http2: bool,
    is_head: bool,
    /// That the client is told (`always_set_request_id_in_response`).
    id: Option<HeaderValue>,
}

impl<'c> Ending<'c> {
    pub fn of(parts: &Parts, manager: &'c HttpManagerSpec, is_head: bool, http2: bool) -> Self {
        let id = match manager.model.always_set_request_id_in_response {
            true => parts.headers.get(&X_REQUEST_ID).cloned(),
            false => None,
        };
        Self {
            manager,
            http2,
            is_head,
            id,
        }
    }

    pub fn apply(self, mut response: Response<Body>) -> Response<Body> {
        if let Some(status) = &self.manager.proxy_status {
            tell_failure(status, &mut response);
        }
        // Over HTTP/1 the codec sees to it.
        if self.http2 {
            let (status, head) = (response.status(), self.is_head);
            if status == StatusCode::NO_CONTENT {
                // It would tell of a body (RFC 9110 section 8.6).
                response.headers_mut().remove(CONTENT_LENGTH);
            }
            if head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
                response = response.map(|body| body.bare(head));
            }
        }
        // Nobody looks for its end, which over HTTP/2 may come by itself.
        if self.is_head
            && let Some(exchange) = response.body().exchange()
        {
            exchange.complete();
        }
        if let Some(id) = self.id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if let Some(exchange) = response.body().exchange()
            && let Some(kept) = &exchange.kept
        {
            kept.response(response.headers(), &self.manager.wants);
        }
        response
    }
}

/// What went wrong, in the words of RFC 9209.
fn tell_failure(proxy: &ProxyStatus, response: &mut Response<Body>) {
    let Some(exchange) = response.body().exchange() else {
        return;
    };
    let Some(flag) = exchange.flagged() else {
        return;
    };
    let told = proxy.told(flag, exchange.details().as_deref());
    // The status of an answer over gRPC says nothing of the call.
    let status = match response.headers().contains_key("grpc-status") {
        true => None,
        false => proxy.status(flag),
    };
    if let Some(status) = status {
        exchange.answered(status);
        *response.status_mut() = status;
    }
    if let Some(told) = told {
        response.headers_mut().append(PROXY_STATUS, told);
    }
}
