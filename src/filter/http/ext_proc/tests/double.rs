//! A processor that does as its script says.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::proto::Message as _;
use causeway_xds::proto::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};

use crate::filter::body::{BodyError, BoxBody};
use crate::filter::call::{CallError, Calls, Members, framed};

pub type Script = Box<dyn FnMut(&ProcessingRequest) -> Option<Vec<ProcessingResponse>>>;

/// Says what its script has for each message, and notes what it was sent. `None` ends the call.
pub struct Processor {
    pub script: RefCell<Script>,
    pub seen: RefCell<Vec<ProcessingRequest>>,
    pub status: &'static str,
}

pub struct Shared(pub Rc<Processor>);

impl Calls for Shared {
    fn call(
        &self,
        cluster: &str,
        request: Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        assert_eq!(cluster, "proc");
        assert_eq!(
            request.uri().path(),
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
        );
        let processor = Rc::clone(&self.0);
        Box::pin(async move {
            let body = Talk {
                messages: request.into_body(),
                processor,
                out: VecDeque::new(),
                over: false,
            };
            Ok(Response::new(Box::pin(body) as BoxBody))
        })
    }

    fn members(&self, _: &str) -> Option<Members> {
        None
    }
}

/// The answers, made while they are read.
struct Talk {
    messages: BoxBody,
    processor: Rc<Processor>,
    out: VecDeque<Frame<Bytes>>,
    over: bool,
}

impl Body for Talk {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            let end = match std::task::ready!(self.messages.as_mut().poll_frame(cx)) {
                None => true,
                Some(frame) => {
                    let data = frame?.into_data().expect("data");
                    let message = ProcessingRequest::decode(&data[5..]).expect("a message");
                    let said = (self.processor.script.borrow_mut())(&message);
                    self.processor.seen.borrow_mut().push(message);
                    let end = said.is_none();
                    for message in said.into_iter().flatten() {
                        let frame = Frame::data(framed(&message.encode_to_vec()).into());
                        self.out.push_back(frame);
                    }
                    end
                }
            };
            if end {
                self.over = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", self.processor.status.parse().unwrap());
                self.out.push_back(Frame::trailers(trailers));
            }
        }
    }
}
