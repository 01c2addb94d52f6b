use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::task::Poll;

use bytes::Bytes;
use causeway_xds::proto as pb;
use causeway_xds::proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use causeway_xds::proto::core::{GrpcService, HeaderValue, HeaderValueOption};
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3 as proto;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use causeway_xds::proto::envoy::r#type::v3::HttpStatus;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use proto::processing_mode::{BodySendMode as Body_, HeaderSendMode as Send_};
use service::body_mutation::Mutation;
use service::processing_request::Request as Part;
use service::processing_response::Response as Said;
use service::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use tokio::task::LocalSet;

use super::*;
use crate::filter::body::{BodyError, BoxBody, Whole};
use crate::filter::testing::{
    Answered, Nowhere, TestBody, chain, descend, pass, per_route, request,
};
use crate::filter::{Chain, Flow};
use crate::route::PerRoute as RouteSaid;

mod bodies;
mod double;
mod modes;
mod over_http;

use double::{Processor, Shared};

fn config(change: impl FnOnce(&mut proto::ExternalProcessor)) -> proto::ExternalProcessor {
    let mut config = proto::ExternalProcessor {
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "proc".into(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut config);
    config
}

fn bodies(request: Body_, response: Body_) -> Option<proto::ProcessingMode> {
    Some(proto::ProcessingMode {
        request_body_mode: request as i32,
        response_body_mode: response as i32,
        ..Default::default()
    })
}

fn saying(response: Said) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}

