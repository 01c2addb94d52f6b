//! What the tests of filters share: a chain of one filter, and requests for it.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::Message;
use causeway_xds::proto::core::RuntimeFractionalPercent;
use causeway_xds::proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use causeway_xds::proto::envoy::r#type::v3::FractionalPercent;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::format::{Fact, Point};
use causeway_xds::resource::metadata::MetadataValue;
use futures_util::future::LocalBoxFuture;
use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::body::{BodySlot, BoxBody, Transformed, Whole, rejoined};
use super::call::{CallError, Calls, Members, framed};
use super::registry::{FACTORIES, Link, LinkConfig};
use super::{
    Answer, Around, Chain, Downstream, Flow, Held, LocalReply, Messages, Outcome, Registry, Stream,
    StreamState,
};
use crate::error::{Failure, ResponseFlag};
use crate::formatter::{Facts, Key, Value};
use crate::route::{Filters as _, PerRoute};

pub fn extension(message: &str, config: &impl Message) -> TypedExtension {
    TypedExtension {
        name: "x".into(),
        type_url: format!("type.googleapis.com/{message}"),
        value: config.encode_to_vec().into(),
    }
}

/// A chain of one filter, under the name that Envoy gives it.
pub fn chain(message: &str, config: &impl Message) -> Result<Chain, Invalid> {
    let mut known = FACTORIES.iter();
    let factory = known.find(|factory| factory.message == message);
    named_chain(factory.map_or("", |factory| factory.name), message, config)
}

/// A chain of one filter, under the name that routes speak to it by.
pub fn named_chain(name: &str, message: &str, config: &impl Message) -> Result<Chain, Invalid> {
    let filter = extension(message, config);
    let link = Link {
        name,
        disabled: false,
        config: LinkConfig::Configured(&filter),
    };
    Registry::default().chain("test", [link].into_iter())
}

/// What a route says to the filter of this name; checked, as it is when it is decoded.
pub fn per_route(filter: &str, message: &str, config: &impl Message) -> Result<PerRoute, Invalid> {
    use causeway_xds::extension::Extensions as _;
    let config = extension(message, config);
    Registry::default().check_per_route(filter, &config)?;
    Ok(Registry::default().per_route(
        &mut [(filter.to_owned(), config)]
            .iter()
            .map(crate::route::Word::from),
    ))
}

pub fn request(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("well formed").into_parts().0
}

/// Surroundings without anything in them, unless a test puts it there.
pub struct Nowhere {
    pub state: StreamState,
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub flag: Cell<Option<ResponseFlag>>,
    pub endpoint: Option<SocketAddr>,
    pub calls: Rc<dyn Calls>,
}

impl Default for Nowhere {
    fn default() -> Self {
        Self {
            state: StreamState::default(),
            peer: Some(([192, 0, 2, 1], 40_000).into()),
            local: Some(([192, 0, 2, 2], 80).into()),
            flag: Cell::default(),
            endpoint: None,
            calls: Rc::new(NoCalls),
        }
    }
}

pub struct NoCalls;

impl Calls for NoCalls {
    fn call(
        &self,
        cluster: &str,
        _: Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        let error = CallError::NoCluster(cluster.to_owned());
        Box::pin(async { Err(error) })
    }

    fn members(&self, _: &str) -> Option<Members> {
        None
    }
}

/// A service, by the name of its cluster: what it makes of a request and its whole body.
pub fn one_service<F>(cluster: &'static str, answer: F) -> Rc<dyn Calls>
where
    F: Fn(Parts, Bytes) -> Result<Response<BoxBody>, CallError> + Clone + 'static,
{
    Rc::new(OneService(cluster, answer))
}

struct OneService<F>(&'static str, F);

impl<F> Calls for OneService<F>
where
    F: Fn(Parts, Bytes) -> Result<Response<BoxBody>, CallError> + Clone + 'static,
{
    fn call(
        &self,
        cluster: &str,
        request: Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        assert_eq!(cluster, self.0);
        let answer = self.1.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("whole").to_bytes();
            answer(head, body)
        })
    }

    fn members(&self, _: &str) -> Option<Members> {
        None
    }
}

/// What a service over gRPC answers.
pub fn over_grpc(message: &[u8]) -> Response<BoxBody> {
    let mut response = Response::new(Whole::new(framed(message)).boxed());
    let ok = http::HeaderValue::from_static("0");
    response.headers_mut().insert("grpc-status", ok);
    response
}

impl Around for Nowhere {
    fn downstream(&self) -> Downstream<'_> {
        Downstream {
            peer: self.peer,
            local: self.local,
            ..Downstream::default()
        }
    }
    fn state(&self) -> &StreamState {
        &self.state
    }
    fn calls(&self) -> Rc<dyn Calls> {
        Rc::clone(&self.calls)
    }
    fn with_facts(&self, messages: Messages<'_>, f: &mut dyn FnMut(&dyn Facts)) {
        f(&Plain(messages, &self.state));
    }
    fn flag(&self, flag: ResponseFlag) {
        self.flag.set(Some(flag));
    }
    fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }
    fn cluster(&self) -> &str {
        "cluster"
    }
}

