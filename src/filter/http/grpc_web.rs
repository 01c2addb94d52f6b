//! `envoy.filters.http.grpc_web`: lets browsers speak gRPC, which have no trailers.
//!
//! The trailers of an answer become the last frame of its body; bodies are in base64 where the
//! client wants text (gRPC-Web's PROTOCOL-WEB.md).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::grpc_web::v3 as proto;
use causeway_xds::reject::Invalid;
use http::Method;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http_body::Frame;

use super::super::body::{BodyError, Frames, Transform};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    name: "envoy.filters.http.grpc_web",
    build,
    per_route: &[],
};

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const WEB_PROTO: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";
const TEXT_PROTO: &str = "application/grpc-web-text+proto";
/// The flag of a frame that holds trailers.
const TRAILERS: u8 = 0x80;

#[derive(Debug)]
struct GrpcWeb;

/// Of a request of gRPC-Web: whether its answer is to be text.
struct Asked {
    text: bool,
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::GrpcWeb {} = decode(config)?;
    Ok(Arc::new(GrpcWeb))
}

impl HttpFilter for GrpcWeb {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let headers = &mut stream.request.headers;
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is_text = match kind.and_then(|kind| std::str::from_utf8(kind).ok()) {
            Some(WEB | WEB_PROTO) => false,
            Some(TEXT | TEXT_PROTO) => true,
            _ => return Flow::Continue,
        };
        if stream.request.method != Method::POST {
            return Flow::Continue;
        }
        let accept = headers.get(ACCEPT).map(HeaderValue::as_bytes);
        let accept = accept.and_then(|accept| std::str::from_utf8(accept).ok());
        let text = accept.is_some_and(|accept| {
            let mut kinds = accept.split(',').map(str::trim);
            kinds.any(|kind| kind == TEXT || kind == TEXT_PROTO)
        });
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.remove(CONTENT_LENGTH);
        stream.keep(Asked { text });
        stream.state().take_trailers();
        if is_text && !stream.is_bodyless() {
            stream.transform_body(Box::new(FromText::default()));
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let Some(asked) = answer.kept::<Asked>() else {
            return;
        };
        let kind = answer.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        // What is no gRPC has no trailers to tell of.
        if !kind.is_some_and(|kind| kind.starts_with(GRPC.as_bytes())) {
            return;
        }
        let kind = if asked.text { TEXT_PROTO } else { WEB_PROTO };
        answer
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if !answer.bodyless {
            answer.transform(Box::new(ToWeb {
                text: asked.text,
                messages: Messages::default(),
            }));
        }
    }
}

/// A body in base64, of which several may follow each other, each with its padding.
#[derive(Default)]
struct FromText {
    /// Less than a group of four.
    left: BytesMut,
}

impl Transform for FromText {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.left.extend_from_slice(&data);
        let whole = self.left.len() / 4 * 4;
        let text = self.left.split_to(whole);
        let mut plain = BytesMut::with_capacity(whole / 4 * 3);
        let mut rest = &text[..];
        while !rest.is_empty() {
            // Up to the end of the group in which padding ends one text.
            let end = memchr::memchr(b'=', rest).map_or(rest.len(), |at| at / 4 * 4 + 4);
            let part = STANDARD.decode(&rest[..end]);
            plain.put_slice(&part.map_err(BodyError::new)?);
            rest = &rest[end..];
        }
        if !plain.is_empty() {
            out.push_back(Frame::data(plain.freeze()));
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if !self.left.is_empty() {
            return Err(BodyError::new("base64 that was cut short"));
        }
        out.extend(trailers.map(Frame::trailers));
        Ok(())
    }
}

/// An answer for a browser.
struct ToWeb {
    text: bool,
    messages: Messages,
}

/// Where one message ends and the next begins.
#[derive(Default)]
struct Messages {
    /// Bytes of the prefix that have come; 0 between two messages, and within one.
    prefix: usize,
    /// As far as the prefix tells it.
    length: u32,
    /// Of the message, once the prefix is whole.
    left: u32,
}

/// A flag, and the length of the message.
const PREFIX: usize = 5;

impl Messages {
    fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let here = (self.left as usize).min(data.len());
                self.left -= u32::try_from(here).unwrap_or(self.left);
                data = &data[here..];
                continue;
            }
            // The length is gathered digit by digit, in base 256; the flag counts for nothing.
            let byte = data[0];
            data = &data[1..];
            self.length = match self.prefix {
                0 => 0,
                _ => self.length << 8 | u32::from(byte),
            };
            self.prefix += 1;
            if self.prefix == PREFIX {
                (self.prefix, self.left) = (0, self.length);
            }
        }
    }

    fn is_within_one(&self) -> bool {
        self.prefix > 0 || self.left > 0
    }
}

impl ToWeb {
    fn put(&self, data: Bytes, out: &mut Frames) {
        out.push_back(Frame::data(match self.text {
            true => STANDARD.encode(&data).into(),
            false => data,
        }));
    }
}

impl Transform for ToWeb {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        if !data.is_empty() {
            self.messages.pass(&data);
            self.put(data, out);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        // The frame of the trailers would be taken for the rest of the message.
        if self.messages.is_within_one() {
            return Err(BodyError::new("a message that was cut short"));
        }
        if let Some(trailers) = trailers {
            self.put(frame_of(&trailers), out);
        }
        Ok(())
    }
}

