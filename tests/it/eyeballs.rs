//! Endpoints with several addresses.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding, http2_cluster, listener, tcp};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::zone::Zone;
use crate::support::{Hanging, eventually, refusing};

/// Nothing that works takes nearly as long.
const LONG: &str = "25s";

/// An HTTP/1.1 origin on the other family.
async fn v6() -> Origin {
    Origin::tcp_v6(|mut stream| async move {
        let mut head = [0; 4096];
        while stream.read(&mut head).await.is_ok_and(|length| length > 0) {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv6";
            stream.write_all(answer).await.ok();
        }
    })
    .await
}

fn socket(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}

/// Adds addresses to the one endpoint of a cluster.
fn also_at(mut cluster: Value, others: &[SocketAddr]) -> Value {
    let others: Vec<Value> = others
        .iter()
        .map(|at| json!({"address": socket(*at)}))
        .collect();
    let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["additional_addresses"] = json!(others);
    cluster["connect_timeout"] = json!(LONG);
    cluster
}

async fn serving(cluster: Value) -> TestApp {
    TestApp::bootstrap(&bootstrap(&[forwarding("web", "a")], &[cluster]).to_string()).await
}

async fn answer(app: &TestApp) -> (u16, String) {
    let reply = get(app.listener("web"), "h", "/").await;
    (reply.status.as_u16(), reply.text())
}

#[tokio::test]
async fn an_address_that_refuses_or_hangs_is_passed_over() {
    let (_socket, nowhere) = refusing();
    let hanging = Hanging::start().await;
    let origin = v6().await;
    for first in [nowhere, hanging.address] {
        let app = serving(also_at(cluster("a", first), &[origin.address])).await;
        assert_eq!(answer(&app).await, (200, "v6".to_owned()));
        let stats = app.running.stats.cluster("a");
        assert_eq!(stats.upstream_cx_connect_fail.value(), 0);
        assert_eq!(stats.upstream_cx_total.value(), 1);
        // Nothing is left of what lost.
        assert_eq!(app.upstream_connections(), 1);
    }
}

#[tokio::test]
async fn the_first_address_is_taken_while_it_answers() {
    let (first, second) = (Origin::fixed("v4").await, v6().await);
    let both = also_at(cluster("a", first.address), &[second.address]);
    let app = serving(both.clone()).await;
    assert_eq!(answer(&app).await, (200, "v4".to_owned()));
    assert_eq!(second.connections(), 0);
    let mut preferred = both;
    preferred["upstream_connection_options"] =
        json!({"happy_eyeballs_config": {"first_address_family_version": "V6"}});
    let app = serving(preferred).await;
    assert_eq!(answer(&app).await, (200, "v6".to_owned()));
}

#[tokio::test]
async fn http2_and_bytes_go_where_they_can_as_well() {
    let (_socket, nowhere) = refusing();
    let service = |request: http::Request<hyper::body::Incoming>| async move {
        drop(request);
        let body = http_body_util::Full::new(bytes::Bytes::from("two"));
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    };
    let origin = Origin::tcp_v6(move |stream| async move {
        let executor = hyper_util::rt::TokioExecutor::new();
        let builder = hyper::server::conn::http2::Builder::new(executor);
        let io = hyper_util::rt::TokioIo::new(stream);
        let service = hyper::service::service_fn(service);
        // Ends with its peer, in whatever way.
        builder.serve_connection(io, service).await.ok();
    })
    .await;
    let app = serving(also_at(http2_cluster("a", nowhere), &[origin.address])).await;
    assert_eq!(answer(&app).await, (200, "two".to_owned()));

    let echo = Origin::tcp_v6(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
    })
    .await;
    let to = also_at(cluster("a", nowhere), &[echo.address]);
    let text = bootstrap(&[listener("tcp", &tcp("a", &json!({})))], &[to]).to_string();
    let app = TestApp::bootstrap(&text).await;
    let mut raw = Raw::connect(app.listener("tcp")).await;
    raw.send("hello").await;
    assert_eq!(raw.bytes(5).await, b"hello");
}

#[tokio::test]
async fn a_handshake_that_hangs_is_passed_over_too() {
    let certified = Arc::new(crate::tls::certified());
    let origin = Origin::tcp_v6(move |stream| {
        let certified = Arc::clone(&certified);
        async move { crate::tls::answer(stream, &certified).await }
    })
    .await;
    // Takes connections and never shakes hands.
    let silent = Origin::tcp(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let mut cluster = also_at(cluster("a", silent.address), &[origin.address]);
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "app.test",
    }});
    let app = serving(cluster).await;
    assert_eq!(answer(&app).await, (200, "tls".to_owned()));
    eventually("the loser is closed", || {
        silent.connections() == 1 && silent.open() == 0
    })
    .await;
}

#[tokio::test]
async fn nobody_answers_within_one_connect_timeout() {
    let (_socket, nowhere) = refusing();
    let hanging = Hanging::start().await;
    let mut cluster = also_at(cluster("a", nowhere), &[hanging.address]);
    cluster["connect_timeout"] = json!("0.6s");
    let app = serving(cluster).await;
    let (status, text) = answer(&app).await;
    assert_eq!(status, 503);
    assert!(text.ends_with("connection timeout"), "{text}");
    let stats = app.running.stats.cluster("a");
    assert_eq!(stats.upstream_cx_connect_fail.value(), 1);
    assert_eq!(stats.upstream_cx_connect_timeout.value(), 1);
}

#[tokio::test]
async fn a_logical_name_is_one_endpoint_with_all_its_addresses() {
    let zone = Zone::start().await;
    let origin = v6().await;
    let address = json!({"address": "both.kernels.test", "port_value": origin.address.port()});
    let endpoint = json!({"endpoint": {"address": {"socket_address": address}}});
    let cluster = json!({
        "name": "a",
        "type": "LOGICAL_DNS",
        "connect_timeout": LONG,
        "dns_lookup_family": "ALL",
        "dns_resolvers": [{"socket_address": {
            "protocol": "UDP", "address": "127.0.0.1", "port_value": zone.dns.port(),
        }}],
        "load_assignment": {
            "cluster_name": "a", "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    });
    let app = serving(cluster).await;
    let addresses = app.running.addresses.clone();
    eventually("the listener is open", || addresses.of("web").is_some()).await;
    // At its address of IPv4, which comes first, nobody listens on that port.
    assert_eq!(answer(&app).await, (200, "v6".to_owned()));
    assert_eq!(app.running.stats.cluster("a").membership_total.value(), 1);
}