/// Knows the fields of messages, and nothing else.
struct Plain<'m>(Messages<'m>, &'m StreamState);

fn field<'h>(headers: &'h HeaderMap, key: &Key) -> Value<'h> {
    match key {
        Key::Field(name) => Value::header(headers.get(name)),
        Key::Authority => Value::header(headers.get(HOST)),
        _ => Value::Missing,
    }
}

impl Facts for Plain<'_> {
    fn request(&self, key: &Key) -> Value<'_> {
        self.0.request.map_or(Value::Missing, |parts| match key {
            Key::Method => Value::text(Some(parts.method.as_str())),
            Key::Path => Value::text(parts.uri.path_and_query().map(|p| p.as_str())),
            key => field(&parts.headers, key),
        })
    }
    fn response(&self, key: &Key) -> Value<'_> {
        self.0.response.map_or(Value::Missing, |h| field(h, key))
    }
    fn fact(&self, _: Fact) -> Value<'_> {
        Value::Missing
    }
    fn start(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
    fn point(&self, _: Point) -> Option<Duration> {
        None
    }
    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.1.metadata(namespace)
    }
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.1.value(key)
    }
}

/// The body of a request in a test.
#[derive(Default)]
pub struct TestBody(pub Option<BoxBody>);

impl BodySlot for TestBody {
    fn is_end(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }
    fn take(&mut self) -> BoxBody {
        self.0.take().unwrap_or_else(|| Whole::default().boxed())
    }
    fn put(&mut self, body: BoxBody) {
        self.0 = Some(body);
    }
}

/// What a chain makes of a request, waits included.
pub async fn pass(
    chain: &Chain,
    parts: &mut Parts,
    body: &mut TestBody,
    route: &PerRoute,
    client: IpAddr,
    around: &Nowhere,
) -> Flow {
    let mut next = 0;
    let mut flow = {
        let mut stream = Stream::new(parts, body, client, around);
        chain.request(&mut stream, route, &mut next)
    };
    loop {
        let then = match flow {
            Flow::Wait(wait) => wait.await,
            flow => return flow,
        };
        let mut stream = Stream::new(parts, body, client, around);
        flow = match chain.resume(&mut stream, route, next, then) {
            Flow::Continue => chain.request(&mut stream, route, &mut next),
            flow => flow,
        };
    }
}

/// Runs the chain for a client of a connection in clear text.
pub fn run(chain: &Chain, parts: &mut Parts, route: &PerRoute) -> Result<(), Box<Failure>> {
    let around = Nowhere::default();
    let mut body = TestBody::default();
    let client = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
    let mut stream = Stream::new(parts, &mut body, client, &around);
    match chain.request(&mut stream, route, &mut 0) {
        Flow::Continue => Ok(()),
        Flow::Fail(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

/// Leads an answer of the upstream through the chain.
pub fn answer(
    chain: &Chain,
    status: StatusCode,
    headers: &mut HeaderMap,
    route: &PerRoute,
    around: &Nowhere,
) -> StatusCode {
    let mut answer = Answer::new(status, headers, Some(around));
    chain.response(&mut answer, route, &mut chain.len(), None);
    answer.status
}

/// What became of an answer.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BoxBody,
    /// In its place.
    pub reply: Option<LocalReply>,
}

/// Leads an answer and its body through the chain, waits included.
pub async fn descend(
    chain: &Chain,
    answer: (StatusCode, HeaderMap, BoxBody),
    route: &PerRoute,
    around: &Nowhere,
) -> Answered {
    let (mut status, mut headers, mut body) = answer;
    let (mut place, mut resume) = (chain.len(), None);
    loop {
        let mut answer = Answer::new(status, &mut headers, Some(around));
        answer.bodyless = body.is_end_stream();
        chain.response(&mut answer, route, &mut place, resume.take());
        status = answer.status;
        let Outcome {
            body: new,
            transforms,
            held,
        } = answer.into_outcome();
        body = match new {
            None => body,
            Some(new) if new.cut => new.body.boxed(),
            Some(new) => rejoined(new.body.data, body),
        };
        for transform in transforms {
            body = Box::pin(Transformed::new(body, transform));
        }
        let mut pause = match held {
            Some(Held::Paused(pause)) => pause,
            held => {
                let reply = held.map(|held| match held {
                    Held::Replied(reply) => *reply,
                    Held::Paused(_) => unreachable!("seen to before"),
                    Held::Detour(_) => unreachable!("a chain alone has no routes"),
                });
                return Answered {
                    status,
                    headers,
                    body,
                    reply,
                };
            }
        };
        resume = Some(std::future::poll_fn(|cx| pause.poll(body.as_mut(), cx)).await);
    }
}

/// All requests.
pub fn always() -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        runtime_key: String::new(),
    }
}

pub fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        ignore_case: false,
        match_pattern: Some(string_matcher::MatchPattern::Exact(text.into())),
    }
}
