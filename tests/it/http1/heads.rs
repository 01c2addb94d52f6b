//! What is added to a head, and what is taken away.

use serde_json::Value;

use super::{client, raw, serving};
use crate::support::client::{empty, request};
use crate::support::origin::Origin;
use crate::support::own_address;

fn field<'v>(echoed: &'v Value, name: &str) -> &'v str {
    let mut fields = echoed["headers"].as_array().unwrap().iter();
    fields
        .find(|f| f[0] == name)
        .map_or("", |f| f[1].as_str().unwrap())
}

#[tokio::test]
async fn hop_by_hop_fields_end_here() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let request = request("GET", &host, "/")
        .header("connection", "keep-alive, X-Private")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic Zm9v")
        .header("te", "trailers, deflate")
        .header("x-kept", "1")
        .body(empty())
        .unwrap();
    let echoed = client(&app).await.send_body(request).await.json();
    for name in [
        "connection",
        "x-private",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert_eq!(field(&echoed, name), "", "{name}");
    }
    assert_eq!(field(&echoed, "te"), "trailers");
    assert_eq!(field(&echoed, "x-kept"), "1");
}

#[tokio::test]
async fn hop_by_hop_fields_of_an_answer_end_here_too() {
    let origin = Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            let fields = [
                ("connection", "x-private"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("x-kept", "1"),
                ("server", "origin/1"),
            ];
            conn.reply(200, &fields, "").await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let reply = client(&app).await.get(&host, "/").await;
    for name in ["connection", "x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(reply.header(name), "", "{name}");
    }
    assert_eq!(
        (reply.header("x-kept"), reply.header("server")),
        ("1", "origin/1")
    );
    assert!(
        reply
            .headers
            .keys()
            .all(|n| !n.as_str().starts_with("x-envoy-")),
        "{reply:?}"
    );
}

#[tokio::test]
async fn the_origin_is_told_who_asks_and_how() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    let plain = client.get(&host, "/").await.json();
    assert_eq!(field(&plain, "x-forwarded-for"), own_address());
    assert_eq!(field(&plain, "x-forwarded-proto"), "http");
    assert_eq!(field(&plain, "host"), host);

    let claims = request("GET", &host, "/")
        .header("x-forwarded-for", "203.0.113.7")
        .header("x-forwarded-proto", "https")
        .header("x-envoy-upstream-rq-timeout-ms", "1")
        .header("x-request-id", "mine")
        .body(empty())
        .unwrap();
    let claimed = client.send_body(claims).await.json();
    assert_eq!(field(&claimed, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(
        field(&claimed, "x-forwarded-proto"),
        "http",
        "a client does not decide that"
    );
    assert_eq!(field(&claimed, "x-envoy-upstream-rq-timeout-ms"), "");
    let ids = [
        field(&plain, "x-request-id"),
        field(&claimed, "x-request-id"),
    ];
    for id in ids {
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn repeated_fields_keep_their_number_and_order() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            assert_eq!(head.count("x-many"), 3);
            conn.reply(200, &[("set-cookie", "b=1"), ("set-cookie", "a=2")], "")
                .await;
        }
    })
    .await;
    let (app, host) = serving(&origin).await;
    let request = request("GET", &host, "/")
        .header("x-many", "3")
        .header("x-many", "1")
        .header("x-many", "2")
        .body(empty())
        .unwrap();
    let reply = client(&app).await.send_body(request).await;
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["b=1", "a=2"]);
    let seen = &origin.requests()[0];
    let many: Vec<_> = seen.headers.iter().filter(|(n, _)| n == "x-many").collect();
    assert_eq!(
        many.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(),
        ["3", "1", "2"]
    );
}

#[tokio::test]
async fn the_absolute_form_names_the_host() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut raw = raw(&app).await;
    raw.send(format!(
        "GET http://{host}/a?b HTTP/1.1\r\nhost: other.example\r\n\r\n"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &origin.requests()[0];
    assert_eq!(
        (seen.target.as_str(), seen.header("host")),
        ("/a?b", host.as_str())
    );
}

#[tokio::test]
async fn paths_and_queries_pass_as_they_are() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for target in [
        "/",
        "/?",
        "/a%20b/%E4%BD%A0",
        "/a;b=c/d",
        "/~x/!$&'()*+,;=:@",
        "/?a=b&c=%26;d",
        "//a//b",
    ] {
        assert_eq!(client.get(&host, target).await.json()["target"], target);
    }
}

#[tokio::test]
async fn a_head_of_40_kib_passes_and_one_of_200_kib_is_refused() {
    let origin = Origin::fixed("ok").await;
    let (app, host) = serving(&origin).await;
    let mut one = raw(&app).await;
    let cookie = "c".repeat(40 * 1024);
    one.send(format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n"
    ))
    .await;
    assert_eq!(one.answer().await.status, 200);
    assert_eq!(origin.requests()[0].header("cookie").len(), cookie.len());

    let mut other = raw(&app).await;
    let cookie = "c".repeat(200 * 1024);
    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n");
    // Refused before its end is read, so sending may fail.
    other.try_send(head).await.ok();
    let head = other.head().await;
    assert!(
        head.is_err() || head.as_ref().is_ok_and(|h| h.status == 431),
        "{head:?}"
    );
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn an_application_may_have_methods_of_its_own() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    let request = request("BREW", &host, "/pot").body(empty()).unwrap();
    let reply = client.send_body(request).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["method"]),
        (200, &"BREW".into())
    );
}
