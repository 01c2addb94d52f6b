//! The example of a filter that is not in the program.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::client::{Http1, empty, get, request};
use crate::support::origin::Origin;

// Its `main` is for whoever runs it.
#[allow(dead_code, reason = "only the filter is used here")]
#[path = "../../examples/custom_filter.rs"]
mod custom_filter;

#[tokio::test]
async fn a_filter_from_outside_stands_in_a_chain() {
    let origin = Origin::fixed("in").await;
    let all = json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let mut manager = http(&json!({"route_config": routes(&all)}));
    let greet = json!({"name": "greet", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.StringValue", "value": "hi"}});
    let chain = manager["typed_config"]["http_filters"].as_array_mut();
    chain.unwrap().insert(0, greet);
    let text = bootstrap(
        &[listener("web", &manager)],
        &[cluster("a", origin.address)],
    );
    let text = text.to_string();
    assert!(
        TestApp::try_bootstrap(&text).await.is_err(),
        "nobody knows it unless it is brought along"
    );
    let app = TestApp::with_filters(&text, custom_filter::FILTERS).await;
    let web = app.listener("web");
    let reply = get(web, "app.test", "/").await;
    assert_eq!(
        (reply.text().as_str(), reply.header("x-greeting")),
        ("in", "hi")
    );
    let rude = request("GET", "app.test", "/").header("x-rude", "1");
    let mut client = Http1::connect(web).await;
    let reply = client.send_body(rude.body(empty()).unwrap()).await;
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (403, "Please.")
    );
    assert_eq!(origin.requests().len(), 1);
}
