//! Bodies: whole, in pieces, in both directions at once.

use super::*;

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
