use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::Bytes;
use causeway_xds::proto::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use causeway_xds::proto::core::http_uri::HttpUpstreamType;
use causeway_xds::proto::core::{self, HeaderValueOption};
use causeway_xds::proto::envoy::service::auth::v3::check_response::HttpResponse;
use causeway_xds::proto::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use causeway_xds::proto::envoy::r#type::matcher::v3::{
    ListStringMatcher, StringMatcher, string_matcher::MatchPattern,
};
use causeway_xds::proto::google::protobuf::{Struct, Value};
use causeway_xds::proto::{self as pb, Message as _};
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use proto::ext_authz::Services;
use proto::ext_authz_per_route::Override;

use super::*;
use crate::filter::body::{BodySlot as _, Whole};
use crate::filter::call::Calls;
use crate::filter::testing::{
    self, Nowhere, TestBody, chain, one_service, pass, per_route, request,
};
use crate::filter::{Chain, call};
use crate::route::PerRoute as RouteSaid;

/// Answers with what a test wants, and keeps what it was asked.
#[derive(Default)]
struct Authorizer {
    answer: RefCell<Option<Response<Bytes>>>,
    trailers: RefCell<Option<HeaderMap>>,
    asked: RefCell<Vec<(Parts, Bytes)>>,
}

impl Authorizer {
    fn calls(self: &Rc<Self>) -> Rc<dyn Calls> {
        let service = Rc::clone(self);
        one_service("authz", move |head, body| {
            service.asked.borrow_mut().push((head, body));
            let answer = service.answer.borrow_mut().take();
            let answer = answer.ok_or(call::CallError::Unreachable("nobody there".into()))?;
            Ok(answer.map(|data| {
                let trailers = service.trailers.borrow_mut().take();
                Whole { data, trailers }.boxed()
            }))
        })
    }
}

fn exact(names: &[&str]) -> Option<ListStringMatcher> {
    let pattern = |name: &&str| StringMatcher {
        ignore_case: false,
        match_pattern: Some(MatchPattern::Exact((*name).to_owned())),
    };
    Some(ListStringMatcher {
        patterns: names.iter().map(pattern).collect(),
    })
}

