//! What scripts can do, and what they cannot.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use causeway_xds::proto::core::{DataSource, data_source::Specifier};
use futures_util::future::LocalBoxFuture;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;
use crate::filter::body::{BodyError, BodySlot as _, BoxBody, Whole};
use crate::filter::call::{CallError, Calls, Members};
use crate::filter::testing::{self, Nowhere, TestBody, chain, descend, pass, request};
use crate::filter::{Chain, LocalReply};
use crate::route::PerRoute as RouteSaid;

mod bodies;
mod calls;
mod limits;

use calls::{CALL, answering};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn source(script: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(script.to_owned())),
        ..DataSource::default()
    }
}

fn scripted(script: &str) -> Chain {
    let config = proto::Lua {
        default_source_code: Some(source(script)),
        ..proto::Lua::default()
    };
    chain(FACTORY.message, &config).unwrap()
}

fn on_request(lines: &str) -> Chain {
    scripted(&format!("function envoy_on_request(handle)\n{lines}\nend"))
}

fn on_response(lines: &str) -> Chain {
    scripted(&format!("function envoy_on_response(handle)\n{lines}\nend"))
}

/// A body in these pieces, whose end shows only behind the last one.
fn pieces(all: &[&'static str], trailers: Option<HeaderMap>) -> BoxBody {
    let data = all
        .iter()
        .map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).collect();
    let frames = frames.into_iter().map(Ok::<_, BodyError>);
    Box::pin(StreamBody::new(futures_util::stream::iter(frames)))
}

struct Passed {
    flow: Flow,
    parts: Parts,
    body: TestBody,
    around: Nowhere,
}

impl Passed {
    fn header(&self, name: &str) -> &str {
        let value = self.parts.headers.get(name);
        value.map_or("-", |value| value.to_str().unwrap())
    }

    fn reply(&self) -> &LocalReply {
        match &self.flow {
            Flow::Reply(reply) => reply,
            flow => panic!("{flow:?}"),
        }
    }

    async fn body(mut self) -> (Bytes, Option<HeaderMap>) {
        let all = self.body.take().collect().await.unwrap();
        let trailers = all.trailers().cloned();
        (all.to_bytes(), trailers)
    }
}

async fn passed_with(chain: &Chain, body: Option<BoxBody>, around: Nowhere) -> Passed {
    let fields = [
        ("host", "app.test"),
        ("x-one", "1"),
        ("x-many", "a"),
        ("x-many", "b"),
    ];
    let mut parts = request("/path?q=1", &fields);
    let mut body = TestBody(body);
    let route = RouteSaid::default();
    let flow = pass(chain, &mut parts, &mut body, &route, CLIENT, &around).await;
    Passed {
        flow,
        parts,
        body,
        around,
    }
}

async fn passed(lines: &str) -> Passed {
    passed_with(&on_request(lines), None, Nowhere::default()).await
}

