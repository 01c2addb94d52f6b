//! Scripts in front of an app.

use std::net::SocketAddr;

use http::header::HeaderValue;
use serde_json::{Value, json};

use super::policies::{counted, filter, front};
use crate::support::app::TestApp;
use crate::support::client::{Http1, Http2, Reply, empty, full, request};
use crate::support::origin::Origin;

const LUA: &str = "envoy.filters.http.lua";

fn script(text: &str) -> Value {
    let source = json!({"default_source_code": {"inline_string": text}});
    filter(LUA, "lua.v3.Lua", &source)
}

fn to_app() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}, "name": "all",
        "metadata": {"filter_metadata": {LUA: {"said": "by the route"}}}})
}

async fn ask(at: SocketAddr, path: &str, body: &'static str) -> Reply {
    let request = request("POST", "app.test", path).body(full(body)).unwrap();
    Http1::connect(at).await.send_body(request).await
}

#[tokio::test]
async fn a_script_sees_a_stream_from_its_request_to_the_end_of_its_answer() {
    let origin = Origin::echo().await;
    let text = r#"
        function envoy_on_request(handle)
          local headers, info = handle:headers(), handle:streamInfo()
          headers:add("x-route", info:routeName())
          headers:add("x-said", handle:metadata():get("said"))
          headers:add("x-protocol", info:protocol())
          headers:add("x-client", info:downstreamRemoteAddress())
          local body = handle:body()
          headers:add("x-length", body:length())
          body:setBytes(body:getBytes(0, body:length()):upper())
          info:dynamicMetadata():set("script", "path", headers:get(":path"))
        end

        function envoy_on_response(handle)
          local headers, info = handle:headers(), handle:streamInfo()
          headers:add("x-path", info:dynamicMetadata():get("script").path)
          headers:add("x-route", info:routeName())
          headers:replace("content-type", "text/plain")
          local body = handle:body()
          body:setBytes("<" .. body:getBytes(0, body:length()) .. ">")
        end"#;
    let app = TestApp::bootstrap(&front(&[script(text)], &[to_app()], &origin)).await;
    let reply = ask(app.listener("web"), "/path", "small").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-path"), "/path");
    assert_eq!(reply.header("x-route"), "all");
    assert_eq!(reply.header("content-type"), "text/plain");
    let text = reply.text();
    assert_eq!(reply.header("content-length"), text.len().to_string());
    let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    let seen: Value = serde_json::from_str(inner.unwrap()).unwrap();
    assert_eq!(seen["body"], "SMALL");
    let field = |name: &str| {
        let all = seen["headers"].as_array().unwrap();
        let found = all.iter().find(|field| field[0] == name);
        found
            .map_or("-", |field| field[1].as_str().unwrap())
            .to_owned()
    };
    assert_eq!(
        (field("x-route"), field("x-said")),
        ("all".into(), "by the route".into())
    );
    assert_eq!(
        (field("x-protocol"), field("x-length")),
        ("HTTP/1.1".into(), "5".into())
    );
    assert!(field("x-client").starts_with("127.0.0.1:"));
    assert_eq!(counted(&app, "lua.executions"), 2);
    assert_eq!(counted(&app, "lua.errors"), 0);
}

