//! Malformed requests: an error, the end of the connection, and nothing for the origin.

use super::{raw, serving, targets};
use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, to};
use crate::support::circuit::circuit;
use crate::support::origin::Origin;
use crate::support::raw::End;
use crate::support::refusing;

/// Every request here is followed by a second one, which must not be taken for a request either.
#[tokio::test]
async fn malformed_requests_are_refused_and_reach_nobody() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let h = &format!("host: {host}\r\n");
    let mut complaints = Vec::new();
    for (what, request) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", format!("GET / HTTP/1.1\r\n{h}{h}\r\n")),
        (
            "two different hosts",
            format!("GET / HTTP/1.1\r\n{h}host: other\r\n\r\n"),
        ),
        ("empty request line", format!("GET\r\n{h}\r\n")),
        (
            "a slash in the host",
            format!("GET / HTTP/1.1\r\nhost: {host}/x\r\n\r\n"),
        ),
        (
            "a space in the host",
            format!("GET / HTTP/1.1\r\nhost: {host} x\r\n\r\n"),
        ),
        (
            "userinfo in the host",
            format!("GET / HTTP/1.1\r\nhost: a@{host}\r\n\r\n"),
        ),
        (
            "userinfo in the target",
            format!("GET http://a@{host}/ HTTP/1.1\r\n{h}\r\n"),
        ),
        (
            "a target of another form",
            format!("GET {host} HTTP/1.1\r\n{h}\r\n"),
        ),
        (
            "space before the colon",
            format!("GET / HTTP/1.1\r\n{h}x-a : b\r\n\r\n"),
        ),
        (
            "folded field",
            format!("GET / HTTP/1.1\r\n{h}x-a: b\r\n c\r\n\r\n"),
        ),
        (
            "folded first field",
            format!("GET / HTTP/1.1\r\n x: y\r\n{h}\r\n"),
        ),
        (
            "field without a colon",
            format!("GET / HTTP/1.1\r\n{h}nonsense\r\n\r\n"),
        ),
        (
            "field without a name",
            format!("GET / HTTP/1.1\r\n{h}: b\r\n\r\n"),
        ),
        (
            "NUL in a value",
            format!("GET / HTTP/1.1\r\n{h}x-a: b\0c\r\n\r\n"),
        ),
        (
            "CR in a value",
            format!("GET / HTTP/1.1\r\n{h}x-a: b\rc\r\n\r\n"),
        ),
        (
            "a name with a bracket",
            format!("GET / HTTP/1.1\r\n{h}x[a]: b\r\n\r\n"),
        ),
        (
            "method with an odd character",
            format!("G@T / HTTP/1.1\r\n{h}\r\n"),
        ),
        ("two spaces", format!("GET  / HTTP/1.1\r\n{h}\r\n")),
        ("tab for a space", format!("GET\t/ HTTP/1.1\r\n{h}\r\n")),
        (
            "space in the target",
            format!("GET /a b HTTP/1.1\r\n{h}\r\n"),
        ),
        ("unknown version", format!("GET / HTTP/1.7\r\n{h}\r\n")),
        ("HTTP/2 in words", format!("GET / HTTP/2.0\r\n{h}\r\n")),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        (
            "not HTTP",
            "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(),
        ),
        (
            "unknown coding before chunked",
            format!("POST / HTTP/1.1\r\n{h}transfer-encoding: x, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "gzip before chunked",
            format!("POST / HTTP/1.1\r\n{h}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked before another",
            format!("POST / HTTP/1.1\r\n{h}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunked twice",
            format!(
                "POST / HTTP/1.1\r\n{h}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "identity",
            format!(
                "POST / HTTP/1.1\r\n{h}transfer-encoding: identity\r\ncontent-length: 0\r\n\r\n"
            ),
        ),
        (
            "quoted chunked",
            format!("POST / HTTP/1.1\r\n{h}transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        ),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\n{h}content-length: 0\r\ncontent-length: 4\r\n\r\n"),
        ),
        (
            "list of lengths",
            format!("POST / HTTP/1.1\r\n{h}content-length: 0, 4\r\n\r\n"),
        ),
        (
            "signed length",
            format!("POST / HTTP/1.1\r\n{h}content-length: +4\r\n\r\nabcd"),
        ),
        (
            "negative length",
            format!("POST / HTTP/1.1\r\n{h}content-length: -4\r\n\r\n"),
        ),
        (
            "hexadecimal length",
            format!("POST / HTTP/1.1\r\n{h}content-length: 0x4\r\n\r\nabcd"),
        ),
        (
            "empty length",
            format!("POST / HTTP/1.1\r\n{h}content-length:\r\n\r\n"),
        ),
        (
            "huge length",
            format!("POST / HTTP/1.1\r\n{h}content-length: 99999999999999999999\r\n\r\n"),
        ),
        (
            "connection names host",
            format!("GET / HTTP/1.1\r\n{h}connection: host\r\n\r\n"),
        ),
        (
            "connection names length",
            format!(
                "POST / HTTP/1.1\r\n{h}connection: content-length\r\ncontent-length: 4\r\n\r\nabcd"
            ),
        ),
        ("connect", format!("CONNECT {host}:443 HTTP/1.1\r\n{h}\r\n")),
    ] {
        if let Err(complaint) = refused(&app, &host, &request).await {
            complaints.push(format!("{what}: {complaint}"));
        }
        if !origin.requests().is_empty() {
            complaints.push(format!("{what}: reached the origin"));
            origin.forget();
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(origin.connections(), 0);
}

async fn refused(app: &TestApp, host: &str, request: &str) -> Result<(), String> {
    let mut raw = raw(app).await;
    // Refused before its end is read, so sending may fail.
    raw.try_send(format!(
        "{request}GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n"
    ))
    .await
    .ok();
    let answer = raw
        .try_answer()
        .await
        .map_err(|broken| format!("no answer: {broken:?}"))?;
    if !matches!(answer.status, 400 | 404 | 426 | 501 | 505) {
        return Err(format!("answered with {} {}", answer.status, answer.text()));
    }
    match raw.rest().await.0 {
        rest if rest.is_empty() => Ok(()),
        rest => Err(format!(
            "a second answer: {:?}",
            String::from_utf8_lossy(&rest)
        )),
    }
}

/// Whoever stood in front of us may have believed either of the two.
#[tokio::test]
async fn a_length_that_contradicts_or_repeats_is_a_400() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "transfer-encoding: chunked\r\nContent-Length:4\r\nx-a: b",
        "content-length: 4\r\ntransfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 0\r\nx-a: b\r\ncontent-length: 0",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n\r\n0\r\n\r\n");
        for cut in [0, 10, request.len() - 12, request.len() - 5] {
            let mut raw = raw(&app).await;
            raw.send(&request[..cut]).await;
            // Refused before its end is read, so sending may fail.
            raw.try_send(&request[cut..]).await.ok();
            raw.try_send(format!("GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n"))
                .await
                .ok();
            let answer = raw.answer().await;
            assert_eq!(
                (answer.status, answer.header("connection")),
                (400, "close"),
                "{fields}"
            );
            assert_eq!(raw.rest().await.0, b"", "{fields}");
        }
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_contradiction_is_found_behind_other_requests() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let h = &format!("host: {host}\r\n");
    for before in [
        format!("GET /fine HTTP/1.1\r\n{h}\r\n"),
        format!("POST /fine HTTP/1.1\r\n{h}content-length: 4\r\n\r\nabcd"),
        format!("POST /fine HTTP/1.1\r\n{h}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
    ] {
        let mut raw = raw(&app).await;
        raw.send(format!(
            "{before}POST /smuggled HTTP/1.1\r\n{h}content-length: 4\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.answer().await.status, 200, "{before}");
        assert_eq!(raw.answer().await.status, 400, "{before}");
        assert_eq!(raw.rest().await.0, b"");
    }
    assert_eq!(targets(&origin.requests()), ["/fine"; 3]);
}

/// A body is free to look like a head.
#[tokio::test]
async fn bodies_that_look_like_heads_pass() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    let part = "content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!(
        "POST /1 HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{part}\r\n0\r\n\r\n",
        part.len()
    );
    let sized = format!(
        "POST /2 HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n{part}",
        part.len()
    );
    let all = [&chunked[..], &sized, &chunked, &chunked, &sized, &sized].concat();
    for size in [all.len(), 7] {
        let mut raw = raw(&app).await;
        for piece in all.as_bytes().chunks(size) {
            raw.send(piece).await;
        }
        for _ in 0..6 {
            let answer: serde_json::Value =
                serde_json::from_slice(&raw.answer().await.body).unwrap();
            assert_eq!(answer["body"], part);
        }
    }
}

/// Codings that we do not know are refused with Envoy's status.
#[tokio::test]
async fn an_unknown_coding_is_refused() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    for (coding, status) in [
        ("gzip, chunked", 501),
        ("foo, chunked", 501),
        ("identity", 501),
        ("foo", 501),
        ("chunked, gzip", 501),
    ] {
        let mut raw = raw(&app).await;
        raw.send(format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: {coding}\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.answer().await.status, status, "{coding}");
        assert_eq!(raw.rest().await.0, b"", "{coding}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_malformed_chunk_ends_both_connections() {
    let origin = Origin::echo().await;
    let (app, host) = serving(&origin).await;
    for (i, chunk) in [
        "zz\r\n",
        "-1\r\n",
        "5\r\nhelloX",
        "5 \nhello",
        "ffffffffffffffffff\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = raw(&app).await;
        raw.send(format!(
            "POST /{i} HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n"
        ))
        .await;
        match raw.try_answer().await {
            Ok(answer) => assert!(answer.status >= 400, "{chunk:?}: {answer:?}"),
            Err(broken) => assert_eq!(broken.body, b"", "{chunk:?}"),
        }
        raw.rest().await;
        origin.has_no_connection().await;
    }
    assert!(!targets(&origin.requests()).contains(&"/smuggled"));
}

#[tokio::test]
async fn an_answer_of_nonsense_is_a_502() {
    for nonsense in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let origin = Origin::once(nonsense).await;
        let (app, host) = serving(&origin).await;
        let mut raw = raw(&app).await;
        raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 502, "{}", String::from_utf8_lossy(nonsense));
    }
}

#[tokio::test]
async fn an_origin_that_says_nothing_or_is_not_there_is_a_502() {
    let origin = Origin::once(b"").await;
    let (_socket, nowhere) = refusing();
    let (silent, absent) = (
        circuit(1).kernel(origin.address),
        circuit(2).kernel(nowhere),
    );
    let app = TestApp::serving(&[&silent, &absent]).await;
    let mut raw = raw(&app).await;
    // The client's connection goes on: nothing about it was wrong.
    for host in [silent.host(), absent.host(), silent.host()] {
        raw.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"))
            .await;
        let answer = raw.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (502, ""),
            "{host}"
        );
    }
    raw.finish().await;
    assert_eq!(raw.ended().await, End::Closed);
}

#[tokio::test]
async fn http_1_0_is_refused_politely_where_nothing_allows_it() {
    let origin = Origin::echo().await;
    let manager = http(&serde_json::json!({"route_config": to("a")}));
    let clusters = [cluster("a", origin.address)];
    let text = bootstrap(&[listener("web", &manager)], &clusters).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut raw = crate::support::raw::Raw::connect(app.listener("web")).await;
    raw.send("GET / HTTP/1.0\r\nhost: x\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 426);
    raw.ended().await;
    assert!(origin.requests().is_empty());
}
