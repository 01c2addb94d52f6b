//! Over gRPC.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use causeway_xds::source::Extent;
use causeway_xds::type_url::ResourceType::{Cluster, LoadAssignment};

use super::*;

const SOTW: ApiProtocol = ApiProtocol::StateOfTheWorld;
const DELTA: ApiProtocol = ApiProtocol::Incremental;

/// The requests of a start, as the reference trace has them.
#[tokio::test(start_paused = true)]
async fn sotw_start() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    let first = call.next().await;
    assert_eq!(first.type_url, Cluster.type_url());
    assert!(first.resource_names.is_empty() && first.version_info.is_empty());
    assert!(first.response_nonce.is_empty());
    let node = first.node.unwrap();
    assert_eq!(node.id, "n1");
    let features = node.client_features;
    assert!(features.contains(&"xds.config.supports-resource-ttl".to_owned()));
    call.send(sotw(Cluster, "v1", "1", vec![cluster("a")]))
        .await;

    let (update, answer) = control.update().await;
    assert_eq!(update.version, "v1");
    assert_eq!(update.extent, Extent::StateOfTheWorld);
    assert_eq!(update.upserts, [cluster("a")]);
    assert_eq!(update.origin, Origin::Xds("ads".into()));
    control.subscribe(LoadAssignment, &["a"]);
    answer.send(Outcome::default()).unwrap();
    let wanted = call.next().await;
    assert_eq!(wanted.type_url, LoadAssignment.type_url());
    assert_eq!(wanted.resource_names, ["a"]);
    assert!(wanted.node.is_none(), "on the first message only");
    let ack = call.next().await;
    assert_eq!(ack.type_url, Cluster.type_url());
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("v1", "1"));
    assert!(ack.error_detail.is_none());

    call.send(sotw(LoadAssignment, "e1", "2", vec![endpoints("a")]))
        .await;
    let update = control.accept().await;
    assert_eq!(update.extent, Extent::Incremental);
    let ack = call.next().await;
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("e1", "2"));
    assert_eq!(ack.resource_names, ["a"]);

    let of = control.status.of(Cluster);
    assert_eq!(of.update_attempt.load(Relaxed), 1);
    assert_eq!(of.update_success.load(Relaxed), 1);
    assert_eq!(of.version(), "v1");
    assert!(of.bytes.load(Relaxed) > 0 && of.updated_at.load(Relaxed) > 0);
    assert!(control.status.is_connected() && control.status.server() == "first");
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delta_start() {
    let mut server = Double::start("first");
    let mut control = Control::start(DELTA, &[&server]);
    control.all(Cluster);
    let mut call = server.delta().await;
    let first = call.next().await;
    assert_eq!(first.type_url, Cluster.type_url());
    assert!(first.resource_names_subscribe.is_empty() && first.node.is_some());
    call.send(delta(Cluster, "1", &[("a", "v1", cluster("a"))], &[]))
        .await;
    let (update, answer) = control.update().await;
    assert_eq!(update.extent, Extent::Incremental);
    assert_eq!(update.upserts, [cluster("a")]);
    control.subscribe(LoadAssignment, &["a"]);
    answer.send(Outcome::default()).unwrap();
    let wanted = call.next().await;
    assert_eq!(wanted.resource_names_subscribe, ["a"]);
    assert!(wanted.response_nonce.is_empty());
    let ack = call.next().await;
    assert_eq!(
        (&*ack.type_url, &*ack.response_nonce),
        (&*Cluster.type_url(), "1")
    );
    // What does not exist is a removal.
    call.send(delta(LoadAssignment, "2", &[], &["a"])).await;
    let update = control.accept().await;
    assert_eq!(update.removals, ["a"]);
    assert_eq!(call.next().await.response_nonce, "2");
    control.unsubscribe(LoadAssignment, &["a"]);
    let request = call.next().await;
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    assert!(request.response_nonce.is_empty());
    control.stop().await;
}

