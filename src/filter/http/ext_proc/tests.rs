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

mod double;
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

#[tokio::test]
async fn a_whole_body_is_replaced_and_gets_its_length() {
    local(async {
        let modes = bodies(Body_::Buffered, Body_::Buffered);
        let mut case = case(&config(|c| c.processing_mode = modes), |message| {
            let new = |text: &str| Some(Mutation::Body(text.as_bytes().to_vec()));
            Some(vec![match message.request.as_ref().unwrap() {
                Part::RequestBody(body) => {
                    assert!(body.end_of_stream);
                    saying(Said::RequestBody(BodyResponse {
                        response: common(Some(set("x-c", "3")), new("longer")),
                    }))
                }
                Part::ResponseBody(_) => saying(Said::ResponseBody(BodyResponse {
                    response: common(Some(set("x-d", "4")), new("other")),
                })),
                _ => nod(message),
            }])
        })
        .sending(Whole::new("body"));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert_eq!(case.parts.headers["content-length"], "6");
        assert_eq!(case.parts.headers["x-c"], "3");
        assert_eq!(case.sent().await.unwrap().0, "longer");
        let answered = case.answer(Whole::new("body")).await;
        assert_eq!(answered.headers["content-length"], "5");
        assert_eq!(answered.headers["x-d"], "4");
        assert_eq!(whole(answered.body).await.unwrap().0, "other");
        assert_eq!(
            case.parts_seen(),
            [
                "request_headers",
                "request_body",
                "response_headers",
                "response_body"
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_kept_is_refused_or_shown_in_part() {
    local(async {
        let large = || Whole::new(vec![b'x'; session::ROOM + 1]);
        let nods = |message: &ProcessingRequest| Some(vec![nod(message)]);
        let modes = bodies(Body_::Buffered, Body_::Buffered);
        let mut one = case(&config(|c| c.processing_mode = modes), nods).sending(large());
        assert!(matches!(one.ask().await, Flow::Reply(r) if r.status == 413));
        let mut one = case(&config(|c| c.processing_mode = modes), nods);
        assert!(matches!(one.ask().await, Flow::Continue));
        assert_eq!(one.answer(large()).await.reply.unwrap().status, 500);
        let modes = bodies(Body_::BufferedPartial, Body_::BufferedPartial);
        let mut part = case(&config(|c| c.processing_mode = modes), nods).sending(large());
        assert!(matches!(part.ask().await, Flow::Continue));
        assert_eq!(part.sent().await.unwrap().0.len(), session::ROOM + 1);
        let answered = part.answer(large()).await;
        assert_eq!(
            whole(answered.body).await.unwrap().0.len(),
            session::ROOM + 1
        );
    })
    .await;
}

#[tokio::test]
async fn pieces_are_changed_while_they_pass() {
    local(async {
        let modes = Some(proto::ProcessingMode {
            request_trailer_mode: Send_::Send as i32,
            response_trailer_mode: Send_::Send as i32,
            ..bodies(Body_::Streamed, Body_::Streamed).unwrap()
        });
        let mut case = case(&config(|c| c.processing_mode = modes), |message| {
            let upper = |body: &[u8]| common(None, Some(Mutation::Body(body.to_ascii_uppercase())));
            let header_mutation = Some(set("t", "2"));
            Some(vec![match message.request.as_ref().unwrap() {
                Part::RequestBody(body) => saying(Said::RequestBody(BodyResponse {
                    response: upper(&body.body),
                })),
                Part::ResponseBody(body) => saying(Said::ResponseBody(BodyResponse {
                    response: upper(&body.body),
                })),
                Part::RequestTrailers(_) => {
                    saying(Said::RequestTrailers(TrailersResponse { header_mutation }))
                }
                Part::ResponseTrailers(_) => {
                    saying(Said::ResponseTrailers(TrailersResponse { header_mutation }))
                }
                _ => nod(message),
            }])
        });
        case.parts
            .headers
            .insert("content-length", "4".parse().unwrap());
        case.body = TestBody(Some(pieces(&["ab", "cd"])));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert!(!case.parts.headers.contains_key("content-length"));
        assert_eq!(case.sent().await.unwrap().0, "ABCD");
        let answered = case
            .answer(Whole {
                data: "xy".into(),
                trailers: Some(trailers()),
            })
            .await;
        let (text, trailers) = whole(answered.body).await.unwrap();
        assert_eq!(text, "XY");
        assert_eq!(trailers.unwrap()["t"], "2");
        assert_eq!(
            case.parts_seen(),
            [
                "request_headers",
                "request_body",
                "request_body",
                // That nothing follows was not known before.
                "request_body",
                "response_headers",
                "response_body",
                "response_trailers",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_refused_on_its_way_breaks_off_and_the_client_is_told_why() {
    local(async {
        let modes = bodies(Body_::Streamed, Body_::None);
        let mut case = case(&config(|c| c.processing_mode = modes), |message| {
            Some(vec![match message.request.as_ref().unwrap() {
                Part::RequestBody(_) => saying(Said::ImmediateResponse(ImmediateResponse {
                    status: Some(HttpStatus { code: 451 }),
                    ..Default::default()
                })),
                _ => nod(message),
            }])
        })
        .sending(Whole::new("body"));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert!(case.sent().await.is_err());
        // Whatever the upstream, or whoever has seen the request break off, says.
        let answered = case.answer(Whole::default()).await;
        assert_eq!(answered.reply.unwrap().status, 451);
    })
    .await;
}

/// Sends back what it gets, twice, when it has all of it; the head comes with that.
fn mirror() -> impl FnMut(&ProcessingRequest) -> Option<Vec<ProcessingResponse>> {
    let mut kept = Vec::new();
    move |message| {
        let (data, end, response) = match message.request.as_ref().unwrap() {
            Part::RequestBody(body) => (&body.body, body.end_of_stream, false),
            Part::ResponseBody(body) => (&body.body, body.end_of_stream, true),
            _ => return Some(Vec::new()),
        };
        kept.extend_from_slice(data);
        if !end {
            return Some(Vec::new());
        }
        let all = std::mem::take(&mut kept);
        let part = |end| BodyResponse {
            response: common(
                None,
                Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body: all.clone(),
                    end_of_stream: end,
                    ..Default::default()
                })),
            ),
        };
        let said = |end| match response {
            true => saying(Said::ResponseBody(part(end))),
            false => saying(Said::RequestBody(part(end))),
        };
        let head = HeadersResponse {
            response: common(Some(set("x-all", "1")), None),
        };
        let head = match response {
            true => Said::ResponseHeaders(head),
            false => Said::RequestHeaders(head),
        };
        Some(vec![saying(head), said(false), said(true)])
    }
}

#[tokio::test]
async fn another_body_comes_back_when_the_processor_has_seen_enough() {
    local(async {
        let modes = Some(proto::ProcessingMode {
            request_trailer_mode: Send_::Send as i32,
            response_trailer_mode: Send_::Send as i32,
            ..bodies(Body_::FullDuplexStreamed, Body_::FullDuplexStreamed).unwrap()
        });
        let mut case = case(&config(|c| c.processing_mode = modes), mirror());
        case.body = TestBody(Some(pieces(&["ab", "cd"])));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert_eq!(case.parts.headers["x-all"], "1");
        assert_eq!(case.sent().await.unwrap().0, "abcdabcd");
        let answered = case.answer(Whole::new("xy")).await;
        assert_eq!(answered.headers["x-all"], "1");
        assert_eq!(whole(answered.body).await.unwrap().0, "xyxy");
    })
    .await;
}

#[tokio::test]
async fn what_a_processor_has_kept_is_not_lost_in_silence() {
    local(async {
        let modes = Some(proto::ProcessingMode {
            request_trailer_mode: Send_::Send as i32,
            ..bodies(Body_::FullDuplexStreamed, Body_::None).unwrap()
        });
        let mut case = case(
            &config(|c| c.processing_mode = modes),
            |message| match message.request.as_ref().unwrap() {
                Part::RequestHeaders(_) => Some(vec![nod(message)]),
                _ => None,
            },
        );
        case.body = TestBody(Some(pieces(&["ab", "cd"])));
        let flow = case.ask().await;
        if matches!(flow, Flow::Continue) {
            assert!(case.sent().await.is_err());
            assert_eq!(
                case.answer(Whole::default()).await.reply.unwrap().status,
                500
            );
        } else {
            assert!(matches!(flow, Flow::Reply(r) if r.status == 500));
        }
    })
    .await;
}

#[tokio::test]
async fn who_only_looks_on_is_not_waited_for() {
    local(async {
        let modes = bodies(Body_::Streamed, Body_::Streamed);
        let config = config(|c| {
            c.processing_mode = modes;
            c.observability_mode = true;
        });
        let mut case = case(&config, |_| Some(Vec::new())).sending(Whole::new("up"));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert_eq!(case.sent().await.unwrap().0, "up");
        let answered = case.answer(Whole::new("down")).await;
        assert_eq!(whole(answered.body).await.unwrap().0, "down");
        let all = 4;
        poll_fn(|cx| {
            if case.processor.seen.borrow().len() == all {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        assert!(
            case.processor
                .seen
                .borrow()
                .iter()
                .all(|m| m.observability_mode)
        );
    })
    .await;
}

#[tokio::test]
async fn a_route_has_its_own_modes_and_may_switch_it_off() {
    use proto::ext_proc_per_route::Override;
    local(async {
        let said = |r#override| {
            let message = proto::ExtProcPerRoute {
                r#override: Some(r#override),
            };
            per_route(FACTORY.name, FACTORY.per_route[0].0, &message)
        };
        let nods = |message: &ProcessingRequest| Some(vec![nod(message)]);
        let mut off = case(&config(|_| {}), nods);
        off.route = said(Override::Disabled(true)).unwrap();
        assert!(matches!(off.ask().await, Flow::Continue));
        off.answer(Whole::default()).await;
        assert!(off.parts_seen().is_empty());
        assert!(said(Override::Disabled(false)).is_err());

        let mut skips = case(&config(|_| {}), nods);
        skips.route = said(Override::Overrides(proto::ExtProcOverrides {
            processing_mode: Some(proto::ProcessingMode {
                request_header_mode: Send_::Skip as i32,
                ..Default::default()
            }),
            ..Default::default()
        }))
        .unwrap();
        assert!(matches!(skips.ask().await, Flow::Continue));
        skips.answer(Whole::default()).await;
        assert_eq!(skips.parts_seen(), ["response_headers"]);
    })
    .await;
}

#[tokio::test]
async fn the_processor_may_change_modes_only_where_it_may() {
    local(async {
        let skip = proto::ProcessingMode {
            response_header_mode: Send_::Skip as i32,
            ..Default::default()
        };
        for (allowed, listed, expected) in [
            (false, Vec::new(), 2),
            (true, Vec::new(), 1),
            (true, vec![skip], 1),
            (true, vec![proto::ProcessingMode::default()], 2),
        ] {
            let config = config(|c| {
                c.allow_mode_override = allowed;
                c.allowed_override_modes = listed;
            });
            let mut case = case(&config, move |message| {
                let mut said = nod(message);
                said.mode_override = Some(skip);
                Some(vec![said])
            });
            assert!(matches!(case.ask().await, Flow::Continue));
            case.answer(Whole::default()).await;
            assert_eq!(case.parts_seen().len(), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn the_route_is_chosen_anew_only_after_a_change() {
    local(async {
        for (mutates, reroutes) in [(true, true), (false, false)] {
            let mut case = case(&config(|_| {}), move |_| {
                let mut response = common(mutates.then(|| set("x-b", "2")), None);
                response.as_mut().unwrap().clear_route_cache = true;
                Some(vec![saying(Said::RequestHeaders(HeadersResponse {
                    response,
                }))])
            });
            let flow = case.ask().await;
            assert_eq!(matches!(flow, Flow::Reroute), reroutes, "{flow:?}");
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