#[tokio::test]
async fn the_head_of_a_request_is_read_and_changed() {
    let it = passed(
        r#"
        local h = handle:headers()
        assert(h:get(":path") == "/path?q=1" and h:get(":method") == "GET")
        assert(h:get(":authority") == "app.test" and h:get("Host") == "app.test")
        assert(h:get("X-Many") == "a,b" and h:get("none") == nil)
        assert(h:getNumValues("x-many") == 2 and h:getNumValues("none") == 0)
        assert(h:getAtIndex("x-many", 1) == "b" and h:getAtIndex("x-many", 2) == nil)
        local names = {}
        for name, value in pairs(h) do
          names[#names + 1] = name .. "=" .. value
          h:remove("x-one")
        end
        h:add("names", table.concat(names, " "))
        h:add("x-many", 10 / 2)
        h:replace("x-new", "n")
        h:replace(":path", "/other")
        h:replace("content-length", "77")
        "#,
    )
    .await;
    assert!(matches!(it.flow, Flow::Reroute), "{:?}", it.flow);
    let names = ":method=GET :path=/path?q=1 :authority=app.test x-one=1 x-many=a x-many=b";
    assert_eq!(it.header("names"), names);
    assert_eq!((it.header("x-one"), it.header("x-new")), ("-", "n"));
    let many: Vec<_> = it.parts.headers.get_all("x-many").iter().collect();
    assert_eq!(many, ["a", "b", "5"]);
    assert_eq!(it.parts.uri, "/other");
    assert_eq!(it.header("content-length"), "-");
}

#[tokio::test]
async fn the_route_is_only_chosen_anew_where_something_has_changed() {
    let it = passed("handle:headers():get('x-one')").await;
    assert!(matches!(it.flow, Flow::Continue), "{:?}", it.flow);
    let it = passed("handle:clearRouteCache()").await;
    assert!(matches!(it.flow, Flow::Reroute), "{:?}", it.flow);
    let config = proto::Lua {
        default_source_code: Some(source(
            "function envoy_on_request(h) h:headers():add('a', 'b') end",
        )),
        clear_route_cache: Some(causeway_xds::proto::BoolValue { value: false }),
        ..proto::Lua::default()
    };
    let chain = chain(FACTORY.message, &config).unwrap();
    let it = passed_with(&chain, None, Nowhere::default()).await;
    assert!(matches!(it.flow, Flow::Continue), "{:?}", it.flow);
    assert_eq!(it.header("a"), "b");
}

#[tokio::test]
async fn a_request_is_answered() {
    let it = passed(
        r#"
        handle:respond({[":status"] = 403, ["set-cookie"] = {"a=1", "b=2"}, ["X-Why"] = "no"}, "nope")
        handle:headers():add("x-after", "1")
        "#,
    )
    .await;
    assert_eq!(it.header("x-after"), "-");
    let reply = it.reply();
    assert_eq!((reply.status.as_u16(), reply.text()), (403, "nope"));
    assert_eq!(reply.details, "lua_response");
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(reply.headers["x-why"], "no");
}

async fn answered(chain: &Chain, body: BoxBody, around: &Nowhere) -> testing::Answered {
    let mut headers = HeaderMap::new();
    headers.insert("x-one", HeaderValue::from_static("1"));
    headers.insert("content-length", HeaderValue::from_static("5"));
    let answer = (StatusCode::OK, headers, body);
    descend(chain, answer, &RouteSaid::default(), around).await
}

#[tokio::test]
async fn answers_are_changed() {
    let chain = on_response(
        r#"
        local h = handle:headers()
        assert(h:get(":status") == "200")
        h:replace(":status", "404")
        h:add("x-length", handle:body():length())
        handle:body():setBytes("<html>")
        assert(not pcall(handle.respond, handle, {[":status"] = "200"}))
        "#,
    );
    let it = answered(&chain, pieces(&["ab", "cde"], None), &Nowhere::default()).await;
    assert_eq!(it.status, StatusCode::NOT_FOUND);
    assert_eq!(
        (&it.headers["x-length"], &it.headers["content-length"]),
        (
            &HeaderValue::from_static("5"),
            &HeaderValue::from_static("6")
        )
    );
    assert_eq!(it.body.collect().await.unwrap().to_bytes(), "<html>");

    // As Envoy's documentation shows it: the last piece is filled once the others are empty.
    let chain = on_response(
        r#"
        local last
        for chunk in handle:bodyChunks() do
          chunk:setBytes("")
          last = chunk
        end
        last:setBytes("<b>")
        "#,
    );
    let it = answered(&chain, pieces(&["ab", "cde"], None), &Nowhere::default()).await;
    assert!(!it.headers.contains_key("content-length"));
    assert_eq!(it.body.collect().await.unwrap().to_bytes(), "<b>");

    let chain = on_response(&format!(
        "{CALL} handle:headers():add('said', select(2, handle:httpCall('there', head, '', 5)))"
    ));
    let (_, around) = answering();
    let it = answered(&chain, pieces(&["ab", "cde"], None), &around).await;
    assert_eq!(it.headers["said"], "said");
    assert_eq!(it.body.collect().await.unwrap().to_bytes(), "abcde");
}

#[tokio::test]
async fn an_answer_that_is_too_large_to_be_kept_is_refused() {
    let chain = on_response("handle:body()");
    let large = Whole::new(vec![b'x'; (1 << 20) + 1]).boxed();
    let it = answered(&chain, large, &Nowhere::default()).await;
    let reply = it.reply.unwrap();
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.details, "response_payload_too_large");
}