/// One bad resource is named, and the others are in use.
#[tokio::test(start_paused = true)]
async fn nack_of_one_resource() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    call.send(sotw(Cluster, "v1", "1", vec![cluster("a")]))
        .await;
    control.accept().await;
    assert_eq!(call.next().await.version_info, "v1");
    call.send(sotw(Cluster, "v2", "2", vec![cluster("a"), cluster("b")]))
        .await;
    control.refuse("b", "unknown").await;
    let nack = call.next().await;
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v1", "2"));
    let error = nack.error_detail.unwrap();
    assert_eq!(error.code, 13);
    assert_eq!(
        error.message,
        "1 of 2 clusters rejected. cluster \"b\": type: unknown"
    );
    // Nothing of it reaches control.
    let broken = Any {
        type_url: Cluster.type_url(),
        value: b"\x0a\xff\xff\xff\xff\x7fgarbage".to_vec(),
    };
    call.send(sotw(Cluster, "v3", "3", vec![cluster("a"), broken]))
        .await;
    let nack = call.next().await;
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("v1", "3"));
    assert!(
        nack.error_detail
            .unwrap()
            .message
            .contains("resources[1]: cannot be read")
    );
    assert!(control.batches.try_recv().is_err());
    let mut old = sotw(Cluster, "v4", "4", vec![]);
    old.type_url = "type.googleapis.com/envoy.api.v2.Cluster".to_owned();
    call.send(old).await;
    let nack = call.next().await;
    assert_eq!(nack.type_url, "type.googleapis.com/envoy.api.v2.Cluster");
    assert!(nack.error_detail.unwrap().message.contains("version 3"));
    let of = control.status.of(Cluster);
    assert_eq!(of.update_rejected.load(Relaxed), 2);
    assert_eq!(of.version(), "v1");
    control.stop().await;
}

/// Both ends of a stream lead to a new one, with what is known.
#[tokio::test(start_paused = true)]
async fn sotw_reconnects() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    call.send(sotw(Cluster, "v1", "1", vec![cluster("a")]))
        .await;
    control.accept().await;
    call.next().await;
    control.subscribe(LoadAssignment, &["b", "a"]);
    call.next().await;
    drop(call);
    for end in [None, Some(tonic::Status::unavailable("going"))] {
        let mut call = server.sotw().await;
        let first = call.next().await;
        assert_eq!((&*first.version_info, &*first.response_nonce), ("v1", ""));
        assert!(first.resource_names.is_empty() && first.node.is_some());
        let second = call.next().await;
        assert_eq!(second.resource_names, ["a", "b"]);
        assert!(second.version_info.is_empty() && second.node.is_none());
        // While away, interest changes.
        if let Some(end) = end {
            call.responses.send(Err(end)).await.unwrap();
        }
    }
    assert!(control.status.of(Cluster).update_failure.load(Relaxed) >= 2);
    control.unsubscribe(LoadAssignment, &["a"]);
    // The unsubscription may still have come onto the stream that was just opened.
    let mut call = server.sotw().await;
    call.next().await;
    let mut names = call.next().await.resource_names;
    if names.len() == 2 {
        names = call.next().await.resource_names;
    }
    assert_eq!(names, ["b"]);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn delta_reconnects() {
    let mut server = Double::start("first");
    let mut control = Control::start(DELTA, &[&server]);
    control.all(Cluster);
    let mut call = server.delta().await;
    call.next().await;
    let resources = [("a", "v1", cluster("a")), ("b", "v1", cluster("b"))];
    call.send(delta(Cluster, "1", &resources, &[])).await;
    control.accept().await;
    call.next().await;
    call.send(delta(Cluster, "2", &[("b", "v2", cluster("b"))], &["a"]))
        .await;
    control.refuse("b", "bad").await;
    assert!(call.next().await.error_detail.is_some());
    drop(call);
    let mut call = server.delta().await;
    let first = call.next().await;
    assert!(first.resource_names_subscribe.is_empty());
    let versions = first.initial_resource_versions;
    assert_eq!(versions.len(), 1);
    assert_eq!(versions["b"], "v1", "what is in use, not what was refused");
    control.stop().await;
}

/// Attempts get rare, and never rarer than the limit.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_tried_again() {
    let mut server = Double::start("first");
    server.dialer.up.store(false, SeqCst);
    let control = Control::start(SOTW, &[&server]);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(server.dialer.dialed.load(SeqCst), 0, "nothing is asked for");
    control.all(Cluster);
    tokio::time::sleep(seconds(300)).await;
    let dialed = server.dialer.dialed.load(SeqCst);
    assert!((60..400).contains(&dialed), "{dialed} attempts in 300 s");
    assert!(!control.status.is_connected());
    server.dialer.up.store(true, SeqCst);
    let since = tokio::time::Instant::now();
    server.sotw().await.next().await;
    assert!(since.elapsed() <= BACKOFF_MAX + seconds(1));
    control.stop().await;
}

