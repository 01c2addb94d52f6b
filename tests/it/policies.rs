//! What a worker's file gives to circuits beside serving them.

use std::collections::BTreeSet;
use std::path::Path;

use causeway::config::WorkerConfig;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::support::app::{TestApp, worker};
use crate::support::circuit::circuit;
use crate::support::client::{Http1, Http2, Reply, empty, request};
use crate::support::eventually;
use crate::support::origin::{Conn, Origin};

/// A worker whose file has these policies.
async fn serving(policies: &str) -> TestApp {
    let text = format!("[secrets]\napi_secret = \"s\"\n{policies}");
    let parsed = WorkerConfig::parse(&text, Path::new("worker.toml")).unwrap();
    assert_eq!(parsed.unknown, []);
    let mut config = worker();
    config.causeway.policies = parsed.causeway.policies;
    TestApp::with(config).await
}

async fn ask(app: &TestApp, host: &str, method: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = request(method, host, "/a?b");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut client = Http1::connect(app.wildcard()).await;
    client.send_body(request.body(empty()).unwrap()).await
}

#[tokio::test]
async fn each_circuit_of_an_app_has_a_rate_of_its_own() {
    let origin = Origin::fixed("in").await;
    let limited = "[[causeway.policies]]\napp = \"busy\"\n\
                   rate_limit = { requests = 1, per = 3600.0, burst = 2 }\n";
    let app = serving(limited).await;
    let busy = |number| {
        circuit(number)
            .with("app", json!("busy"))
            .kernel(origin.address)
    };
    let (one, other, calm) = (busy(1), busy(2), circuit(3).kernel(origin.address));
    app.announce(&[&one, &other, &calm]).await;
    for circuit in [&one, &other] {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(ask(&app, &circuit.host(), "GET", &[]).await.status.as_u16());
        }
        assert_eq!(statuses, [200, 200, 429]);
    }
    for _ in 0..4 {
        assert_eq!(ask(&app, &calm.host(), "GET", &[]).await.status, 200);
    }
    // Nobody's bucket is filled because others come and go.
    let third = busy(4);
    app.announce(&[&third]).await;
    assert_eq!(ask(&app, &third.host(), "GET", &[]).await.status, 200);
    for circuit in [&one, &other] {
        assert_eq!(ask(&app, &circuit.host(), "GET", &[]).await.status, 429);
    }
}

#[tokio::test]
async fn answers_are_compressed_and_pages_of_others_let_in_where_that_is_wanted() {
    let long = "a line that is long enough. ".repeat(40);
    let text = long.clone();
    let origin = Origin::http(move |mut conn: Conn| {
        let text = text.clone();
        async move {
            while conn.request().await.is_some() {
                conn.reply(200, &[("content-type", "text/plain")], &text)
                    .await;
            }
        }
    })
    .await;
    let policies = "[[causeway.policies]]\nmode = \"inference\"\ncompression = []\n\
                    [[causeway.policies]]\ncompression = [\"gzip\", \"br\"]\n\
                    [[causeway.policies]]\napp = \"app\"\n\
                    cors = { origins = [\"https://portal.test\"], methods = [\"PUT\"], max_age = 60 }\n";
    let app = serving(policies).await;
    let plain = circuit(1).kernel(origin.address);
    let model = circuit(2)
        .with("app_mode", json!("inference"))
        .with("app", json!("model"))
        .with("endpoint_id", json!("00000000-0000-4000-8000-000000000007"))
        .kernel(origin.address);
    app.announce(&[&plain, &model]).await;
    let any = [("accept-encoding", "br, gzip, zstd")];
    let reply = ask(&app, &plain.host(), "GET", &any).await;
    assert_eq!(reply.header("content-encoding"), "br");
    let gzip = [("accept-encoding", "gzip")];
    assert_eq!(
        ask(&app, &plain.host(), "GET", &gzip)
            .await
            .header("content-encoding"),
        "gzip"
    );
    let reply = ask(&app, &model.host(), "GET", &any).await;
    assert_eq!((reply.header("content-encoding"), reply.text()), ("", long));

    let from = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
    let reply = ask(&app, &plain.host(), "OPTIONS", &from("https://portal.test")).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "https://portal.test"
    );
    assert_eq!(reply.header("access-control-allow-methods"), "PUT");
    assert_eq!(reply.header("access-control-max-age"), "60");
    let seen = origin.requests().len();
    let reply = ask(&app, &plain.host(), "GET", &from("https://portal.test")).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "https://portal.test"
    );
    assert_eq!(origin.requests().len(), seen + 1);
}