fn frame_of(trailers: &HeaderMap) -> Bytes {
    let mut text = Vec::new();
    for (name, value) in trailers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.push(b':');
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    frame.put_slice(&text);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::filter::body::{BodySlot as _, Transformed, Whole};
    use crate::filter::testing::{Nowhere, TestBody, chain};
    use crate::route::PerRoute as RouteSaid;

    struct Exchange {
        request: Option<Vec<u8>>,
        sent: HeaderMap,
        answered: HeaderMap,
        /// `None`: it broke off.
        answer: Option<Vec<u8>>,
    }

    async fn exchange(kind: &str, accept: &str, body: &'static str, answered: &str) -> Exchange {
        let answer = "\0\0\0\0\x01a";
        answered_by(kind, accept, body, (answered, answer)).await
    }

    async fn answered_by(
        kind: &str,
        accept: &str,
        body: &'static str,
        (answered, answer_body): (&str, &'static str),
    ) -> Exchange {
        let chain = chain(FACTORY.message, &proto::GrpcWeb {}).unwrap();
        let around = Nowhere::default();
        let request = Request::post("/p.S/M")
            .header("content-type", kind)
            .header("accept", accept)
            .body(())
            .unwrap();
        let (mut parts, ()) = request.into_parts();
        let mut slot = TestBody(Some(Whole::new(body).boxed()));
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let mut stream = Stream::new(&mut parts, &mut slot, client, &around);
        let route = RouteSaid::default();
        let flow = chain.request(&mut stream, &route, &mut 0);
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        let whole = slot.take().collect().await.ok();

        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, answered.parse().unwrap());
        let mut answer = Answer::new(StatusCode::OK, &mut headers, Some(&around));
        chain.response(&mut answer, &route, &mut chain.len(), None);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("grpc-message", "m".parse().unwrap());
        let mut body = Whole {
            data: answer_body.into(),
            trailers: Some(trailers),
        }
        .boxed();
        for transform in answer.into_outcome().transforms {
            body = Box::pin(Transformed::new(body, transform));
        }
        Exchange {
            request: whole.map(|w| w.to_bytes().to_vec()),
            sent: parts.headers,
            answered: headers,
            answer: body.collect().await.ok().map(|w| w.to_bytes().to_vec()),
        }
    }

    const ANSWER: &[u8] = b"\0\0\0\0\x01a\x80\0\0\0\x1fgrpc-status:0\r\ngrpc-message:m\r\n";

    #[tokio::test]
    async fn binary_passes_and_gets_its_trailers_in_the_body() {
        let done = exchange(WEB_PROTO, "*/*", "\0\0\0\0\x01b", GRPC).await;
        assert_eq!(done.request.unwrap(), b"\0\0\0\0\x01b");
        assert_eq!(done.sent["content-type"], GRPC);
        assert_eq!(done.sent["te"], "trailers");
        assert_eq!(done.answered["content-type"], WEB_PROTO);
        assert_eq!(done.answer.unwrap(), ANSWER);
    }

    #[tokio::test]
    async fn text_is_base64_both_ways_if_the_client_wants_it_so() {
        let done = exchange(TEXT, TEXT, "AAAAAAFiAAAAAAE=AAAA", GRPC).await;
        let expected = b"\0\0\0\0\x01b\0\0\0\0\x01\0\0\0";
        assert_eq!(done.request.unwrap(), expected);
        assert_eq!(done.answered["content-type"], TEXT_PROTO);
        let frame = STANDARD.encode(&ANSWER[6..]);
        let expected = format!("{}{frame}", STANDARD.encode(&ANSWER[..6]));
        assert_eq!(done.answer.unwrap(), expected.as_bytes());
        let binary = exchange(TEXT, "*/*", "AAAAAAFi", GRPC).await;
        assert_eq!(binary.answered["content-type"], WEB_PROTO);
        assert_eq!(binary.answer.unwrap(), ANSWER);
    }

    #[tokio::test]
    async fn text_that_is_none_breaks_off() {
        for bad in ["AAA", "A!AA", "AAAA=AAA"] {
            let done = exchange(TEXT, TEXT, bad, GRPC).await;
            assert_eq!(done.request, None, "{bad}");
        }
    }

    #[tokio::test]
    async fn others_pass_as_they_are() {
        let done = exchange(GRPC, "*/*", "x", GRPC).await;
        assert_eq!(done.answered["content-type"], GRPC);
        assert_eq!(done.answer.unwrap(), &ANSWER[..6]);
        assert!(!done.sent.contains_key("te"));
        let page = exchange(WEB, "*/*", "x", "text/html").await;
        assert_eq!(page.answered["content-type"], "text/html");
    }

    /// The frame of the trailers would be read as the rest of the message.
    #[tokio::test]
    async fn a_message_that_was_cut_short_gets_no_trailers() {
        for cut in ["\0\0", "\0\0\0\0\x03ab", "\0\0\0\0\x01a\0\0\0\x01"] {
            let done = answered_by(WEB, "*/*", "", (GRPC, cut)).await;
            assert_eq!(done.answer, None, "{cut:?}");
        }
        for whole in ["", "\0\0\0\0\0", "\0\0\0\0\x02ab\x01\0\0\0\x01c"] {
            let done = answered_by(WEB, "*/*", "", (GRPC, whole)).await;
            let answer = done.answer.unwrap();
            assert_eq!(&answer[..whole.len()], whole.as_bytes());
            assert_eq!(&answer[whole.len()..], &ANSWER[6..]);
        }
    }
}
