//! What routes do beyond forwarding: asking again, copying, tunnelling, choosing by weight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, full, get, request};
use crate::support::origin::{Content, Origin};
use crate::support::raw::Raw;
use crate::support::{eventually, refusing, tcp_echo};

/// Answers the first `bad` requests with 503 and the others with their own body.
async fn failing_first(bad: usize) -> Origin {
    let asked = Arc::new(AtomicUsize::new(0));
    Origin::http(move |mut conn| {
        let asked = Arc::clone(&asked);
        async move {
            while let Some(head) = conn.request().await {
                let Some(Content { data, .. }) = conn.content(&head).await else {
                    return;
                };
                let body = String::from_utf8(data).unwrap();
                match asked.fetch_add(1, SeqCst) < bad {
                    true => conn.reply(503, &[], "not yet").await,
                    false => conn.reply(200, &[], &body).await,
                }
            }
        }
    })
    .await
}

async fn app(all: &Value, clusters: &[Value]) -> TestApp {
    let manager = http(&json!({
        "route_config": routes(all),
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    }));
    TestApp::bootstrap(&bootstrap(&[listener("web", &manager)], clusters).to_string()).await
}

fn count(app: &TestApp, cluster: &str, stat: &str) -> u64 {
    use causeway::telemetry::stats::Value;
    let mut found = 0;
    app.running.stats.visit(&mut |name, value| {
        if let (true, Value::Counter(counter)) =
            (name == format!("cluster.{cluster}.{stat}"), value)
        {
            found = counter.value();
        }
    });
    found
}

#[tokio::test]
async fn a_body_is_sent_again_with_each_attempt() {
    let origin = failing_first(2).await;
    let retry = json!({"retry_on": "5xx", "num_retries": 2});
    let header = |key: &str, value: &str| json!({"header": {"key": key, "value": value}});
    let trace = header("x-asked", "%UPSTREAM_HOSTS_ATTEMPTED%");
    let attempts = header("x-attempts", "%CAUSEWAY_ATTEMPTS%");
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "retry_policy": retry},
        "response_headers_to_add": [trace, attempts],
    }]);
    let app = app(&all, &[cluster("a", origin.address)]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let post = request("POST", "h", "/order")
        .body(full("one body"))
        .unwrap();
    let reply = client.send_body(post).await;
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (200, "one body")
    );
    let asked = [origin.address.to_string().as_str(); 3].join(",");
    assert_eq!(reply.header("x-asked"), asked);
    let told = [503, 503, 200].map(|status| format!("{} {status}", origin.address));
    assert_eq!(reply.header("x-attempts"), told.join("; "));
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(count(&app, "a", "upstream_rq_retry"), 2);
    assert_eq!(count(&app, "a", "upstream_rq_retry_success"), 1);
    assert_eq!(count(&app, "a", "retry.upstream_rq_503"), 2);
    assert_eq!(count(&app, "a", "upstream_rq_503"), 0);
}

#[tokio::test]
async fn each_attempt_that_is_lost_has_its_reason() {
    let (_socket, nowhere) = refusing();
    let origin = Origin::fixed("here").await;
    let mut both = cluster("a", nowhere);
    let list = &mut both["load_assignment"]["endpoints"][0]["lb_endpoints"];
    let other = cluster("a", origin.address);
    let other = &other["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
    list.as_array_mut().unwrap().push(other.clone());
    let retry = json!({
        "retry_on": "connect-failure",
        "retry_host_predicate": [{"name": "p", "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        }}],
        "host_selection_retry_max_attempts": 5,
    });
    let attempts = json!({"header": {"key": "x-attempts", "value": "%CAUSEWAY_ATTEMPTS%"}});
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "retry_policy": retry},
        "response_headers_to_add": [attempts],
    }]);
    let app = app(&all, &[both]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let told = [client.get("h", "/").await, client.get("h", "/").await];
    let told = told.map(|reply| reply.header("x-attempts").to_owned());
    let here = format!("{} 200", origin.address);
    let reason = "connect: Connection refused (os error 111)";
    let lost = format!("{nowhere} {reason}; {here}");
    assert!(told.contains(&lost), "{told:?}");
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_kept_is_sent_once() {
    let origin = failing_first(1).await;
    let retry = json!({"retry_on": "5xx"});
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "retry_policy": retry},
        "request_body_buffer_limit": 4,
    }]);
    let app = app(&all, &[cluster("a", origin.address)]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let post = request("POST", "h", "/").body(full("five.")).unwrap();
    assert_eq!(client.send_body(post).await.status, 503);
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(count(&app, "a", "retry_or_shadow_abandoned"), 1);
    let post = request("POST", "h", "/").body(full("four")).unwrap();
    assert_eq!(client.send_body(post).await.text(), "four");
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_followed_by_another() {
    let asked = Arc::new(AtomicUsize::new(0));
    let origin = Origin::http(move |mut conn| {
        let first = asked.fetch_add(1, SeqCst) == 0;
        async move {
            while conn.request().await.is_some() {
                if first {
                    return conn.left().await;
                }
                conn.reply(200, &[], "at last").await;
            }
        }
    })
    .await;
    let retry = json!({"retry_on": "gateway-error", "per_try_timeout": "0.05s"});
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "timeout": "60s", "retry_policy": retry},
    }]);
    let app = app(&all, &[cluster("a", origin.address)]).await;
    let reply = get(app.listener("web"), "h", "/").await;
    assert_eq!(reply.text(), "at last");
    assert_eq!(count(&app, "a", "upstream_rq_per_try_timeout"), 1);
    let told: Vec<String> = origin
        .requests()
        .iter()
        .map(|head| head.header("x-envoy-expected-rq-timeout-ms").to_owned())
        .collect();
    assert_eq!(told, ["50", "50"]);
}

