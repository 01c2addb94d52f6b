//! Circuits by the REST shim: three ways to reach one, and what is refused.

use serde_json::{Value, json};

use crate::support::app::{DOMAIN, SECRET, TestApp, worker};
use crate::support::circuit::circuit;
use crate::support::client::{Http1, get};
use crate::support::origin::Origin;
use crate::support::ws;

/// The field of an echoed request; empty when it did not come.
fn field<'v>(echoed: &'v Value, name: &str) -> &'v str {
    let mut fields = echoed["headers"].as_array().unwrap().iter();
    fields
        .find(|f| f[0] == name)
        .map_or("", |f| f[1].as_str().unwrap())
}

#[tokio::test]
async fn a_circuit_is_reached_by_subdomain_port_and_path() {
    let origin = Origin::echo().await;
    let named = circuit(1).kernel(origin.address);
    let placed = circuit(2).kernel(origin.address).at_slot(2);
    let app = TestApp::serving(&[&named, &placed]).await;

    let by_subdomain = app.get(&named, "/a?b=c").await.json();
    assert_eq!(by_subdomain["target"], "/a?b=c");
    assert_eq!(field(&by_subdomain, "host"), named.host());
    assert_eq!(field(&by_subdomain, "x-forwarded-prefix"), "");
    // Browsers send the port along.
    let with_port = format!("{}:{}", named.host(), app.wildcard().port());
    let reply = get(app.wildcard(), &with_port, "/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let shouted = get(app.wildcard(), &named.host().to_uppercase(), "/").await;
    assert_eq!(shouted.status, 200, "host names know no case");

    let by_port = get(app.slot(2), "whatever.example", "/a").await.json();
    assert_eq!(by_port["target"], "/a");
    assert_eq!(field(&by_port, "host"), "whatever.example");

    for (path, expected) in [
        ("/a/b?c=/d", "/a/b?c=/d"),
        ("/", "/"),
        ("", "/"),
        ("?x=1", "/?x=1"),
        ("/a%2Fb", "/a%2Fb"),
    ] {
        let target = format!("{}{path}", named.prefix());
        let by_path = get(app.path(), "any.example", &target).await.json();
        assert_eq!(by_path["target"], expected, "{target}");
        assert_eq!(
            field(&by_path, "x-forwarded-prefix"),
            named.prefix(),
            "{target}"
        );
    }
    let longer = get(app.path(), "any", &format!("{}2/", named.prefix())).await;
    assert_eq!(longer.status, 404, "app is not app2");
}

#[tokio::test]
async fn without_stripping_the_prefix_stays_and_is_not_announced() {
    let origin = Origin::echo().await;
    let circuit = circuit(1).kernel(origin.address);
    let mut config = worker();
    config.causeway.strip_prefix = false;
    let app = TestApp::with(config).await;
    app.announce(&[&circuit]).await;
    let target = format!("{}/a?b", circuit.prefix());
    let by_path = get(app.path(), "any.example", &target).await.json();
    assert_eq!(by_path["target"], target);
    assert_eq!(field(&by_path, "x-forwarded-prefix"), "");
}

#[tokio::test]
async fn a_client_cannot_fake_the_prefix() {
    let origin = Origin::echo().await;
    let circuit = circuit(1).kernel(origin.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut client = Http1::connect(app.path()).await;
    let request = crate::support::client::request("GET", "any", &format!("{}/", circuit.prefix()))
        .header("x-forwarded-prefix", "/evil")
        .body(crate::support::client::empty())
        .unwrap();
    let echoed = client.send_body(request).await.json();
    assert_eq!(field(&echoed, "x-forwarded-prefix"), circuit.prefix());
}

#[tokio::test]
async fn an_answer_comes_when_traffic_already_follows_the_push() {
    let origins = [Origin::fixed("even").await, Origin::fixed("odd").await];
    let app = TestApp::worker().await;
    let mut shim = app.shim().await;
    for i in 0..50_u32 {
        let here = circuit(i).kernel(origins[i as usize % 2].address);
        let answer = shim.accepted("POST", "/v1/circuits", &here.value).await;
        assert_eq!(answer["changed"], true);
        assert_eq!(
            app.get(&here, "/").await.text(),
            ["even", "odd"][i as usize % 2]
        );
        let moved = here.clone().kernel(origins[(i as usize + 1) % 2].address);
        shim.accepted("PUT", "/v1/circuits", &json!([moved.value]))
            .await;
        assert_eq!(
            app.get(&here, "/").await.text(),
            ["odd", "even"][i as usize % 2]
        );
    }
}

#[tokio::test]
async fn what_was_pushed_is_listed() {
    let origin = Origin::fixed("").await;
    let (first, second) = (circuit(1).kernel(origin.address), circuit(2).at_slot(1));
    let app = TestApp::worker().await;
    let mut shim = app.shim().await;
    let created = shim
        .call("POST", "/v1/circuits", &json!([first.value, second.value]))
        .await;
    assert_eq!(created.status, 201);
    let again = shim.call("POST", "/v1/circuits", &first.value).await;
    assert_eq!(again.status, 200);
    let all = shim.accepted("GET", "/v1/circuits", &Value::Null).await;
    assert_eq!(all["circuits"].as_array().unwrap().len(), 2);
    assert_eq!(all["generation"], app.generation());
    let one = shim
        .accepted("GET", &format!("/v1/circuits/{}", first.id), &Value::Null)
        .await;
    assert_eq!(one["subdomain"], "c1");
    shim.accepted("PUT", "/v1/circuits", &json!([])).await;
    let none = shim.accepted("GET", "/v1/circuits", &Value::Null).await;
    assert_eq!(none["circuits"], json!([]));
}

#[tokio::test]
async fn announcing_a_live_circuit_again_keeps_its_websocket_and_publishes_nothing() {
    let echo = ws::echo_origin().await;
    let circuit = circuit(1).kernel(echo.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut socket = ws::open(app.wildcard(), &circuit.host(), "/ws").await;
    ws::echoed(&mut socket, "before").await.unwrap();
    let before = app.generation();
    for _ in 0..10 {
        let answer = app.announce(&[&circuit]).await;
        assert_eq!(answer["changed"], false);
        assert_eq!(answer["generation"], before);
    }
    ws::echoed(&mut socket, "after").await.unwrap();
    assert_eq!(app.generation(), before);
}

#[tokio::test]
async fn a_change_of_a_circuits_description_keeps_its_websocket() {
    let echo = ws::echo_origin().await;
    let circuit = circuit(1).kernel(echo.address);
    let app = TestApp::serving(&[&circuit]).await;
    let mut socket = ws::open(app.wildcard(), &circuit.host(), "/ws").await;
    app.announce(&[&circuit.clone().with("app", json!("renamed"))])
        .await;
    ws::echoed(&mut socket, "after").await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_refused_before_anything_else() {
    let app = TestApp::worker().await;
    let mut shim = app.shim().await;
    let before = app.generation();
    let body = circuit(1).value.to_string();
    for token in [None, Some(""), Some("wrong"), Some("a secret of the test")] {
        for (method, path, body) in [
            ("GET", "/v1/circuits", ""),
            ("POST", "/v1/circuits", body.as_str()),
            ("PUT", "/v1/circuits", "not JSON"),
            ("DELETE", "/v1/circuits/not-a-uuid", ""),
        ] {
            let reply = shim.call_as(token, method, path, body).await;
            assert_eq!(reply.status, 401, "{token:?} {method} {path}");
            assert_eq!(reply.header("content-type"), "application/problem+json");
            assert!(!reply.text().contains(SECRET));
        }
    }
    assert_eq!(app.generation(), before);
}

#[tokio::test]
async fn a_refused_push_changes_nothing_and_names_field_and_reason() {
    let origin = Origin::fixed("here").await;
    let live = circuit(1).kernel(origin.address);
    let good = circuit(2).kernel(origin.address);
    let app = TestApp::serving(&[&live]).await;
    let mut shim = app.shim().await;
    let before = shim.accepted("GET", "/v1/circuits", &Value::Null).await;
    let bad = |field: &str, value: Value| json!([good.value, circuit(3).with(field, value).value]);
    let unknown = format!("/v1/circuits/{}", circuit(99).id);
    let unknown_routes = format!("{unknown}/routes");
    let live_routes = format!("/v1/circuits/{}/routes", live.id);
    let port = json!([{"kernel_host": "127.0.0.1", "kernel_port": 0}]);
    for (status, method, path, body, named) in [
        (
            400,
            "POST",
            "/v1/circuits",
            bad("subdomain", json!("a.b")),
            "circuits[1].subdomain",
        ),
        (
            400,
            "PUT",
            "/v1/circuits",
            bad("open_to_public", json!(false)),
            "open_to_public",
        ),
        (
            400,
            "POST",
            "/v1/circuits",
            circuit(3).at_slot(77).value,
            "port",
        ),
        (
            400,
            "POST",
            "/v1/circuits",
            bad("id", json!("no uuid")),
            "UUID",
        ),
        (400, "POST", "/v1/circuits", json!("text"), ""),
        (400, "PUT", &live_routes, port, "route_info[0].kernel_port"),
        (
            409,
            "POST",
            "/v1/circuits",
            json!([good.value, good.value]),
            "circuits[1].id",
        ),
        (
            409,
            "PUT",
            "/v1/circuits",
            bad("subdomain", json!("c2")),
            "circuits[1].subdomain",
        ),
        (404, "DELETE", &unknown, Value::Null, ""),
        (404, "PUT", &unknown_routes, json!([]), ""),
        (404, "GET", &unknown, Value::Null, ""),
    ] {
        let reply = shim.call(method, path, &body).await;
        assert_eq!(
            reply.status,
            status,
            "{method} {path} {body}: {}",
            reply.text()
        );
        assert_eq!(
            reply.header("content-type"),
            "application/problem+json",
            "{body}"
        );
        let problem = reply.json();
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap().contains(named),
            "{problem}"
        );
    }
    let after = shim.accepted("GET", "/v1/circuits", &Value::Null).await;
    assert_eq!(after, before);
    assert_eq!(app.generation(), before["generation"]);
    assert_eq!(app.get(&live, "/").await.text(), "here");
    assert_eq!(
        app.get(&good, "/").await.status,
        400,
        "nothing of a refused push is served"
    );
}

#[tokio::test]
async fn a_second_circuit_on_a_slot_replaces_the_first() {
    let (old, new) = (Origin::fixed("old").await, Origin::fixed("new").await);
    let first = circuit(1).kernel(old.address).at_slot(1);
    let second = circuit(2).kernel(new.address).at_slot(1);
    let app = TestApp::serving(&[&first]).await;
    app.announce(&[&second]).await;
    assert_eq!(app.get(&second, "/").await.text(), "new");
    let all = app
        .shim()
        .await
        .accepted("GET", "/v1/circuits", &Value::Null)
        .await;
    assert_eq!(all["circuits"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_places_get_our_answers_and_no_kernel() {
    let app = TestApp::worker().await;
    for (at, host, path, status, text) in [
        (app.wildcard(), format!("x.{DOMAIN}"), "/", 400, "E20009"),
        (app.wildcard(), DOMAIN.to_owned(), "/", 400, "E20009"),
        (app.slot(1), "x".to_owned(), "/", 400, "Unregistered slot 1"),
        (app.path(), "x".to_owned(), "/", 404, "Unknown URL path."),
        (
            app.path(),
            "x".to_owned(),
            "/a/b/c",
            404,
            "Unknown URL path.",
        ),
    ] {
        let reply = get(at, &host, path).await;
        assert_eq!(reply.status, status, "{host} {path}");
        assert!(reply.text().contains(text), "{}", reply.text());
        assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    }
}
