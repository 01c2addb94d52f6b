//! Filters that need secrets of their own.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, Reply, empty, get, request};
use crate::support::origin::{Conn, Origin};
use crate::support::{eventually, within};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn serving(
    filters: &[Value],
    route: &Value,
    origin: SocketAddr,
    idp: SocketAddr,
    secrets: &[(&str, &str)],
) -> String {
    let mut manager = http(&json!({"route_config": routes(route)}));
    let chain = manager["typed_config"]["http_filters"]
        .as_array_mut()
        .unwrap();
    for (place, filter) in filters.iter().enumerate() {
        chain.insert(place, filter.clone());
    }
    let clusters = [cluster("a", origin), cluster("idp", idp)];
    let mut text = bootstrap(&[listener("web", &manager)], &clusters);
    let secret = |(name, text): &(&str, &str)| json!({"name": name, "generic_secret": {"secret": {"inline_string": text}}});
    text["static_resources"]["secrets"] = secrets.iter().map(secret).collect();
    text.to_string()
}

/// Gives tokens for anything.
async fn idp() -> Origin {
    Origin::http(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            conn.content(&head).await;
            let tokens = json!({"access_token": "at", "expires_in": 600}).to_string();
            conn.reply(200, &[], &tokens).await;
        }
    })
    .await
}

async fn ask(at: SocketAddr, path: &str, cookies: &str) -> Reply {
    let request = request("GET", "app.test", path).header("cookie", cookies);
    let request = request.body(empty()).unwrap();
    Http1::connect(at).await.send_body(request).await
}

fn cookies(reply: &Reply) -> String {
    let all = reply.headers.get_all("set-cookie").iter();
    let all = all.filter_map(|cookie| cookie.to_str().ok()?.split(';').next());
    all.collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn users_of_a_route_log_in_before_they_come_in() {
    let (app, idp) = (Origin::fixed("in").await, idp().await);
    let config = json!({
        "token_endpoint": {"uri": "http://idp.test/token", "cluster": "idp", "timeout": "5s"},
        "authorization_endpoint": "http://idp.test/authorize",
        "credentials": {"client_id": "me", "token_secret": {"name": "client"},
            "hmac_secret": {"name": "hmac"}},
        "redirect_uri": "%REQ(x-forwarded-proto)%://%REQ(:authority)%/callback",
        "redirect_path_matcher": {"path": {"exact": "/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "forward_bearer_token": true,
    });
    let filter = json!({"name": "envoy.filters.http.oauth2",
        "typed_config": {"@type": format!("{FILTERS}.oauth2.v3.OAuth2")}});
    let route = json!([
        {"match": {"path": "/open"}, "route": {"cluster": "a"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}, "typed_per_filter_config": {
            "envoy.filters.http.oauth2": {
                "@type": format!("{FILTERS}.oauth2.v3.OAuth2PerRoute"), "config": config}}},
    ]);
    let secrets = [("client", "c secret"), ("hmac", "a secret for signatures")];
    let text = serving(&[filter], &route, app.address, idp.address, &secrets);
    let running = TestApp::bootstrap(&text).await;
    let web = running.listener("web");
    assert_eq!(get(web, "app.test", "/open").await.text(), "in");
    let begun = ask(web, "/page", "").await;
    assert_eq!(begun.status, 302, "{}", begun.text());
    let location = begun.header("location").to_owned();
    assert!(
        location.starts_with("http://idp.test/authorize?"),
        "{location}"
    );
    let state = location
        .split('&')
        .find_map(|pair| pair.strip_prefix("state="));
    let back = format!("/callback?code=c0de&state={}", state.unwrap());
    let back = ask(web, &back, &cookies(&begun)).await;
    assert_eq!(back.status, 302, "{}", back.text());
    assert_eq!(back.header("location"), "http://app.test/page");
    let inside = ask(web, "/page", &cookies(&back)).await;
    assert_eq!(inside.text(), "in");
    assert_eq!(
        app.requests().last().unwrap().header("authorization"),
        "Bearer at"
    );
    assert_eq!(idp.requests()[0].target, "/token");
    assert_eq!(ask(web, "/page", "OauthHMAC=x").await.status, 302);
}

#[tokio::test]
async fn a_credential_of_ours_goes_along() {
    let (app, idp) = (Origin::fixed("in").await, idp().await);
    let package = "type.googleapis.com/envoy.extensions.http.injected_credentials";
    let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let filter = |credential: &Value| {
        json!({"name": "envoy.filters.http.credential_injector", "typed_config": {
            "@type": format!("{FILTERS}.credential_injector.v3.CredentialInjector"),
            "overwrite": true,
            "credential": {"name": "x", "typed_config": credential}}})
    };
    let generic = json!({"@type": format!("{package}.generic.v3.Generic"),
        "credential": {"name": "key"}, "header": "x-api-key"});
    let token = json!({"@type": format!("{package}.oauth2.v3.OAuth2"),
        "token_endpoint": {"uri": "http://idp.test/token", "cluster": "idp", "timeout": "5s"},
        "client_credentials": {"client_id": "me", "client_secret": {"name": "client"}}});
    let filters = [filter(&generic), filter(&token)];
    let secrets = [("key", "k3y"), ("client", "s")];
    let text = serving(&filters, &all, app.address, idp.address, &secrets);
    let running = TestApp::bootstrap(&text).await;
    for _ in 0..2 {
        assert_eq!(
            get(running.listener("web"), "app.test", "/").await.text(),
            "in"
        );
        let seen = app.requests().pop().unwrap();
        assert_eq!(seen.header("x-api-key"), "k3y");
        assert_eq!(seen.header("authorization"), "Bearer at");
    }
    assert_eq!(idp.requests()[0].header("authorization"), "Basic bWU6cw==");
    // Without its secret nothing passes.
    let text = serving(&filters, &all, app.address, idp.address, &secrets[1..]);
    let running = TestApp::bootstrap(&text).await;
    assert_eq!(
        get(running.listener("web"), "app.test", "/").await.status,
        401
    );
}

#[tokio::test]
async fn a_secret_that_is_renewed_counts_for_the_next_request() {
    let app = Origin::fixed("in").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret.json");
    let write = |text: &str| {
        let secret = json!({"resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "key", "generic_secret": {"secret": {"inline_string": text}}}]});
        let beside = directory.path().join("new");
        std::fs::write(&beside, secret.to_string()).unwrap();
        std::fs::rename(&beside, &file).unwrap();
    };
    write("one");
    let package = "type.googleapis.com/envoy.extensions.http.injected_credentials";
    let generic = json!({"@type": format!("{package}.generic.v3.Generic"), "header": "x-api-key",
        "credential": {"name": "key", "sds_config": {"path_config_source": {"path": file}}}});
    let filter = json!({"name": "envoy.filters.http.credential_injector", "typed_config": {
        "@type": format!("{FILTERS}.credential_injector.v3.CredentialInjector"),
        "overwrite": true, "credential": {"name": "x", "typed_config": generic}}});
    let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let text = serving(&[filter], &all, app.address, app.address, &[]);
    let running = TestApp::bootstrap(&text).await;
    // The listener waits for the first one.
    let open = || running.running.addresses.of("web").is_some();
    eventually("the listener is open", open).await;
    let web = running.listener("web");
    for key in ["one", "two"] {
        write(key);
        let asked = async {
            loop {
                let reply = get(web, "app.test", "/").await;
                assert_eq!(reply.status, 200);
                let seen = app.requests().pop();
                if seen.is_some_and(|seen| seen.header("x-api-key") == key) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        within("the secret", asked).await;
    }
}
