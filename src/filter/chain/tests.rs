use std::net::Ipv4Addr;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;

use super::*;
use crate::filter::body::{BodyError, BodySlot as _, Frames, Read, Transform, Whole};
use crate::filter::testing::{Nowhere, TestBody, answer, pass, request};
use crate::route::RouteConfig;

/// Appends its name to a field, both ways, and remembers the path.
#[derive(Debug)]
struct Note(&'static str);

impl HttpFilter for Note {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let said = stream.route_config::<&str>().unwrap_or(&self.0);
        let headers = &mut stream.request.headers;
        headers.append("x-note", said.parse().unwrap());
        stream.keep(stream.request.uri.path().to_owned());
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let path = answer.kept::<String>();
        let text = format!("{} {}", self.0, path.as_deref().map_or("-", |p| p));
        answer.headers.append("x-note", text.parse().unwrap());
    }
}

/// Refuses what has more than four bytes, and lets nothing larger pass.
#[derive(Debug)]
struct Four;

impl HttpFilter for Four {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        stream.read_body(4, |stream, read| match read {
            Read::Whole(whole) => {
                stream.put_body(whole.boxed());
                stream.transform_body(Box::new(Upper));
                Flow::Continue
            }
            _ => Flow::reply(LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "four")),
        })
    }
}

struct Upper;
impl Transform for Upper {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        out.push_back(http_body::Frame::data(data.to_ascii_uppercase().into()));
        Ok(())
    }
}

fn chain(filters: impl IntoIterator<Item = (&'static str, bool, Arc<dyn HttpFilter>)>) -> Chain {
    let mut chain = Chain::default();
    for (name, disabled, filter) in filters {
        chain.push(name, disabled, filter);
    }
    chain
}

fn notes(headers: &HeaderMap) -> Vec<&str> {
    let all = headers.get_all("x-note").iter();
    all.map(|value| value.to_str().unwrap()).collect()
}

async fn through(
    chain: &Chain,
    parts: &mut Parts,
    body: &'static str,
    route: &PerRoute,
    around: &Nowhere,
) -> (Flow, String) {
    let mut slot = TestBody(Some(Whole::new(body).boxed()));
    let client = Ipv4Addr::LOCALHOST.into();
    let flow = pass(chain, parts, &mut slot, route, client, around).await;
    let left = slot.take().collect().await.unwrap().to_bytes();
    (flow, String::from_utf8(left.to_vec()).unwrap())
}

#[tokio::test]
async fn a_chain_goes_on_behind_a_filter_that_waited() {
    let chain = chain([
        ("first", false, Arc::new(Note("a")) as Arc<dyn HttpFilter>),
        ("four", false, Arc::new(Four)),
        ("last", false, Arc::new(Note("b"))),
    ]);
    let around = Nowhere::default();
    let mut parts = request("/p", &[]);
    let (flow, body) = through(&chain, &mut parts, "abcd", PerRoute::NONE, &around).await;
    assert!(matches!(flow, Flow::Continue));
    assert_eq!(notes(&parts.headers), ["a", "b"]);
    assert_eq!(body, "ABCD");

    let mut headers = HeaderMap::new();
    let status = answer(
        &chain,
        StatusCode::OK,
        &mut headers,
        PerRoute::NONE,
        &around,
    );
    assert_eq!(status, StatusCode::OK);
    assert_eq!(notes(&headers), ["b /p", "a /p"]);

    let mut parts = request("/p", &[]);
    let around = Nowhere::default();
    let (flow, _) = through(&chain, &mut parts, "abcde", PerRoute::NONE, &around).await;
    assert!(matches!(flow, Flow::Reply(reply) if reply.details == "four"));
    assert_eq!(notes(&parts.headers), ["a"]);
}

#[tokio::test]
async fn a_route_switches_filters_on_and_off_by_their_names() {
    let chain = chain([
        ("on", false, Arc::new(Note("a")) as Arc<dyn HttpFilter>),
        ("off", true, Arc::new(Note("b"))),
        ("idle", true, Arc::new(Note("c"))),
    ]);
    let mut route = PerRoute::default();
    route.say("on", true, None);
    route.say("off", false, Some(RouteConfig::new("said")));
    let around = Nowhere::default();
    let mut parts = request("/", &[]);
    let (flow, body) = through(&chain, &mut parts, "", &route, &around).await;
    assert!(matches!(flow, Flow::Continue) && body.is_empty());
    assert_eq!(notes(&parts.headers), ["said"]);
    let mut headers = HeaderMap::new();
    answer(&chain, StatusCode::OK, &mut headers, &route, &around);
    assert_eq!(notes(&headers), ["b /"]);
}

#[tokio::test]
async fn nothing_passes_a_route_that_went_bad() {
    let chain = chain([]);
    let mut parts = request("/", &[]);
    let around = Nowhere::default();
    let (flow, _) = through(&chain, &mut parts, "", &PerRoute::broken(), &around).await;
    assert!(matches!(flow, Flow::Fail(failure) if failure.details == "route_misconfigured"));
}
