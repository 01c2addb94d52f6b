use std::cell::RefCell;
use std::rc::Rc;

use causeway_xds::proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use causeway_xds::proto::core::{self, ApiVersion, GrpcService};
use causeway_xds::proto::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit as CurrentLimit, rate_limit::Unit as CurrentUnit,
};
use causeway_xds::proto::route::rate_limit::action::{ActionSpecifier, RequestHeaders};
use causeway_xds::proto::{self as pb, Message as _};

use super::*;
use crate::filter::call::Calls;
use crate::filter::testing::{
    Nowhere, TestBody, answer, chain, one_service, over_grpc, pass, per_route, request,
};
use crate::route::PerRoute as RouteSaid;

/// Gives one answer, or none.
#[derive(Default)]
struct Limits {
    answer: Option<RateLimitResponse>,
    asked: RefCell<Vec<RateLimitRequest>>,
}

impl Limits {
    fn calls(self: &Rc<Self>) -> Rc<dyn Calls> {
        let service = Rc::clone(self);
        one_service("limits", move |head, body| {
            assert_eq!(head.uri.path(), SHOULD_RATE_LIMIT);
            let message = RateLimitRequest::decode(&body[5..]).expect("a message");
            service.asked.borrow_mut().push(message);
            match &service.answer {
                None => Err(CallError::Unreachable("nobody there".into())),
                Some(answer) => Ok(over_grpc(&answer.encode_to_vec())),
            }
        })
    }
}

fn by_user() -> route::RateLimit {
    route::RateLimit {
        actions: vec![route::rate_limit::Action {
            action_specifier: Some(ActionSpecifier::RequestHeaders(RequestHeaders {
                header_name: "x-user".into(),
                descriptor_key: "user".into(),
                skip_if_absent: false,
            })),
        }],
        ..Default::default()
    }
}

fn config() -> proto::RateLimit {
    proto::RateLimit {
        domain: "apps".into(),
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: "limits".into(),
                    ..Default::default()
                })),
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        rate_limits: vec![by_user()],
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        ..Default::default()
    }
}

fn told(code: Code) -> RateLimitResponse {
    RateLimitResponse {
        overall_code: code as i32,
        statuses: vec![DescriptorStatus {
            code: code as i32,
            current_limit: Some(CurrentLimit {
                name: "per-user".into(),
                requests_per_unit: 10,
                unit: CurrentUnit::Minute as i32,
            }),
            limit_remaining: 3,
            duration_until_reset: Some(pb::Duration {
                seconds: 42,
                nanos: 0,
            }),
            ..Default::default()
        }],
        request_headers_to_add: vec![header("x-up", "1")],
        response_headers_to_add: vec![header("x-down", "2")],
        ..Default::default()
    }
}

