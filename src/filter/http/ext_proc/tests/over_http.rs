//! A processor over HTTP.

use super::*;
use crate::filter::call::Calls;
use crate::filter::testing::one_service;

/// Answers requests over HTTP with what it says in JSON.
struct OverHttp {
    answer: RefCell<Option<String>>,
    seen: RefCell<Vec<(http::request::Parts, serde_json::Value)>>,
}

impl OverHttp {
    fn calls(self: &Rc<Self>) -> Rc<dyn Calls> {
        let server = Rc::clone(self);
        one_service("proc", move |head, body| {
            let message = serde_json::from_slice(&body).expect("JSON");
            server.seen.borrow_mut().push((head, message));
            let mut response = http::Response::new(Whole::default().boxed());
            match server.answer.borrow().clone() {
                Some(text) => *response.body_mut() = Whole::new(Bytes::from(text)).boxed(),
                None => *response.status_mut() = StatusCode::BAD_GATEWAY,
            }
            Ok(response)
        })
    }
}

fn over_http(config: &mut proto::ExternalProcessor) {
    let header = HeaderValue {
        key: "x-key".into(),
        value: "k".into(),
        ..Default::default()
    };
    config.grpc_service = None;
    config.http_service = Some(proto::ExtProcHttpService {
        http_service: Some(pb::core::HttpService {
            http_uri: Some(pb::core::HttpUri {
                uri: "http://proc.test/look?at".into(),
                timeout: Some(pb::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                http_upstream_type: Some(pb::core::http_uri::HttpUpstreamType::Cluster(
                    "proc".into(),
                )),
            }),
            request_headers_to_add: vec![HeaderValueOption {
                header: Some(header),
                ..Default::default()
            }],
            ..Default::default()
        }),
    });
}

#[tokio::test]
async fn heads_are_shown_over_http_and_bodies_are_not() {
    local(async {
        let server = Rc::new(OverHttp {
            answer: RefCell::default(),
            seen: RefCell::default(),
        });
        let made = |change: fn(&mut proto::ExternalProcessor)| {
            let mut case = case(&config(|config| {
                over_http(config);
                change(config);
            }), |_| None);
            case.around.calls = server.calls();
            case.sending(Whole::new(Bytes::from_static(b"unseen")))
        };
        let mut passing = made(|_| {});
        let set = r#"{"header": {"key": "x-up", "rawValue": "cHJvY2Vzc2Vk"}}"#;
        *server.answer.borrow_mut() = Some(format!(
            r#"{{"requestHeaders": {{"response": {{"headerMutation": {{"setHeaders": [{set}]}}}}}}}}"#
        ));
        assert!(matches!(passing.ask().await, Flow::Continue));
        assert_eq!(passing.parts.headers["x-up"], "processed");
        *server.answer.borrow_mut() = Some(r#"{"responseHeaders": {}}"#.to_owned());
        let answered = passing.answer(Whole::new(Bytes::from_static(b"body"))).await;
        assert!(answered.reply.is_none());
        assert_eq!(whole(answered.body).await.unwrap().0, "body");
        assert_eq!(passing.sent().await.unwrap().0, "unseen");
        {
            let seen = server.seen.borrow();
            let (head, message) = &seen[0];
            assert_eq!((head.method.as_str(), &*head.uri.to_string()), ("POST", "/look?at"));
            assert_eq!(head.headers["host"], "proc.test");
            assert_eq!(head.headers["x-key"], "k");
            assert_eq!(head.headers["content-type"], "application/json");
            let headers = message.pointer("/request_headers/headers/headers");
            assert!(headers.is_some_and(|list| list.to_string().contains(":path")), "{message}");
            assert_eq!(seen.len(), 2);
        }
        // Nothing passes without an answer, unless that is wanted.
        for answer in [None, Some("no message"), Some("{\"what\": 1}"), Some("{}")] {
            *server.answer.borrow_mut() = answer.map(str::to_owned);
            let flow = made(|_| {}).ask().await;
            assert!(matches!(flow, Flow::Reply(_) | Flow::Fail(_)), "{answer:?}: {flow:?}");
        }
        *server.answer.borrow_mut() = None;
        let mut open = made(|config| config.failure_mode_allow = true);
        assert!(matches!(open.ask().await, Flow::Continue));
    })
    .await;
}

/// Time stands still unless all is idle: a message that nobody takes would cost its whole timeout.
#[tokio::test(start_paused = true)]
async fn an_answer_about_the_wrong_part_fails_at_once() {
    local(async {
        let server = Rc::new(OverHttp {
            answer: RefCell::default(),
            seen: RefCell::default(),
        });
        let mut case = case(&config(over_http), |_| None);
        case.around.calls = server.calls();
        let mut case = case.sending(Whole::new(Bytes::from_static(b"unseen")));
        let started = tokio::time::Instant::now();
        *server.answer.borrow_mut() = Some(r#"{"responseHeaders": {}}"#.to_owned());
        let Flow::Reply(reply) = case.ask().await else {
            panic!("it passes");
        };
        assert_eq!(reply.details, "spurious_message");
        assert_eq!(started.elapsed(), std::time::Duration::ZERO);
    })
    .await;
}

#[test]
fn a_service_over_http_is_shown_heads_only() {
    let refused = |change: &dyn Fn(&mut proto::ExternalProcessor)| {
        let config = config(|config| {
            over_http(config);
            change(config);
        });
        chain(FACTORY.message, &config).unwrap_err().to_string()
    };
    let both = refused(&|config| config.grpc_service = Some(GrpcService::default()));
    assert_eq!(both, "http_service: is given together with grpc_service");
    let bodies = refused(&|config| config.processing_mode = bodies(Body_::Buffered, Body_::None));
    assert_eq!(
        bodies,
        "processing_mode: shows an http_service more than headers"
    );
    let looks_on = refused(&|config| config.observability_mode = true);
    assert_eq!(
        looks_on,
        "observability_mode: is not supported with http_service"
    );
    let uri = refused(&|config| {
        let service = config
            .http_service
            .as_mut()
            .and_then(|s| s.http_service.as_mut());
        service.and_then(|s| s.http_uri.as_mut()).unwrap().uri = "/look".into();
    });
    assert_eq!(
        uri,
        "http_service.http_service.http_uri.uri: is no absolute URI"
    );
}
