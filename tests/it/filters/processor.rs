//! The filter that shows requests and responses to a processor, with one over gRPC.

use std::net::SocketAddr;
use std::pin::Pin;

use causeway_xds::proto::core::{HeaderValue, HeaderValueOption};
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use causeway_xds::proto::envoy::r#type::v3::HttpStatus;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use service::body_mutation::Mutation;
use service::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use service::processing_request::Request as Part;
use service::processing_response::Response as Said;
use service::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, http2_cluster, listener, to};
use crate::support::client::{Http1, Reply, full, get, request};
use crate::support::origin::{Conn, Origin};
use crate::support::refusing;

/// Answers each message by itself.
struct Processor(fn(ProcessingRequest) -> Vec<ProcessingResponse>);

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answer = self.0;
        let answers = request.into_inner().flat_map(move |message| {
            let answers = message.map_or_else(|_| Vec::new(), answer);
            stream::iter(answers.into_iter().map(Ok))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Ends when dropped.
struct Serving {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

async fn processor(answer: fn(ProcessingRequest) -> Vec<ProcessingResponse>) -> Serving {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = Server::builder()
        .add_service(ExternalProcessorServer::new(Processor(answer)))
        .serve_with_incoming(TcpIncoming::from(socket));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.await.unwrap() });
    Serving {
        address,
        _tasks: tasks,
    }
}

fn config(processor: SocketAddr, origin: SocketAddr, more: &Value) -> String {
    let message = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
    // A loaded machine takes its time.
    let mut filter = json!({"@type": message, "message_timeout": "60s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "proc"}}});
    for (key, value) in more.as_object().unwrap() {
        filter[key] = value.clone();
    }
    let mut manager = http(&json!({"route_config": to("a")}));
    let chain = manager["typed_config"]["http_filters"].as_array_mut();
    let filter = json!({"name": "envoy.filters.http.ext_proc", "typed_config": filter});
    chain.unwrap().insert(0, filter);
    let clusters = [cluster("a", origin), http2_cluster("proc", processor)];
    bootstrap(&[listener("web", &manager)], &clusters).to_string()
}

async fn post(at: SocketAddr, body: &'static str) -> Reply {
    let request = request("POST", "app.test", "/").body(full(body)).unwrap();
    Http1::connect(at).await.send_body(request).await
}

fn saying(response: Said) -> Vec<ProcessingResponse> {
    vec![ProcessingResponse {
        response: Some(response),
        ..Default::default()
    }]
}

fn common(name: &str, body: Option<Mutation>) -> Option<CommonResponse> {
    let header = Some(HeaderValue {
        key: name.into(),
        raw_value: b"processed".to_vec(),
        ..Default::default()
    });
    Some(CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header,
                ..Default::default()
            }],
            ..Default::default()
        }),
        body_mutation: body.map(|mutation| BodyMutation {
            mutation: Some(mutation),
        }),
        ..Default::default()
    })
}

/// Marks heads, and writes bodies in capitals.
fn shouting(message: ProcessingRequest) -> Vec<ProcessingResponse> {
    let upper = |body: Vec<u8>| Some(Mutation::Body(body.to_ascii_uppercase()));
    match message.request.unwrap() {
        Part::RequestHeaders(_) => saying(Said::RequestHeaders(HeadersResponse {
            response: common("x-up", None),
        })),
        Part::ResponseHeaders(_) => saying(Said::ResponseHeaders(HeadersResponse {
            response: common("x-down", None),
        })),
        Part::RequestBody(body) => saying(Said::RequestBody(BodyResponse {
            response: common("x-body", upper(body.body)),
        })),
        Part::ResponseBody(body) => saying(Said::ResponseBody(BodyResponse {
            response: common("x-body", upper(body.body)),
        })),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn bodies_are_changed_whole_or_piece_by_piece() {
    let processor = processor(shouting).await;
    for mode in ["BUFFERED", "STREAMED", "BUFFERED_PARTIAL"] {
        let origin = Origin::echo().await;
        let modes = json!({"processing_mode":
            {"request_body_mode": mode, "response_body_mode": mode}});
        let text = config(processor.address, origin.address, &modes);
        let app = TestApp::bootstrap(&text).await;
        for _ in 0..2 {
            let reply = post(app.listener("web"), "quiet").await;
            assert_eq!(reply.status, 200, "{mode}");
            assert_eq!(reply.header("x-down"), "processed", "{mode}");
            assert!(reply.text().contains("QUIET"), "{mode}: {}", reply.text());
            assert_eq!(reply.text(), reply.text().to_ascii_uppercase(), "{mode}");
        }
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.header("x-up"), "processed", "{mode}");
        let length = if mode == "STREAMED" { "" } else { "5" };
        assert_eq!(seen.header("content-length"), length, "{mode}");
    }
}

/// The messages as requests of their own, with JSON in them.
#[tokio::test]
async fn a_processor_is_asked_over_http() {
    let processor = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            let Some(content) = conn.content(&head).await else {
                return;
            };
            let message: Value = serde_json::from_slice(&content.data).unwrap();
            let (part, name) = match message.get("request_headers").is_some() {
                true => ("requestHeaders", "x-up"),
                false => ("responseHeaders", "x-down"),
            };
            // "processed"
            let header = json!({"key": name, "rawValue": "cHJvY2Vzc2Vk"});
            let mutation = json!({"setHeaders": [{"header": header}]});
            let answer = json!({part: {"response": {"headerMutation": mutation}}});
            conn.reply(200, &[], &answer.to_string()).await;
        }
    })
    .await;
    let origin = Origin::fixed("in").await;
    let uri = json!({"uri": "http://proc.test/look", "cluster": "http_proc", "timeout": "60s"});
    let service =
        json!({"grpc_service": null, "http_service": {"http_service": {"http_uri": uri}}});
    let text = config(processor.address, origin.address, &service);
    let mut text: Value = serde_json::from_str(&text).unwrap();
    let clusters = text["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters.push(cluster("http_proc", processor.address));
    let app = TestApp::bootstrap(&text.to_string()).await;
    let reply = post(app.listener("web"), "body").await;
    assert_eq!(
        (reply.status.as_u16(), reply.text()),
        (200, "in".to_owned())
    );
    assert_eq!(reply.header("x-down"), "processed");
    assert_eq!(origin.requests()[0].header("x-up"), "processed");
    let asked = processor.requests();
    assert_eq!(asked.len(), 2);
    for head in asked {
        assert_eq!((&*head.method, &*head.target), ("POST", "/look"));
        assert_eq!(head.header("host"), "proc.test");
    }
}