fn header(key: &str, value: &str) -> core::HeaderValue {
    core::HeaderValue {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

struct Done {
    flow: Flow,
    asked: Vec<RateLimitRequest>,
    sent: HeaderMap,
    answered: HeaderMap,
}

async fn exchange(
    config: &proto::RateLimit,
    answered: Option<RateLimitResponse>,
    headers: &[(&str, &str)],
    route: &RouteSaid,
) -> Done {
    let chain = chain(FACTORY.message, config).unwrap();
    let service = Rc::new(Limits {
        answer: answered,
        ..Limits::default()
    });
    let around = Nowhere {
        calls: service.calls(),
        ..Nowhere::default()
    };
    let mut parts = request("/", headers);
    let client = std::net::Ipv4Addr::LOCALHOST.into();
    let mut body = TestBody::default();
    let flow = pass(&chain, &mut parts, &mut body, route, client, &around).await;
    let mut answered = HeaderMap::new();
    answer(&chain, StatusCode::OK, &mut answered, route, &around);
    Done {
        flow,
        asked: service.asked.take(),
        sent: parts.headers,
        answered,
    }
}

const ALICE: [(&str, &str); 1] = [("x-user", "alice")];

#[tokio::test]
async fn what_is_left_is_told_to_both_sides() {
    let route = RouteSaid::default();
    let done = exchange(&config(), Some(told(Code::Ok)), &ALICE, &route).await;
    assert!(matches!(done.flow, Flow::Continue), "{:?}", done.flow);
    assert_eq!(done.asked[0].domain, "apps");
    let entry = &done.asked[0].descriptors[0].entries[0];
    assert_eq!(
        (entry.key.as_str(), entry.value.as_str()),
        ("user", "alice")
    );
    assert_eq!(done.sent["x-up"], "1");
    assert_eq!(done.answered["x-down"], "2");
    let quota = "10, 10;w=60;name=\"per-user\"";
    assert_eq!(done.answered["x-ratelimit-limit"], quota);
    assert_eq!(done.answered["x-ratelimit-remaining"], "3");
    assert_eq!(done.answered["x-ratelimit-reset"], "42");
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused() {
    let mut config = config();
    config.enable_retry_after_header = true;
    let route = RouteSaid::default();
    let done = exchange(&config, Some(told(Code::OverLimit)), &ALICE, &route).await;
    let Flow::Reply(reply) = done.flow else {
        panic!("{:?}", done.flow)
    };
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.flag, Some(ResponseFlag::RateLimited));
    assert_eq!(reply.headers["x-envoy-ratelimited"], "true");
    assert_eq!(reply.headers["x-ratelimit-remaining"], "3");
    assert_eq!(reply.headers["retry-after"], "42");
    assert!(!done.sent.contains_key("x-up"));
}

#[tokio::test]
async fn a_request_that_is_counted_by_nothing_asks_nobody() {
    let route = RouteSaid::default();
    let done = exchange(&config(), Some(told(Code::OverLimit)), &[], &route).await;
    assert!(matches!(done.flow, Flow::Continue), "{:?}", done.flow);
    assert!(done.asked.is_empty());
}

#[tokio::test]
async fn without_an_answer_the_failure_mode_decides() {
    let route = RouteSaid::default();
    for unknown in [None, Some(told(Code::Unknown))] {
        let done = exchange(&config(), unknown.clone(), &ALICE, &route).await;
        assert!(matches!(done.flow, Flow::Continue), "{:?}", done.flow);
        let mut deny = config();
        deny.failure_mode_deny = true;
        let done = exchange(&deny, unknown, &ALICE, &route).await;
        let Flow::Reply(reply) = done.flow else {
            panic!("{:?}", done.flow)
        };
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(reply.flag, Some(ResponseFlag::RateLimitServiceError));
    }
}

#[tokio::test]
async fn a_route_may_count_by_something_else() {
    let mut other = by_user();
    if let Some(ActionSpecifier::RequestHeaders(by)) = &mut other.actions[0].action_specifier {
        by.descriptor_key = "who".into();
    }
    let said = proto::RateLimitPerRoute {
        rate_limits: vec![other],
        domain: "else".into(),
        ..Default::default()
    };
    let route = per_route(NAME, FACTORY.per_route[0].0, &said).unwrap();
    let done = exchange(&config(), Some(told(Code::Ok)), &ALICE, &route).await;
    assert_eq!(done.asked[0].domain, "else");
    assert_eq!(done.asked[0].descriptors[0].entries[0].key, "who");
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    let refused = |config| chain(FACTORY.message, &config).unwrap_err().to_string();
    let nameless = proto::RateLimit {
        domain: String::new(),
        ..config()
    };
    assert_eq!(refused(nameless), "domain: must not be empty");
    let alone = proto::RateLimit {
        rate_limit_service: None,
        ..config()
    };
    assert_eq!(refused(alone), "rate_limit_service: must be given");
    let odd = proto::RateLimit {
        request_type: "odd".into(),
        ..config()
    };
    assert!(refused(odd).starts_with("request_type: "));
    let mut staged = config();
    staged.rate_limits[0].stage = Some(pb::UInt32Value { value: 1 });
    assert_eq!(refused(staged), "rate_limits[0].stage: not supported yet");
}
