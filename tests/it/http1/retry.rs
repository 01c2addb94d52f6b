//! Pooled connections that turn out to be dead.

use super::{client, serving, targets};
use crate::support::client::{empty, full, request};
use crate::support::eventually;
use crate::support::origin::Origin;

/// Answers the first request of a connection; at the second it hangs up, as an origin whose idle
/// timer fires in that moment.
async fn forgetful() -> Origin {
    Origin::http(|mut conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        conn.content(&head).await;
        conn.reply(200, &[], "ok").await;
        conn.request().await;
    })
    .await
}

#[tokio::test]
async fn a_get_on_a_dead_pooled_connection_is_sent_once_more() {
    let origin = forgetful().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for i in 0..10 {
        let reply = client.get(&host, &format!("/{i}")).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (200, "ok"),
            "/{i}"
        );
    }
    eventually("the last connection has ended", || {
        let clusters = app.running.stats.clusters();
        clusters.iter().all(|(_, stats)| {
            let gone = stats.upstream_cx_total.value() - stats.upstream_cx_destroy.value();
            gone == u64::try_from(stats.upstream_cx_active.value()).unwrap()
        })
    })
    .await;
}

#[tokio::test]
async fn a_post_with_a_body_is_not_sent_twice() {
    let origin = forgetful().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    assert_eq!(client.get(&host, "/first").await.status, 200);
    let post = request("POST", &host, "/order").body(full("one")).unwrap();
    assert_eq!(client.send_body(post).await.status, 502);
    assert_eq!(targets(&origin.requests()), ["/first", "/order"]);
}

/// RFC 9110 section 9.2.2: a proxy must not automatically retry non-idempotent requests. The
/// origin may have acted on it before it hung up.
#[tokio::test]
async fn a_post_without_a_body_is_not_sent_twice() {
    let origin = forgetful().await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    assert_eq!(client.get(&host, "/first").await.status, 200);
    let post = request("POST", &host, "/restart").body(empty()).unwrap();
    assert_eq!(client.send_body(post).await.status, 502);
    assert_eq!(targets(&origin.requests()), ["/first", "/restart"]);
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_not_tried_again() {
    let origin = Origin::once(b"").await;
    let (app, host) = serving(&origin).await;
    assert_eq!(client(&app).await.get(&host, "/").await.status, 502);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_origin_has_closed_meanwhile_is_not_used() {
    let origin = Origin::http(|mut conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        conn.content(&head).await;
        conn.reply(200, &[], "ok").await;
    })
    .await;
    let (app, host) = serving(&origin).await;
    let mut client = client(&app).await;
    for _ in 0..10 {
        let post = request("POST", &host, "/").body(full("body")).unwrap();
        assert_eq!(client.send_body(post).await.status, 200);
        eventually("the proxy knows", || app.upstream_connections() == 0).await;
    }
    assert_eq!(origin.connections(), 10);
}