fn set(name: &str, value: &str) -> HeaderMutation {
    HeaderMutation {
        set_headers: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: name.into(),
                raw_value: value.into(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn common(mutation: Option<HeaderMutation>, body: Option<Mutation>) -> Option<CommonResponse> {
    Some(CommonResponse {
        header_mutation: mutation,
        body_mutation: body.map(|body| BodyMutation {
            mutation: Some(body),
        }),
        ..CommonResponse::default()
    })
}

/// What a plain processor answers: nothing changes.
fn nod(message: &ProcessingRequest) -> ProcessingResponse {
    saying(match message.request.as_ref().expect("a part") {
        Part::RequestHeaders(_) => Said::RequestHeaders(HeadersResponse::default()),
        Part::ResponseHeaders(_) => Said::ResponseHeaders(HeadersResponse::default()),
        Part::RequestBody(_) => Said::RequestBody(BodyResponse::default()),
        Part::ResponseBody(_) => Said::ResponseBody(BodyResponse::default()),
        Part::RequestTrailers(_) => Said::RequestTrailers(TrailersResponse::default()),
        Part::ResponseTrailers(_) => Said::ResponseTrailers(TrailersResponse::default()),
    })
}

struct Case {
    processor: Rc<Processor>,
    chain: Chain,
    around: Nowhere,
    route: RouteSaid,
    parts: http::request::Parts,
    body: TestBody,
}

fn case(
    config: &proto::ExternalProcessor,
    script: impl FnMut(&ProcessingRequest) -> Option<Vec<ProcessingResponse>> + 'static,
) -> Case {
    let processor = Rc::new(Processor {
        script: RefCell::new(Box::new(script)),
        seen: RefCell::default(),
        status: "0",
    });
    Case {
        around: Nowhere {
            calls: Rc::new(Shared(Rc::clone(&processor))),
            ..Nowhere::default()
        },
        processor,
        chain: chain(FACTORY.message, config).unwrap(),
        route: RouteSaid::default(),
        parts: request("/a?b", &[("host", "app.test"), ("x-a", "1")]),
        body: TestBody::default(),
    }
}

impl Case {
    fn sending(mut self, body: Whole) -> Self {
        self.body = TestBody(Some(body.boxed()));
        self
    }

    async fn ask(&mut self) -> Flow {
        let client = Ipv4Addr::new(192, 0, 2, 1).into();
        let around = &self.around;
        pass(
            &self.chain,
            &mut self.parts,
            &mut self.body,
            &self.route,
            client,
            around,
        )
        .await
    }

    async fn answer(&self, body: Whole) -> Answered {
        let answer = (StatusCode::OK, HeaderMap::new(), body.boxed());
        descend(&self.chain, answer, &self.route, &self.around).await
    }

    /// What goes up.
    async fn sent(&mut self) -> Result<(String, Option<HeaderMap>), BodyError> {
        let body = self.body.0.take().expect("a body");
        whole(body).await
    }

    fn parts_seen(&self) -> Vec<&'static str> {
        let seen = self.processor.seen.borrow();
        let name = |message: &ProcessingRequest| match message.request.as_ref().unwrap() {
            Part::RequestHeaders(_) => "request_headers",
            Part::ResponseHeaders(_) => "response_headers",
            Part::RequestBody(_) => "request_body",
            Part::ResponseBody(_) => "response_body",
            Part::RequestTrailers(_) => "request_trailers",
            Part::ResponseTrailers(_) => "response_trailers",
        };
        seen.iter().map(name).collect()
    }
}

async fn whole(body: BoxBody) -> Result<(String, Option<HeaderMap>), BodyError> {
    let all = body.collect().await?;
    let trailers = all.trailers().cloned();
    let text = String::from_utf8(all.to_bytes().to_vec()).unwrap();
    Ok((text, trailers))
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("t", "1".parse().unwrap());
    trailers
}

/// Some pieces, each when it is asked for.
fn pieces(all: &'static [&'static str]) -> BoxBody {
    struct Pieces(VecDeque<&'static str>);
    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let next = self.0.pop_front();
            Poll::Ready(next.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
        }
    }
    Box::pin(Pieces(all.iter().copied().collect()))
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn heads_are_shown_and_changed() {
    local(async {
        let mut case = case(&config(|_| {}), |message| {
            Some(vec![match message.request.as_ref().unwrap() {
                Part::RequestHeaders(_) => saying(Said::RequestHeaders(HeadersResponse {
                    response: common(Some(set("x-b", "2")), None),
                })),
                _ => saying(Said::ResponseHeaders(HeadersResponse {
                    response: common(Some(set(":status", "418")), None),
                })),
            }])
        });
        assert!(matches!(case.ask().await, Flow::Continue));
        assert_eq!(case.parts.headers["x-b"], "2");
        let answered = case.answer(Whole::new("all")).await;
        assert_eq!(answered.status, 418);
        assert_eq!(whole(answered.body).await.unwrap().0, "all");
        let seen = case.processor.seen.borrow();
        let Some(Part::RequestHeaders(head)) = &seen[0].request else {
            panic!("{seen:?}");
        };
        let fields = &head.headers.as_ref().unwrap().headers;
        let told: Vec<_> = fields
            .iter()
            .map(|h| (h.key.as_str(), std::str::from_utf8(&h.raw_value).unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                (":method", "GET"),
                (":path", "/a?b"),
                (":authority", "app.test"),
                (":scheme", "http"),
                ("x-a", "1"),
            ]
        );
        assert!(head.end_of_stream);
        assert!(seen[0].protocol_config.is_some() && seen[1].protocol_config.is_none());
    })
    .await;
}

/// Whether there is a tunnel, the answer says.
#[tokio::test]
async fn an_upgrade_that_is_declined_is_a_message_as_any() {
    local(async {
        let modes = bodies(Body_::Buffered, Body_::Buffered);
        let mut case = case(&config(|c| c.processing_mode = modes), |message| {
            Some(vec![match message.request.as_ref().unwrap() {
                Part::ResponseBody(_) => saying(Said::ResponseBody(BodyResponse {
                    response: common(None, Some(Mutation::Body(b"seen".to_vec()))),
                })),
                _ => nod(message),
            }])
        });
        let headers = &mut case.parts.headers;
        headers.insert("upgrade", "websocket".parse().unwrap());
        assert!(matches!(case.ask().await, Flow::Continue));
        let answered = case.answer(Whole::new("declined")).await;
        assert_eq!(whole(answered.body).await.unwrap().0, "seen");
        let seen = ["request_headers", "response_headers", "response_body"];
        assert_eq!(case.parts_seen(), seen);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_the_answer() {
    local(async {
        let mut case = case(&config(|_| {}), |_| {
            Some(vec![saying(Said::ImmediateResponse(ImmediateResponse {
                status: Some(HttpStatus { code: 403 }),
                headers: Some(set("x-why", "so")),
                body: b"no".to_vec(),
                details: "not today".into(),
                ..Default::default()
            }))])
        });
        let Flow::Reply(reply) = case.ask().await else {
            panic!("it passes");
        };
        assert_eq!((reply.status.as_u16(), reply.text()), (403, "no"));
        assert_eq!(reply.headers["x-why"], "so");
        assert_eq!(reply.details, "not_today");
        // No more is asked.
        let answered = case.answer(Whole::default()).await;
        assert!(answered.reply.is_none());
        assert_eq!(case.parts_seen(), ["request_headers"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_without_an_answer_unless_that_is_wanted() {
    local(async {
        let silent = |_: &ProcessingRequest| Some(Vec::new());
        let mut one = case(&config(|_| {}), silent);
        let Flow::Reply(reply) = one.ask().await else {
            panic!("it passes");
        };
        assert_eq!(reply.status, 504);
        assert_eq!(reply.details, "ext_proc_error_per-message_timeout_exceeded");
        let mut open = case(&config(|c| c.failure_mode_allow = true), silent);
        assert!(matches!(open.ask().await, Flow::Continue));
        let answered = open.answer(Whole::new("x")).await;
        assert!(answered.reply.is_none());
        assert_eq!(open.parts_seen(), ["request_headers"]);

        // The status of gRPC.
        let mut broken = case(&config(|_| {}), |_| None);
        broken.processor = Rc::new(Processor {
            script: RefCell::new(Box::new(|_| None)),
            seen: RefCell::default(),
            status: "7",
        });
        broken.around.calls = Rc::new(Shared(Rc::clone(&broken.processor)));
        let Flow::Reply(reply) = broken.ask().await else {
            panic!("it passes");
        };
        assert_eq!(reply.status, 500);
        assert_eq!(reply.details, "ext_proc_error_gRPC_error_7{}");
        // Whoever leaves in peace wants to see no more.
        let mut left = case(&config(|_| {}), |_| None);
        assert!(matches!(left.ask().await, Flow::Continue));
    })
    .await;
}

#[tokio::test]
async fn what_was_not_asked_for_closes() {
    local(async {
        let mut case = case(&config(|_| {}), |_| {
            Some(vec![saying(Said::RequestBody(BodyResponse::default()))])
        });
        let Flow::Reply(reply) = case.ask().await else {
            panic!("it passes");
        };
        assert_eq!(reply.status, 500);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_processor_may_ask_for_more_time_once() {
    local(async {
        let seconds = |seconds| Some(pb::Duration { seconds, nanos: 0 });
        let more = move |_: &ProcessingRequest| {
            Some(vec![ProcessingResponse {
                override_message_timeout: seconds(5),
                ..Default::default()
            }])
        };
        for (max, wait) in [(seconds(10), 5000), (seconds(1), 200), (None, 200)] {
            let mut case = case(&config(|c| c.max_message_timeout = max), more);
            let began = tokio::time::Instant::now();
            assert!(matches!(case.ask().await, Flow::Reply(r) if r.status == 504));
            assert_eq!(began.elapsed().as_millis() / 10 * 10, wait);
        }
    })
    .await;
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    let refused = |change: fn(&mut proto::ExternalProcessor)| {
        let error = chain(FACTORY.message, &config(change)).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        refused(|c| c.grpc_service = None),
        "grpc_service: must be given"
    );
    assert_eq!(
        refused(|c| c.processing_mode = bodies(Body_::FullDuplexStreamed, Body_::None)),
        "processing_mode.request_trailer_mode: must be SEND where the body is FULL_DUPLEX_STREAMED"
    );
    assert_eq!(
        refused(|c| c.processing_mode = bodies(Body_::None, Body_::Grpc)),
        "processing_mode.response_body_mode: GRPC is not supported yet"
    );
    assert_eq!(
        refused(|c| c.request_attributes = vec!["request.path".into(), "x".into()]),
        "request_attributes[1]: the attribute \"x\" is not supported yet"
    );
    assert_eq!(
        refused(|c| {
            c.disable_clear_route_cache = true;
            c.route_cache_action = 1;
        }),
        "route_cache_action: is given together with disable_clear_route_cache"
    );
}