/// A server that says nothing is waited for: there is no other, and the stream is open.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_holds_nothing_up() {
    let mut server = Double::start("first");
    let control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    tokio::time::sleep(seconds(3600)).await;
    control.subscribe(LoadAssignment, &["a"]);
    assert_eq!(call.next().await.resource_names, ["a"]);
    assert_eq!(server.dialer.dialed.load(SeqCst), 1);
    control.stop().await;
}

/// A message over the limit ends the stream, and the next one is as good as the first.
#[tokio::test(start_paused = true)]
async fn an_oversized_message_is_not_taken() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    let name = "x".repeat(server.server.max_message);
    call.send(sotw(Cluster, "v1", "1", vec![cluster(&name)]))
        .await;
    let mut call = server.sotw().await;
    assert!(call.next().await.version_info.is_empty());
    call.send(sotw(Cluster, "v2", "1", vec![cluster("a")]))
        .await;
    assert_eq!(control.accept().await.version, "v2");
    assert_eq!(call.next().await.version_info, "v2");
    control.stop().await;
}

/// A server that sends faster than its messages are applied has to wait.
#[tokio::test(start_paused = true)]
async fn a_flood_is_held_back() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    let name = "x".repeat(server.server.max_message / 2);
    let flood = |n: u32| {
        sotw(
            Cluster,
            &n.to_string(),
            &n.to_string(),
            vec![cluster(&name)],
        )
    };
    let (update, answer) = {
        let mut sent = 0;
        // Windows and buffers hold a few of them.
        while let Ok(result) =
            tokio::time::timeout(seconds(10), call.responses.send(Ok(flood(sent)))).await
        {
            result.unwrap();
            sent += 1;
            assert!(sent < 100, "nothing holds the server back");
        }
        control.update().await
    };
    assert_eq!(update.version, "0");
    assert!(control.batches.try_recv().is_err(), "one after the other");
    answer.send(Outcome::default()).unwrap();
    assert_eq!(call.next().await.response_nonce, "0");
    assert_eq!(control.accept().await.version, "1");
    assert_eq!(call.next().await.response_nonce, "1");
    control.stop().await;
}

/// A second server is asked when the first cannot be reached, and left when it is back.
#[tokio::test(start_paused = true)]
async fn servers_are_used_in_order() {
    let mut first = Double::start("first");
    let mut second = Double::start("second");
    first.dialer.up.store(false, SeqCst);
    let mut control = Control::start(DELTA, &[&first, &second]);
    control.all(Cluster);
    let mut call = second.delta().await;
    call.next().await;
    call.send(delta(Cluster, "1", &[("a", "v1", cluster("a"))], &[]))
        .await;
    control.accept().await;
    call.next().await;
    assert_eq!(control.status.server(), "second");
    first.dialer.up.store(true, SeqCst);
    let mut call = first.delta().await;
    let versions = call.next().await.initial_resource_versions;
    assert_eq!(versions["a"], "", "another server's version says nothing");
    call.send(delta(Cluster, "1", &[], &["a"])).await;
    assert_eq!(control.accept().await.removals, ["a"]);
    call.next().await;
    // It gave the configuration: it is given time to come back.
    first.dialer.up.store(false, SeqCst);
    drop(call);
    let since = tokio::time::Instant::now();
    second.delta().await.next().await;
    assert!(since.elapsed() >= seconds(30));
    control.stop().await;
}

/// A server that is there but says nothing is no better than one that is not.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_for_another() {
    let mut first = Double::start("first");
    let mut second = Double::start("second");
    let control = Control::start(SOTW, &[&first, &second]);
    control.all(Cluster);
    let mut call = first.sotw().await;
    call.next().await;
    second.sotw().await.next().await;
    control.stop().await;
}