fn http() -> proto::ExtAuthz {
    proto::ExtAuthz {
        services: Some(Services::HttpService(proto::HttpService {
            server_uri: Some(core::HttpUri {
                uri: "http://auth.test".into(),
                timeout: Some(pb::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                http_upstream_type: Some(HttpUpstreamType::Cluster("authz".into())),
            }),
            path_prefix: "/chk".into(),
            authorization_response: Some(proto::AuthorizationResponse {
                allowed_upstream_headers: exact(&["x-user"]),
                allowed_client_headers: exact(&["x-why"]),
                allowed_client_headers_on_success: exact(&["x-ok"]),
                ..Default::default()
            }),
            ..Default::default()
        })),
        allowed_headers: exact(&["x-token"]),
        ..Default::default()
    }
}

fn grpc() -> proto::ExtAuthz {
    proto::ExtAuthz {
        transport_api_version: core::ApiVersion::V3 as i32,
        services: Some(Services::GrpcService(core::GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "authz".into(),
                ..Default::default()
            })),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn made(config: &proto::ExtAuthz) -> Chain {
    chain(FACTORY.message, config).unwrap()
}

fn refused(config: &proto::ExtAuthz) -> String {
    chain(FACTORY.message, config).unwrap_err().to_string()
}

struct Asked {
    service: Rc<Authorizer>,
    around: Nowhere,
    body: TestBody,
    parts: Parts,
}

fn asked(target: &str, headers: &[(&str, &str)]) -> Asked {
    let service = Rc::new(Authorizer::default());
    Asked {
        around: Nowhere {
            calls: service.calls(),
            ..Nowhere::default()
        },
        service,
        body: TestBody::default(),
        parts: request(target, headers),
    }
}

impl Asked {
    fn answering(self, answer: http::response::Builder, body: impl Into<Bytes>) -> Self {
        let answer = answer.body(body.into()).unwrap();
        *self.service.answer.borrow_mut() = Some(answer);
        self
    }

    fn checking(self, answer: &CheckResponse) -> Self {
        let message = answer.encode_to_vec();
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        *self.service.trailers.borrow_mut() = Some(trailers);
        self.answering(Response::builder(), framed)
    }

    async fn through(&mut self, chain: &Chain, route: &RouteSaid) -> Flow {
        let client = Ipv4Addr::new(192, 0, 2, 1).into();
        pass(
            chain,
            &mut self.parts,
            &mut self.body,
            route,
            client,
            &self.around,
        )
        .await
    }

    async fn flow(&mut self, config: &proto::ExtAuthz) -> Flow {
        self.through(&made(config), &RouteSaid::default()).await
    }
}

fn reply(flow: Flow) -> (u16, String, HeaderMap) {
    match flow {
        Flow::Reply(reply) => {
            assert_eq!(reply.flag, Some(ResponseFlag::Unauthorized));
            let text = reply.text().to_owned();
            (reply.status.as_u16(), text, reply.headers)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_http_service_sees_what_it_may_and_tells_what_it_may() {
    let headers = [
        ("host", "h"),
        ("x-token", "t"),
        ("x-user", "spoof"),
        ("cookie", "c"),
        ("authorization", "a"),
    ];
    let answer = Response::builder()
        .header("x-user", "u1")
        .header("x-other", "z")
        .header("x-ok", "yes");
    let mut case = asked("/p?q", &headers).answering(answer, "");
    let chain = made(&http());
    let flow = case.through(&chain, &RouteSaid::default()).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert_eq!(case.parts.headers["x-user"], "u1");
    assert!(!case.parts.headers.contains_key("x-other"));
    let (head, _) = case.service.asked.borrow_mut().pop().unwrap();
    assert_eq!(head.uri, "/chk/p?q");
    for (name, value) in [("host", "h"), ("x-token", "t"), ("authorization", "a")] {
        assert_eq!(head.headers[name], value);
    }
    assert!(!head.headers.contains_key("cookie"));
    assert!(!head.headers.contains_key("x-user"));
    // What the client is told comes with the answer of the upstream.
    let mut headers = HeaderMap::new();
    let route = RouteSaid::default();
    testing::answer(&chain, StatusCode::OK, &mut headers, &route, &case.around);
    assert_eq!(headers["x-ok"], "yes");
}

#[tokio::test]
async fn what_only_the_service_may_say_no_client_says() {
    let yes = Value {
        kind: Some(Kind::BoolValue(true)),
    };
    let own = Struct {
        fields: [(EXCLUSIVE.to_owned(), yes)].into_iter().collect(),
    };
    let exclusive = proto::ExtAuthz {
        failure_mode_allow: true,
        allowed_headers: exact(&["x-user"]),
        filter_metadata: Some(own),
        ..http()
    };
    let plain = proto::ExtAuthz {
        failure_mode_allow: true,
        ..http()
    };
    let case = || asked("/", &[("host", "h"), ("x-user", "spoof"), ("x-more", "m")]);
    let silent = || case().answering(Response::builder(), "");
    let failing = || case().answering(Response::builder().status(503), "");
    for mut case in [silent(), failing(), case()] {
        let flow = case.flow(&exclusive).await;
        assert!(matches!(flow, Flow::Continue), "{flow:?}");
        assert!(!case.parts.headers.contains_key("x-user"));
        assert_eq!(case.parts.headers["x-more"], "m");
        assert_eq!(case.parts.headers["host"], "h");
        let (head, _) = case.service.asked.borrow_mut().pop().unwrap();
        // It may judge by it.
        assert_eq!(head.headers["x-user"], "spoof");
    }
    let mut said = case().answering(Response::builder().header("x-user", "u1"), "");
    said.flow(&exclusive).await;
    assert_eq!(said.parts.headers["x-user"], "u1");
    // As in Envoy.
    let mut case = silent();
    case.flow(&plain).await;
    assert_eq!(case.parts.headers["x-user"], "spoof");
}

#[tokio::test]
async fn a_refusal_is_the_services_own() {
    let answer = Response::builder()
        .status(401)
        .header("x-why", "no")
        .header("x-secret", "s")
        .header("www-authenticate", "Basic");
    let mut case = asked("/", &[]).answering(answer, "denied");
    let (status, body, headers) = reply(case.flow(&http()).await);
    assert_eq!((status, body.as_str()), (401, "denied"));
    assert_eq!(headers["x-why"], "no");
    assert_eq!(headers["www-authenticate"], "Basic");
    assert!(!headers.contains_key("x-secret"));
}

#[tokio::test]
async fn nobody_passes_when_the_service_cannot_say() {
    let silent = || asked("/", &[]);
    let failing = || asked("/", &[]).answering(Response::builder().status(503), "");
    for config in [http(), grpc()] {
        for mut case in [silent(), failing()] {
            let (status, body, _) = reply(case.flow(&config).await);
            assert_eq!((status, body.as_str()), (403, ""));
        }
    }
    let mut garbage = asked("/", &[]).answering(Response::builder(), "no message");
    assert_eq!(reply(garbage.flow(&grpc()).await).0, 403);

    let mut told = http();
    told.status_on_error = Some(pb::envoy::r#type::v3::HttpStatus { code: 503 });
    assert_eq!(reply(silent().flow(&told).await).0, 503);

    let mut open = http();
    open.failure_mode_allow = true;
    open.failure_mode_allow_header_add = true;
    let mut case = failing();
    let flow = case.flow(&open).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert_eq!(
        case.parts.headers["x-envoy-auth-failure-mode-allowed"],
        "true"
    );
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_grpc_service_may_change_the_request() {
    let ok = CheckResponse {
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![option("X-User", "u1"), option(":path", "/new?a=1&b=2")],
            headers_to_remove: vec!["authorization".into(), "host".into()],
            query_parameters_to_set: vec![core::QueryParameter {
                key: "c".into(),
                value: "x y".into(),
            }],
            query_parameters_to_remove: vec!["a".into()],
            ..Default::default()
        })),
        dynamic_metadata: Some(pb::Struct::default()),
        ..Default::default()
    };
    let headers = [("host", "h"), ("authorization", "a"), ("x-user", "spoof")];
    let mut case = asked("/old", &headers).checking(&ok);
    let mut config = grpc();
    config.clear_route_cache = true;
    let flow = case.flow(&config).await;
    assert!(matches!(flow, Flow::Reroute), "{flow:?}");
    assert_eq!(case.parts.uri, "/new?b=2&c=x%20y");
    assert_eq!(case.parts.headers["x-user"], "u1");
    assert_eq!(case.parts.headers["host"], "h");
    assert!(!case.parts.headers.contains_key("authorization"));

    let (head, body) = case.service.asked.borrow_mut().pop().unwrap();
    assert_eq!(head.uri, CHECK);
    // HTTP/2 has no request without an authority.
    assert_eq!(head.headers["host"], "authz");
    let message = CheckRequest::decode(&body[5..]).unwrap();
    let attributes = message.attributes.unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!((http.path.as_str(), http.host.as_str()), ("/old", "h"));
    assert_eq!(http.headers["x-user"], "spoof");
    assert_eq!(http.headers[":method"], "GET");
}

#[tokio::test]
async fn a_grpc_service_may_refuse_in_its_own_words() {
    let status = |code| {
        Some(pb::google::rpc::Status {
            code,
            ..Default::default()
        })
    };
    let denied = CheckResponse {
        status: status(7),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(pb::envoy::r#type::v3::HttpStatus { code: 429 }),
            headers: vec![option("x-why", "no"), option("bad name", "x")],
            body: "slow down".into(),
        })),
        ..Default::default()
    };
    let (status_code, body, headers) = reply(asked("/", &[]).checking(&denied).flow(&grpc()).await);
    assert_eq!((status_code, body.as_str()), (429, "slow down"));
    assert_eq!(headers["x-why"], "no");
    let mut strict = grpc();
    strict.validate_mutations = true;
    let refused = reply(asked("/", &[]).checking(&denied).flow(&strict).await);
    assert_eq!(refused.0, 500);
    // A refusal passes nobody, whatever comes with it.
    let odd = CheckResponse {
        status: status(7),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        ..Default::default()
    };
    assert_eq!(
        reply(asked("/", &[]).checking(&odd).flow(&grpc()).await).0,
        403
    );
}

#[tokio::test]
async fn the_body_is_shown_up_to_its_bound_and_goes_on_whole() {
    let with = |max, partial| proto::ExtAuthz {
        with_request_body: Some(proto::BufferSettings {
            max_request_bytes: max,
            allow_partial_message: partial,
            pack_as_bytes: false,
        }),
        ..http()
    };
    let case = |body: &'static str| {
        let mut case = asked("/", &[("host", "h")]).answering(Response::builder(), "");
        case.body.put(Whole::new(body).boxed());
        case
    };
    let shown = |case: &Asked| {
        let (head, body) = case.service.asked.borrow_mut().pop().unwrap();
        let partial = head.headers["x-envoy-auth-partial-body"].clone();
        (body, partial.to_str().unwrap().to_owned())
    };
    let mut whole = case("abcdef");
    let flow = whole.flow(&with(6, false)).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert_eq!(shown(&whole), (Bytes::from("abcdef"), "false".into()));
    let rest = whole.body.take().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "abcdef");

    let mut part = case("abcdef");
    let flow = part.flow(&with(3, true)).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert_eq!(shown(&part), (Bytes::from("abc"), "true".into()));
    let rest = part.body.take().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "abcdef");

    let Flow::Reply(large) = case("abcdef").flow(&with(5, false)).await else {
        panic!("it is too large")
    };
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_route_adds_to_the_context_or_asks_nobody() {
    let message = FACTORY.per_route[0].0;
    let said = |r#override| {
        let config = proto::ExtAuthzPerRoute {
            r#override: Some(r#override),
        };
        per_route(NAME, message, &config)
    };
    let off = said(Override::Disabled(true)).unwrap();
    let mut case = asked("/", &[]);
    let flow = case.through(&made(&grpc()), &off).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    assert!(case.service.asked.borrow().is_empty());
    assert!(said(Override::Disabled(false)).is_err());

    let settings = said(Override::CheckSettings(proto::CheckSettings {
        context_extensions: [("a".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    }))
    .unwrap();
    let mut case = asked("/", &[]).checking(&CheckResponse::default());
    let flow = case.through(&made(&grpc()), &settings).await;
    assert!(matches!(flow, Flow::Continue), "{flow:?}");
    let (_, body) = case.service.asked.borrow_mut().pop().unwrap();
    let attributes = CheckRequest::decode(&body[5..]).unwrap().attributes;
    assert_eq!(attributes.unwrap().context_extensions["a"], "1");
}

#[test]
fn what_is_wrong_is_refused_by_its_path() {
    assert_eq!(
        refused(&proto::ExtAuthz::default()),
        "services: must be given"
    );
    let mut old = grpc();
    // V2
    old.transport_api_version = 1;
    assert_eq!(refused(&old), "transport_api_version: must be V3");
    let mut empty = http();
    empty.with_request_body = Some(proto::BufferSettings::default());
    let error = "with_request_body.max_request_bytes: must be more than 0";
    assert_eq!(refused(&empty), error);
    let mut shadow = http();
    shadow.shadow_mode = true;
    assert_eq!(refused(&shadow), "shadow_mode: not supported yet");
    let mut relative = http();
    if let Some(Services::HttpService(service)) = &mut relative.services {
        service.path_prefix = "chk".into();
    }
    let error = "http_service.path_prefix: must begin with a slash";
    assert_eq!(refused(&relative), error);
}