#[tokio::test]
async fn a_copy_has_the_body_and_cannot_fail_the_request() {
    let (origin, shadow) = (Origin::echo().await, failing_first(usize::MAX).await);
    let (_socket, nobody) = refusing();
    let copies = json!([{"cluster": "shadow"}, {"cluster": "nobody"}, {"cluster": "unknown"}]);
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "request_mirror_policies": copies},
    }]);
    let clusters = [
        cluster("a", origin.address),
        cluster("shadow", shadow.address),
        cluster("nobody", nobody),
    ];
    let app = app(&all, &clusters).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for n in 1..4 {
        let post = request("POST", "h:80", "/x").body(full("copied")).unwrap();
        assert_eq!(client.send_body(post).await.status, 200);
        shadow.has_requests(n).await;
    }
    let seen = shadow.requests();
    assert_eq!(seen[0].header("host"), "h-shadow:80");
    assert_eq!(seen[0].header("content-length"), "6");
    eventually("the copies have ended", || {
        count(&app, "shadow", "upstream_rq_503") == 3
    })
    .await;
}

#[tokio::test]
async fn connect_ends_in_a_connection_or_is_refused() {
    let echo = tcp_echo().await;
    let all = json!([
        {
            "match": {"connect_matcher": {}, "headers": [{"name": "x-end", "present_match": true}]},
            "route": {
                "cluster": "echo",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            },
        },
        {"match": {"prefix": ""}, "direct_response": {"status": 200}},
    ]);
    let app = app(&all, &[cluster("echo", echo.address)]).await;
    let mut tunnel = Raw::connect(app.listener("web")).await;
    tunnel
        .send("CONNECT any.test:443 HTTP/1.1\r\nHost: any.test:443\r\nx-end: 1\r\n\r\n")
        .await;
    assert_eq!(tunnel.head().await.unwrap().status, 200);
    tunnel.send("ping").await;
    assert_eq!(tunnel.bytes(4).await, b"ping");
    // Only a route for it takes a CONNECT: it has no path that a prefix could match.
    let mut other = Raw::connect(app.listener("web")).await;
    other
        .send("CONNECT any.test:443 HTTP/1.1\r\nHost: any.test:443\r\n\r\n")
        .await;
    assert_eq!(other.answer().await.status, 404);
}

/// A filter that changes a body changes what is counted as sent.
#[tokio::test]
async fn the_bytes_that_are_logged_are_those_that_were_sent() {
    const TEXT: &str = "a text that is long enough, and long enough, and long enough to be coded";
    let origin = Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.reply(200, &[("content-type", "text/plain")], TEXT)
                .await;
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let types = "type.googleapis.com/envoy.extensions";
    let manager = http(&json!({
        "route_config": routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}])),
        "access_log": [{"name": "l", "typed_config": {
            "@type": format!("{types}.access_loggers.file.v3.FileAccessLog"),
            "path": path,
            "log_format": {"text_format_source": {"inline_string": "%BYTES_SENT%\n"}},
        }}],
        "http_filters": [
            {"name": "c", "typed_config": {
                "@type": format!("{types}.filters.http.compressor.v3.Compressor"),
                "compressor_library": {"name": "text", "typed_config": {
                    "@type": format!("{types}.compression.gzip.compressor.v3.Gzip"),
                }},
            }},
            {"name": "r", "typed_config": {"@type": format!("{types}.filters.http.router.v3.Router")}},
        ],
    }));
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let mut expected = String::new();
    for coding in ["identity", "gzip"] {
        let get = request("GET", "h", "/").header("accept-encoding", coding);
        let reply = client.send_body(get.body(full("")).unwrap()).await;
        assert_eq!(reply.body.len() == TEXT.len(), coding == "identity");
        expected.push_str(&format!("{}\n", reply.body.len()));
    }
    let written = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("two lines", || written().lines().count() == 2).await;
    assert_eq!(written(), expected);
}