/// Metadata is on the stream.
#[tokio::test(start_paused = true)]
async fn metadata_is_sent() {
    use causeway_xds::resource::api_source::Metadata;
    let mut server = Double::start("first");
    server.server.metadata = Metadata(vec![
        ("Authorization".to_owned(), b"Bearer x".to_vec()),
        ("key-bin".to_owned(), vec![0, 255]),
    ]);
    let control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let call = server.sotw().await;
    assert_eq!(call.metadata.get("authorization").unwrap(), "Bearer x");
    let bytes = call
        .metadata
        .get_bin("key-bin")
        .unwrap()
        .to_bytes()
        .unwrap();
    assert_eq!(bytes.as_ref(), [0, 255]);
    let agent = call.metadata.get("user-agent").unwrap().to_str().unwrap();
    assert!(agent.starts_with("causeway/"), "{agent}");
    control.stop().await;
}

/// A connection that nothing comes from is given up.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed() {
    use causeway_xds::client::server::Keepalive;
    let mut server = Double::start("first");
    server.server.keepalive = Some(Keepalive {
        interval: seconds(20),
        timeout: seconds(5),
    });
    server.dialer.dead.store(true, SeqCst);
    let control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let since = tokio::time::Instant::now();
    tokio::time::sleep(seconds(19)).await;
    assert_eq!(server.dialer.dialed.load(SeqCst), 1);
    server.dialer.dead.store(false, SeqCst);
    let mut call = server.sotw().await;
    call.next().await;
    assert!((seconds(20)..seconds(30)).contains(&since.elapsed()));
    // One that answers stays.
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(server.dialer.dialed.load(SeqCst), 2);
    control.stop().await;
}

/// End to end: control hears of what ran out, without anything from the server.
#[tokio::test(start_paused = true)]
async fn resources_run_out() {
    let mut server = Double::start("first");
    let mut control = Control::start(DELTA, &[&server]);
    control.all(Cluster);
    let mut call = server.delta().await;
    call.next().await;
    let mut limited = delta(Cluster, "1", &[("a", "v1", cluster("a"))], &[]);
    limited.resources[0].ttl = Some(causeway_xds::proto::Duration {
        seconds: 60,
        nanos: 0,
    });
    let since = tokio::time::Instant::now();
    call.send(limited.clone()).await;
    control.accept().await;
    call.next().await;
    tokio::time::sleep(seconds(50)).await;
    limited.nonce = "2".to_owned();
    limited.resources[0].resource = None;
    call.send(limited).await;
    assert_eq!(call.next().await.response_nonce, "2");
    let mut batch = control.batches.recv().await.unwrap();
    assert!(since.elapsed() >= seconds(110), "{:?}", since.elapsed());
    let update = batch.updates.remove(0);
    assert_eq!((update.kind, &update.removals[0][..]), (Cluster, "a"));
    assert!(batch.answer.is_none() && update.upserts.is_empty());
    control.stop().await;
}

/// A batch that control drops is not acknowledged.
#[tokio::test(start_paused = true)]
async fn what_is_not_applied_is_not_acknowledged() {
    let mut server = Double::start("first");
    let mut control = Control::start(SOTW, &[&server]);
    control.all(Cluster);
    let mut call = server.sotw().await;
    call.next().await;
    call.send(sotw(Cluster, "v1", "1", vec![cluster("a")]))
        .await;
    drop(control.update().await);
    let nack = call.next().await;
    assert!(nack.version_info.is_empty() && nack.error_detail.is_some());
    control.stop().await;
}

/// A client for one type uses the service of that type.
#[tokio::test(start_paused = true)]
async fn a_type_has_a_service_of_its_own() {
    let mut server = Double::start("first");
    let mut control = Control::of(
        Scope::Only(LoadAssignment),
        DELTA,
        vec![server.server.clone()],
    );
    control.all(Cluster);
    control.subscribe(LoadAssignment, &["a"]);
    let mut call = server.endpoints().await;
    let request = call.next().await;
    assert_eq!(request.type_url, LoadAssignment.type_url());
    assert_eq!(request.resource_names_subscribe, ["a"]);
    call.send(delta(
        LoadAssignment,
        "1",
        &[("a", "v1", endpoints("a"))],
        &[],
    ))
    .await;
    control.accept().await;
    assert_eq!(call.next().await.response_nonce, "1");
    control.stop().await;
}