const METADATA: &str = r#"
        local dynamic = handle:streamInfo():dynamicMetadata()
        dynamic:set("n", "k", {list = {1, "two", true}, [7] = "seven"})
        dynamic:set("n", "other", 2)
        assert(dynamic:get("n").k.list[2] == "two" and dynamic:get("none") == nil)
        local names = {}
        for name, all in pairs(dynamic) do names[#names + 1] = name .. all.other end
        assert(#names == 1 and names[1] == "n2")
        assert(not pcall(dynamic.set, dynamic, "n", "f", function() end))
        local round = {}
        round.round = round
        assert(not pcall(dynamic.set, dynamic, "n", "r", round))
        assert(next(handle:filterContext()) == nil and handle:metadata():get("x") == nil)
        assert(handle:streamInfo():filterState():get("key") == "kept")
        assert(handle:streamInfo():routeName() == "" and handle:connection():ssl() == nil)
        assert(handle:streamInfo():downstreamSslConnection() == nil)
        handle:setUpstreamOverrideHost("192.0.2.1:80", true)
        assert(not pcall(handle.setUpstreamOverrideHost, handle, "nobody"))
        handle:headers():add("done", "1")
        "#;

#[tokio::test]
async fn metadata_is_shared_with_other_filters() {
    let around = Nowhere::default();
    around.state.set_value("key", "kept");
    let it = passed_with(&on_request(METADATA), None, around).await;
    assert_eq!(it.header("done"), "1");
    let found = it.around.state.metadata("n").unwrap();
    let path = |names: &[&str]| {
        found
            .get(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
            .cloned()
    };
    assert_eq!(path(&["other"]), Some(MetadataValue::Number(2.0)));
    let list = vec![
        MetadataValue::Number(1.0),
        MetadataValue::Text("two".to_owned()),
        MetadataValue::Bool(true),
    ];
    assert_eq!(path(&["k", "list"]), Some(MetadataValue::List(list)));
    let wanted = it.around.state.wanted_endpoint().unwrap();
    assert!(wanted.strict && wanted.address == ([192, 0, 2, 1], 80).into());
}

/// Scripts whose request goes on as it came.
#[tokio::test]
async fn what_fails_is_counted_and_the_request_goes_on() {
    for lines in [
        "error('no')",
        "local x = nil; x.y = 1",
        "handle:headers():remove(':path')",
        "handle:headers():add('bad name', '1')",
        "handle:headers():add('x', 'a\\nb')",
        "handle:headers():replace('transfer-encoding', 'chunked')",
        "handle:respond({}, 'no status')",
        "handle:respond({[':status'] = '100'}, '')",
        "handle:importPublicKey('', 0)",
        "coroutine.yield()",
        "handle:none()",
        "coroutine.wrap(function() handle:body() end)()",
    ] {
        let config = proto::Lua {
            default_source_code: Some(source(&format!(
                "function envoy_on_request(handle)\n{lines}\nend"
            ))),
            ..proto::Lua::default()
        };
        let config = testing::extension(FACTORY.message, &config);
        let stats = Arc::new(crate::telemetry::stats::Stats::default());
        let context = Context {
            stats: Some(Arc::clone(&stats)),
            stat_scope: "http.t.".to_owned(),
            ..Context::default()
        };
        let filter = build(&config, &context).unwrap();
        let mut chain = Chain::default();
        chain.push("lua", false, filter);
        let it = passed_with(&chain, None, Nowhere::default()).await;
        assert!(
            !matches!(it.flow, Flow::Reply(_) | Flow::Fail(_)),
            "{lines}"
        );
        assert_eq!(context.counter("lua.errors").value(), 1, "{lines}");
        assert_eq!(context.counter("lua.executions").value(), 1, "{lines}");
    }
}

#[tokio::test]
async fn routes_choose_the_script() {
    let marks = |mark: &str| {
        source(&format!(
            "function envoy_on_request(h)
               h:headers():replace('mark', '{mark}' .. (h:filterContext().key or ''))
             end"
        ))
    };
    let config = proto::Lua {
        default_source_code: Some(marks("default")),
        source_codes: [("named".to_owned(), marks("named"))].into(),
        ..proto::Lua::default()
    };
    let chain = chain(FACTORY.message, &config).unwrap();
    let context = Struct {
        fields: [("key".to_owned(), text("!"))].into(),
    };
    let said = |r#override, filter_context: Option<Struct>| proto::LuaPerRoute {
        r#override,
        filter_context,
        ..proto::LuaPerRoute::default()
    };
    for (said, mark) in [
        (said(None, None), "default"),
        (said(None, Some(context.clone())), "default!"),
        (said(Some(Override::Disabled(true)), None), "-"),
        (said(Some(Override::Name("named".into())), None), "named"),
        (said(Some(Override::Name("none".into())), None), "-"),
        (
            said(Some(Override::SourceCode(marks("own"))), Some(context)),
            "own!",
        ),
    ] {
        let route = testing::per_route(FACTORY.name, FACTORY.per_route[0].0, &said).unwrap();
        let mut parts = request("/", &[]);
        let (mut body, around) = (TestBody::default(), Nowhere::default());
        pass(&chain, &mut parts, &mut body, &route, CLIENT, &around).await;
        let name = HeaderName::from_static("mark");
        let found = parts.headers.get(name).map(|v| v.to_str().unwrap());
        assert_eq!(found.unwrap_or("-"), mark);
    }
    let message = FACTORY.per_route[0].0;
    let off = said(Some(Override::Disabled(false)), None);
    let refused = testing::per_route(FACTORY.name, message, &off).map(drop);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "disabled: must be true if it is given"
    );
    let broken = said(Some(Override::SourceCode(source("("))), None);
    let refused = testing::per_route(FACTORY.name, message, &broken).map(drop);
    let told = refused.unwrap_err().to_string();
    assert!(told.starts_with("source_code: script:1: "), "{told}");
}

fn text(text: &str) -> causeway_xds::proto::google::protobuf::Value {
    use causeway_xds::proto::google::protobuf::value::Kind;
    causeway_xds::proto::google::protobuf::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

#[tokio::test]
async fn a_handle_is_of_no_use_after_its_time() {
    let chain = on_request(
        "if kept then kept:headers():add('x', '1') end
         kept = handle
         handle:headers():add('first', '1')",
    );
    let it = passed_with(&chain, None, Nowhere::default()).await;
    assert_eq!(it.header("first"), "1");
    let it = passed_with(&chain, None, Nowhere::default()).await;
    assert_eq!((it.header("x"), it.header("first")), ("-", "-"));
}

#[tokio::test]
async fn small_things_are_told() {
    let it = passed(
        r#"
        assert(handle:base64Escape("input string") == "aW5wdXQgc3RyaW5n")
        assert(handle:timestamp() > 1.6e12 and handle:timestamp() % 1 == 0)
        assert(#handle:timestampString() == 13)
        assert(#handle:timestampString(EnvoyTimestampResolution.MICROSECOND) == 16)
        assert(not pcall(handle.timestamp, handle, 7))
        for _, log in ipairs({"logTrace", "logDebug", "logInfo", "logWarn", "logErr", "logCritical"}) do
          handle[log](handle, "said")
        end
        handle:log(0, 5)
        handle:headers():add("done", "1")
        "#,
    )
    .await;
    assert_eq!(it.header("done"), "1");
}