#[tokio::test]
async fn a_client_stays_with_its_kernel_where_that_is_wanted() {
    let kernels = [
        Origin::fixed("one").await,
        Origin::fixed("two").await,
        Origin::fixed("three").await,
    ];
    let addresses = kernels.each_ref().map(|kernel| kernel.address);
    let app = serving("[[causeway.policies]]\napp = \"kept\"\nsticky = true\n").await;
    let kept = circuit(1).with("app", json!("kept")).kernels(&addresses);
    let free = circuit(2).kernels(&addresses);
    app.announce(&[&kept, &free]).await;
    // Without a cookie there is one with the answer, for the same kernel from then on.
    let first = ask(&app, &kept.host(), "GET", &[]).await;
    let cookie = first.header("set-cookie");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("causeway-sticky-"), "{cookie}");
    for _ in 0..12 {
        let again = ask(&app, &kept.host(), "GET", &[("cookie", &cookie)]).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("set-cookie"), "");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let reply = ask(&app, &free.host(), "GET", &[("cookie", &cookie)]).await;
        assert_eq!(reply.header("set-cookie"), "");
        seen.insert(reply.text());
    }
    assert!(seen.len() > 1, "{seen:?}");
}

#[tokio::test]
async fn a_kernel_is_asked_for_no_more_than_a_policy_allows() {
    // Never answers.
    let origin = Origin::tcp(|mut stream| async move {
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing).await.ok();
    })
    .await;
    let app = serving(
        "[[causeway.policies]]\nconnections = { max = 1, queue = 1, queue_timeout = 0.05 }\n",
    )
    .await;
    let busy = circuit(1).kernel(origin.address);
    app.announce(&[&busy]).await;
    // On one thread, as each has a connection whatever the limit.
    let first = Http2::connect(app.wildcard()).await;
    let request = |path: &str| {
        let uri = format!("http://{}{path}", busy.host());
        http::Request::get(uri).body(empty()).unwrap()
    };
    let held = tokio::spawn({
        let (client, request) = (first.clone(), request("/held"));
        async move { client.send(request).await }
    });
    eventually("it is under way", || origin.connections() == 1).await;
    // The status that the legacy worker has for it.
    assert_eq!(first.send(request("/late")).await.status, 504);
    let name = format!("circuit/{}", busy.id);
    let stats = app.running.stats.cluster(name);
    assert_eq!(stats.upstream_rq_queue_timeout.value(), 1);
    held.abort();
}

#[tokio::test]
async fn an_authorizer_says_who_may_use_a_circuit() {
    let origin = Origin::fixed("in").await;
    let authorizer = Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            let (status, fields): (u16, &[(&str, &str)]) = match head.header("x-key") {
                "good" => (200, &[("x-user", "ann")]),
                _ => (403, &[]),
            };
            conn.reply(status, fields, "asked").await;
        }
    })
    .await;
    let policies = format!(
        "[[causeway.policies]]\nuser = \"00000000-0000-4000-8000-000000000001\"\n\
         authorizer = {{ address = \"{}\", path = \"/check\", timeout = 60.0, headers = [\"x-key\"], \
         upstream_headers = [\"x-user\"] }}\n",
        authorizer.address
    );
    let app = serving(&policies).await;
    let asked = circuit(1)
        .with("user_id", json!("00000000-0000-4000-8000-000000000001"))
        .kernel(origin.address);
    let open = circuit(2).kernel(origin.address);
    app.announce(&[&asked, &open]).await;
    assert_eq!(ask(&app, &open.host(), "GET", &[]).await.text(), "in");
    assert!(authorizer.requests().is_empty());
    assert_eq!(ask(&app, &asked.host(), "GET", &[]).await.status, 403);
    let reply = ask(
        &app,
        &asked.host(),
        "GET",
        &[("x-key", "good"), ("x-user", "root")],
    )
    .await;
    assert_eq!(reply.text(), "in");
    assert_eq!(origin.requests().last().unwrap().header("x-user"), "ann");
    assert_eq!(authorizer.requests()[0].target, "/check/a?b");
}
