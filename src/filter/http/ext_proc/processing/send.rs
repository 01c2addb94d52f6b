//! What the processor is sent.

use std::collections::HashMap;

use bytes::Bytes;
use causeway_xds::proto::core::{HeaderMap as RawHeaders, HeaderValue as Raw};
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use http::header::{HOST, HeaderMap};
use service::processing_request::Request as Part;
use service::{HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProtocolConfiguration};

use super::Processing;
use crate::filter::http::ext_proc::attributes::{self, Attributes};
use crate::filter::http::ext_proc::config::Fixed;
use crate::filter::http::ext_proc::session::Side;
use crate::filter::{Answer, Stream};

impl Processing {
    pub fn send(&self, side: Side, part: Part) {
        let attributes = match side {
            Side::Request => std::mem::take(&mut *self.request_attributes.borrow_mut()),
            Side::Response => HashMap::new(),
        };
        self.send_with(part, attributes);
    }

    fn send_with(&self, part: Part, attributes: Attributes) {
        let modes = self.settings.modes;
        let protocol_config = (!self.session.is_open()).then(|| ProtocolConfiguration {
            request_body_mode: modes.request.body.told(),
            response_body_mode: modes.response.body.told(),
            send_body_without_waiting_for_header_response: self.fixed.eager_body,
        });
        let context = self.context.borrow();
        self.session.send(&ProcessingRequest {
            metadata_context: (!self.settings.forwarding.is_empty()).then(|| context.clone()),
            attributes,
            observability_mode: self.fixed.observes,
            protocol_config,
            request: Some(part),
            ..ProcessingRequest::default()
        });
    }

    pub fn send_request_head(&self, stream: &Stream<'_>) {
        let request = &*stream.request;
        let header = |name: &str| request.headers.get(name).map(|value| value.as_bytes());
        let path = request.uri.path_and_query().map_or("/", |p| p.as_str());
        let tls: &[u8] = if stream.tls { b"https" } else { b"http" };
        let pseudo = [
            (":method", request.method.as_str().as_bytes()),
            (":path", path.as_bytes()),
            (":authority", header("host").unwrap_or_default()),
            (":scheme", header("x-forwarded-proto").unwrap_or(tls)),
        ];
        let headers = self.headers(&pseudo, &request.headers);
        let end_of_stream = stream.is_bodyless();
        self.send(
            Side::Request,
            Part::RequestHeaders(HttpHeaders {
                headers: Some(headers),
                end_of_stream,
                ..HttpHeaders::default()
            }),
        );
    }

    pub fn send_response_head(&self, answer: &Answer<'_>) {
        let pseudo = [(":status", answer.status.as_str().as_bytes())];
        let headers = self.headers(&pseudo, answer.headers);
        let part = Part::ResponseHeaders(HttpHeaders {
            headers: Some(headers),
            end_of_stream: answer.bodyless,
            ..HttpHeaders::default()
        });
        let before = std::mem::take(&mut *self.response_attributes.borrow_mut());
        let all = &self.fixed.response_attributes;
        self.send_with(part, attributes::response(all, before, answer.status));
    }

    pub fn send_body(&self, side: Side, data: &Bytes, end: bool) {
        let body = HttpBody {
            body: data.to_vec(),
            end_of_stream: end,
            ..HttpBody::default()
        };
        self.send(
            side,
            match side {
                Side::Request => Part::RequestBody(body),
                Side::Response => Part::ResponseBody(body),
            },
        );
    }

    pub fn send_trailers(&self, side: Side, trailers: &HeaderMap) {
        let trailers = HttpTrailers {
            trailers: Some(self.headers(&[], trailers)),
        };
        self.send(
            side,
            match side {
                Side::Request => Part::RequestTrailers(trailers),
                Side::Response => Part::ResponseTrailers(trailers),
            },
        );
    }

    fn headers(&self, pseudo: &[(&str, &[u8])], headers: &HeaderMap) -> RawHeaders {
        let Fixed {
            allowed,
            disallowed,
            ..
        } = &*self.fixed;
        let shown = |name: &str| {
            allowed.as_ref().is_none_or(|list| list.matches(name))
                && !disallowed.as_ref().is_some_and(|list| list.matches(name))
        };
        let fields = headers
            .iter()
            // It is there as a pseudo header.
            .filter(|(name, _)| pseudo.is_empty() || **name != HOST)
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let all = pseudo.iter().copied().chain(fields);
        let raw = |(name, value): (&str, &[u8])| Raw {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..Raw::default()
        };
        RawHeaders {
            headers: all.filter(|(name, _)| shown(name)).map(raw).collect(),
        }
    }
}