/// What endpoints and clusters carry, and what is known of connections to them, as header values.
#[tokio::test]
async fn headers_tell_of_the_endpoint_and_its_cluster() {
    let origin = Origin::fixed("x").await;
    let mut known = cluster("a", origin.address);
    let said = |key: &str| json!({"filter_metadata": {"n.s": {"k": key, "deep": {"er": 7}}}});
    known["metadata"] = said("of the cluster");
    known["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] =
        said("of the endpoint");
    let formats = [
        (
            "x-endpoint",
            "%UPSTREAM_METADATA(n.s:k)%",
            "of the endpoint",
        ),
        ("x-list", r#"%UPSTREAM_METADATA(["n.s","deep","er"])%"#, "7"),
        ("x-all", "%METADATA(UPSTREAM_HOST:n.s:deep)%", r#"{"er":7}"#),
        ("x-cluster", "%CLUSTER_METADATA(n.s:k)%", "of the cluster"),
        (
            "x-cluster-too",
            "%METADATA(CLUSTER:n.s:k)%",
            "of the cluster",
        ),
        ("x-none", "%UPSTREAM_METADATA(n.s:none)%", ""),
        (
            "x-local",
            "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
            "127.0.0.1",
        ),
    ];
    let edits: Vec<Value> = formats
        .iter()
        .map(|(key, format, _)| json!({"header": {"key": key, "value": format}}))
        .chain([json!({"header": {"key": "x-socket", "value":
            "%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_LOCAL_PORT% %UPSTREAM_CONNECTION_ID%"}})])
        .collect();
    let all = json!([{
        "match": {"prefix": "/"}, "route": {"cluster": "a"}, "response_headers_to_add": edits,
    }]);
    let app = app(&all, &[known]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let reply = client.get("h", "/").await;
    for (name, format, value) in formats {
        assert_eq!(reply.header(name), value, "{format}");
    }
    let first = reply.header("x-socket").to_owned();
    let [address, port, id] = first.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{first}")
    };
    assert_eq!(address, format!("127.0.0.1:{port}"));
    assert!(id.parse::<u64>().unwrap() > 0);
    // The connection is kept.
    assert_eq!(client.get("h", "/").await.header("x-socket"), first);
}

#[tokio::test]
async fn a_weighted_cluster_has_edits_and_a_host_of_its_own() {
    let (one, other) = (Origin::fixed("one").await, Origin::fixed("other").await);
    let edit = |value: &str| json!([{"header": {"key": "x-of", "value": value}}]);
    let weighted = json!({
        "header_name": "x-pick",
        "clusters": [
            {"name": "one", "weight": 1, "request_headers_to_add": edit("one")},
            {
                "name": "other",
                "weight": 3,
                "host_rewrite_literal": "other.test",
                "response_headers_to_add": edit("other"),
            },
        ],
    });
    let all = json!([{"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted}}]);
    let clusters = [cluster("one", one.address), cluster("other", other.address)];
    let app = app(&all, &clusters).await;
    let mut client = Http1::connect(app.listener("web")).await;
    for (pick, text, told) in [("0", "one", ""), ("1", "other", "other"), ("4", "one", "")] {
        let asked = request("GET", "h", "/").header("x-pick", pick);
        let reply = client.send_body(asked.body(full("")).unwrap()).await;
        assert_eq!(
            (reply.text().as_str(), reply.header("x-of")),
            (text, told),
            "{pick}"
        );
    }
    let (one, other) = (one.requests(), other.requests());
    assert_eq!((one[0].header("host"), one[0].header("x-of")), ("h", "one"));
    assert_eq!(
        (other[0].header("host"), other[0].header("x-of")),
        ("other.test", "")
    );
    assert_eq!(other[0].header("x-envoy-original-host"), "");
}

#[tokio::test]
async fn a_rewrite_may_leave_a_word_of_a_path() {
    let origin = Origin::fixed("yes").await;
    let rewrite = json!({"pattern": {"regex": "^/cut(/?)"}, "substitution": ""});
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {
            "cluster": "app",
            "regex_rewrite": rewrite,
            "retry_policy": {"retry_on": "5xx", "num_retries": 1},
        },
        "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
    }]);
    let app = app(&all, &[cluster("app", origin.address)]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    // Sent as it is, or with its slash where HTTP/1.1 has no form for what is left.
    for (path, sent, told) in [
        ("/cut/abc", "abc", "/abc"),
        ("/cut", "/", "/"),
        ("/cut/a/b", "/a/b", "/a/b"),
        ("/cut/a?b=1", "/a?b=1", "/a?b=1"),
        ("/cut/a:1", "/a:1", "/a:1"),
        ("/cut//a", "/a", "/a"),
    ] {
        let reply = client.get("h", path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-path")),
            (200, told),
            "{path}"
        );
        let seen = origin.requests();
        let last = seen.last().unwrap();
        assert_eq!(
            (last.target.as_str(), last.header("host")),
            (sent, "h"),
            "{path}"
        );
        assert_eq!(last.header("x-envoy-original-path"), path);
    }
}

#[tokio::test]
async fn the_body_of_a_direct_response_is_made_by_its_format() {
    let text = "%REQ(:METHOD)% %REQ(X-A)% %ROUTE_NAME% %RESPONSE_CODE%: %LOCAL_REPLY_BODY%";
    let all = json!([
        {
            "name": "text",
            "match": {"prefix": "/text"},
            "direct_response": {
                "status": 203,
                "body": {"inline_string": "inner"},
                "body_format": {"text_format_source": {"inline_string": text}},
            },
        },
        {
            "match": {"prefix": "/"},
            "direct_response": {
                "status": 200,
                "body_format": {
                    "json_format": {"path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%"},
                    "content_type": "application/problem+json",
                },
            },
        },
    ]);
    let app = app(&all, &[]).await;
    let mut client = Http1::connect(app.listener("web")).await;
    let asked = request("POST", "h", "/text")
        .header("x-a", "1")
        .body(full(""))
        .unwrap();
    let reply = client.send_body(asked).await;
    assert_eq!(reply.status, 203);
    assert_eq!(reply.text(), "POST 1 text 203: inner");
    assert_eq!(reply.header("content-type"), "text/plain");
    let reply = get(app.listener("web"), "h", "/x?y").await;
    assert_eq!(reply.json(), json!({"path": "/x?y", "code": 200}));
    assert_eq!(reply.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_still_takes_one_request() {
    let manager = http(&json!({
        "route_config": routes(&json!([{
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "yes"}},
        }])),
        "common_http_protocol_options": {"idle_timeout": "0.05s"},
        "drain_timeout": "3600s",
    }));
    let text = bootstrap(&[listener("web", &manager)], &[]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut raw = Raw::connect(app.listener("web")).await;
    // Before its first byte there is no telling what it speaks.
    raw.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(raw.answer().await.header("connection"), "");
    let stats = app.running.stats.http("web");
    eventually("the connection is idle", || {
        stats.downstream_cx_idle_timeout.value() == 1
    })
    .await;
    raw.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "yes"));
    assert_eq!(answer.header("connection"), "close");
    raw.ended().await;
}

/// The cluster's limit counts for each request, and for what a request becomes.
#[tokio::test]
async fn a_request_to_an_endpoint_may_take_so_long_and_no_longer() {
    let origin = Origin::http(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/never" => return conn.left().await,
                "/half" => {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
                    return conn.left().await;
                }
                "/tunnel" => {
                    conn.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
                        .await;
                    return conn.left().await;
                }
                _ => conn.reply(200, &[], "in time").await,
            }
        }
    })
    .await;
    let mut limited = cluster("a", origin.address);
    limited["common_http_protocol_options"] = json!({"max_stream_duration": "0.2s"});
    let all = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": "a", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "x"}]},
    }]);
    let app = app(&all, &[limited]).await;
    let at = app.listener("web");
    assert_eq!(get(at, "h", "/soon").await.text(), "in time");
    let late = get(at, "h", "/never").await;
    assert_eq!(
        (late.status.as_u16(), &*late.text()),
        (504, "upstream max stream duration reached")
    );
    let mut half = Raw::connect(at).await;
    half.send("GET /half HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(half.try_answer().await.is_err());
    let mut tunnel = Raw::connect(at).await;
    tunnel
        .send("GET /tunnel HTTP/1.1\r\nhost: h\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
        .await;
    assert_eq!(tunnel.head().await.unwrap().status, 101);
    tunnel.ended().await;
    eventually("all are counted", || {
        count(&app, "a", "upstream_rq_max_duration_reached") == 3
    })
    .await;
    assert_eq!(count(&app, "a", "upstream_rq_504"), 0);
}