/// Says nothing before it has seen all, and then something else.
fn replacing(message: ProcessingRequest) -> Vec<ProcessingResponse> {
    let streamed = |text: &str, end| BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(StreamedBodyResponse {
                    body: text.into(),
                    end_of_stream: end,
                    ..Default::default()
                })),
            }),
            ..Default::default()
        }),
    };
    match message.request.unwrap() {
        Part::RequestBody(body) if body.end_of_stream => [
            saying(Said::RequestHeaders(HeadersResponse {
                response: common("x-up", None),
            })),
            saying(Said::RequestBody(streamed("something ", false))),
            saying(Said::RequestBody(streamed("else", true))),
        ]
        .concat(),
        Part::ResponseBody(body) if body.end_of_stream => [
            saying(Said::ResponseHeaders(HeadersResponse {
                response: common("x-down", None),
            })),
            saying(Said::ResponseBody(streamed("other", true))),
        ]
        .concat(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn another_body_comes_back_both_ways() {
    let processor = processor(replacing).await;
    let origin = Origin::echo().await;
    let mode = "FULL_DUPLEX_STREAMED";
    let modes = json!({"processing_mode": {
        "request_body_mode": mode, "request_trailer_mode": "SEND",
        "response_body_mode": mode, "response_trailer_mode": "SEND"}});
    let app = TestApp::bootstrap(&config(processor.address, origin.address, &modes)).await;
    let reply = post(app.listener("web"), "this").await;
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (200, "other")
    );
    assert_eq!(reply.header("x-down"), "processed");
    assert_eq!(origin.requests()[0].header("x-up"), "processed");
}

/// Turns bodies away, and answers whose app does not please it.
fn refusing_bodies(message: ProcessingRequest) -> Vec<ProcessingResponse> {
    let no = |code, text: &str| {
        saying(Said::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code }),
            body: text.into(),
            ..Default::default()
        }))
    };
    match message.request.unwrap() {
        Part::RequestHeaders(_) => saying(Said::RequestHeaders(HeadersResponse::default())),
        Part::RequestBody(_) => no(451, "not this"),
        Part::ResponseHeaders(_) => no(502, "nor that"),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn what_the_processor_refuses_the_client_is_told() {
    let processor = processor(refusing_bodies).await;
    for mode in ["BUFFERED", "STREAMED"] {
        let origin = Origin::echo().await;
        let modes = json!({"processing_mode": {"request_body_mode": mode}});
        let text = config(processor.address, origin.address, &modes);
        let app = TestApp::bootstrap(&text).await;
        let web = app.listener("web");
        let reply = post(web, "body").await;
        let told = (reply.status.as_u16(), reply.text());
        assert_eq!(told, (451, "not this".to_owned()), "{mode}");
        let reply = get(web, "app.test", "/").await;
        let told = (reply.status.as_u16(), reply.text());
        assert_eq!(told, (502, "nor that".to_owned()), "{mode}");
        assert_eq!(origin.requests().last().unwrap().method, "GET");
    }
}

#[tokio::test]
async fn nothing_passes_while_the_processor_is_away_unless_that_is_wanted() {
    let (_held, nobody) = refusing();
    let origin = Origin::fixed("in").await;
    let app = TestApp::bootstrap(&config(nobody, origin.address, &json!({}))).await;
    assert_eq!(get(app.listener("web"), "app.test", "/").await.status, 500);
    assert!(origin.requests().is_empty());
    let open = json!({"failure_mode_allow": true});
    let app = TestApp::bootstrap(&config(nobody, origin.address, &open)).await;
    assert_eq!(get(app.listener("web"), "app.test", "/").await.text(), "in");
}