#[tokio::test]
async fn bodies_pass_through_a_script_in_pieces() {
    let origin = Origin::echo().await;
    let text = r#"
        local function dotted(handle)
          for chunk in handle:bodyChunks() do
            if chunk:length() > 0 then
              chunk:setBytes(chunk:getBytes(0, chunk:length()) .. ".")
            end
          end
        end
        envoy_on_request, envoy_on_response = dotted, dotted"#;
    let app = TestApp::bootstrap(&front(&[script(text)], &[to_app()], &origin)).await;
    for http2 in [false, true] {
        let request = request("POST", "app.test", "/").body(full("ab")).unwrap();
        let web = app.listener("web");
        let reply = match http2 {
            true => Http2::connect(web).await.send(request).await,
            false => Http1::connect(web).await.send_body(request).await,
        };
        assert_eq!(reply.status, 200);
        let text = reply.text();
        assert!(
            text.ends_with('.') && text.contains(r#""body":"ab.""#),
            "{text}"
        );
    }
    assert_eq!(counted(&app, "lua.errors"), 0);
}

/// Requests of one thread share an interpreter, and none gets what another one has waited for.
#[tokio::test]
async fn scripts_wait_for_services_beside_each_other() {
    let origin = Origin::echo().await;
    let text = r#"
        function envoy_on_request(handle)
          local path = handle:headers():get(":path")
          local headers, body = handle:httpCall("a",
            {[":method"] = "GET", [":path"] = "/asked" .. path, [":authority"] = "service"}, nil, 60000)
          local target = string.match(body, '"target":"([^"]*)"')
          handle:respond({[":status"] = headers[":status"], ["x-for"] = path}, target)
        end"#;
    let app = TestApp::bootstrap(&front(&[script(text)], &[to_app()], &origin)).await;
    let web = app.listener("web");
    let asking = (0..32).map(|i| async move {
        let path = format!("/{i}");
        let reply = ask(web, &path, "").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-for"), path);
        assert_eq!(reply.text(), format!("/asked{path}"));
    });
    futures_util::future::join_all(asking).await;
    assert_eq!(counted(&app, "lua.errors"), 0);
}

#[tokio::test]
async fn a_script_that_fails_or_does_not_end_lets_the_request_pass() {
    let origin = Origin::fixed("in").await;
    let text = r#"
        function envoy_on_request(handle)
          local path = handle:headers():get(":path")
          if path == "/fails" then error("no") end
          if path == "/loops" then while true do pcall(error) end end
          handle:headers():replace(":path", "/other")
        end"#;
    let other = json!({"match": {"path": "/other"}, "direct_response": {"status": 418}});
    let all = [other, to_app()];
    let app = TestApp::bootstrap(&front(&[script(text)], &all, &origin)).await;
    let web = app.listener("web");
    for (path, status) in [("/fails", 200), ("/loops", 200), ("/else", 418)] {
        assert_eq!(ask(web, path, "").await.status, status, "{path}");
    }
    assert_eq!(counted(&app, "lua.errors"), 2);
    assert_eq!(counted(&app, "lua.executions"), 3);
}

#[tokio::test]
async fn routes_have_scripts_of_their_own() {
    let origin = Origin::fixed("in").await;
    let answer = |text: &str| {
        json!({"inline_string": format!("function envoy_on_request(handle)
            handle:respond({{[':status'] = '200'}}, '{text}' .. (handle:filterContext().more or ''))
        end")})
    };
    let sources = json!({"default_source_code": answer("default"),
        "source_codes": {"named": answer("named")}});
    let message = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute";
    let route = |path: &str, said: Value| {
        let mut said = said;
        said["@type"] = json!(message);
        json!({"match": {"path": path}, "route": {"cluster": "a"},
            "typed_per_filter_config": {LUA: said}})
    };
    let all = [
        route("/off", json!({"disabled": true})),
        route(
            "/named",
            json!({"name": "named", "filter_context": {"more": "!"}}),
        ),
        route("/own", json!({"source_code": answer("own")})),
        to_app(),
    ];
    let filters = [filter(LUA, "lua.v3.Lua", &sources)];
    let app = TestApp::bootstrap(&front(&filters, &all, &origin)).await;
    let web = app.listener("web");
    for (path, text) in [
        ("/off", "in"),
        ("/named", "named!"),
        ("/own", "own"),
        ("/else", "default"),
    ] {
        assert_eq!(ask(web, path, "").await.text(), text, "{path}");
    }
}

#[tokio::test]
async fn answers_without_a_body_and_upgrades_pass_a_script() {
    let origin = Origin::fixed("in").await;
    let text = "function envoy_on_request(handle) handle:body() end
        function envoy_on_response(handle)
          handle:headers():add('x-body', tostring(handle:body() ~= nil))
        end";
    let app = TestApp::bootstrap(&front(&[script(text)], &[to_app()], &origin)).await;
    let web = app.listener("web");
    for (method, there) in [("HEAD", "false"), ("GET", "true")] {
        let request = request(method, "app.test", "/").body(empty()).unwrap();
        let reply = Http1::connect(web).await.send_body(request).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-body")),
            (200, there)
        );
    }
    let mut asked = request("GET", "app.test", "/").body(empty()).unwrap();
    let upgrade = HeaderValue::from_static("websocket");
    asked.headers_mut().insert("upgrade", upgrade);
    let connection = HeaderValue::from_static("upgrade");
    asked.headers_mut().insert("connection", connection);
    // The app does not upgrade; what matters is that nobody waits for the end of a tunnel.
    let reply = Http1::connect(web).await.send_body(asked).await;
    assert_ne!(reply.status, 500);
    assert_eq!(counted(&app, "lua.errors"), 0);
}

#[tokio::test]
async fn a_listener_with_a_broken_script_is_refused_with_its_line() {
    let origin = Origin::fixed("in").await;
    let text = front(
        &[script("function envoy_on_request(h)\n  h::x()\nend")],
        &[to_app()],
        &origin,
    );
    let error = TestApp::try_bootstrap(&text).await.err().unwrap();
    let told = format!("{error:#}");
    assert!(told.contains("default_source_code: script:2: "), "{told}");
}
