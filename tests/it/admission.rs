//! How many connections clients may have.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{eventually, within};

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let origin = Origin::http(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.reply(200, &[], "here").await;
        }
    })
    .await;
    let mut limited = forwarding("limited", "c");
    limited["stat_prefix"] = json!("limited");
    let mut free = forwarding("free", "c");
    free["ignore_global_conn_limit"] = json!(true);
    let mut text = bootstrap(&[limited, free], &[cluster("c", origin.address)]);
    let kind = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.\
                DownstreamConnectionsConfig";
    let config = json!({"@type": kind, "max_active_downstream_connections": 1});
    text["overload_manager"] =
        json!({"resource_monitors": [{"name": "connections", "typed_config": config}]});
    let app = TestApp::bootstrap(&text.to_string()).await;
    let at = app.listener("limited");

    let mut first = Raw::connect(at).await;
    let mut ask = async || {
        first.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        first.answer().await.text()
    };
    assert_eq!(ask().await, "here");
    let mut second = TcpStream::connect(at).await.unwrap();
    let read = within("the end of a connection", second.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "it is closed");
    // Those before go on, and so do others that are not counted.
    assert_eq!(ask().await, "here");
    assert_eq!(get(app.listener("free"), "a", "/").await.text(), "here");
    let stats = app.running.stats.listener("limited");
    assert_eq!(stats.downstream_global_cx_overflow.value(), 1);
    // A place that becomes free is taken again.
    drop(first);
    eventually("there is a place", || {
        stats.downstream_cx_active.value() == 0
    })
    .await;
    assert_eq!(get(at, "a", "/").await.text(), "here");
}
