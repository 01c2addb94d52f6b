//! The example that plays a management server, with a proxy started from the bootstrap it prints.

use std::net::SocketAddr;

use causeway::demo::xds::LISTENER;
use causeway::demo::xds::server::Said;
use tokio::sync::mpsc;

use self::xds_control_plane::{Args, start};
use crate::support::app::TestApp;
use crate::support::client::get;
use crate::support::process::Program;
use crate::support::{eventually, within};

// Its `main` is for whoever runs it.
#[allow(dead_code, reason = "each user of it uses a part")]
#[path = "../../examples/xds_control_plane/main.rs"]
mod xds_control_plane;

/// Reads what is said until somebody says it.
async fn heard(said: &mut mpsc::UnboundedReceiver<Said>, what: &str) {
    let hear = async {
        loop {
            let now = said.recv().await.expect("the server runs").to_string();
            assert!(!now.starts_with("refused"), "{now}");
            if now == what {
                return;
            }
        }
    };
    within(what, hear).await;
}

async fn origin(traffic: SocketAddr) -> String {
    get(traffic, "demo.test", "/").await.text()
}

async fn traffic_moves(delta: bool) {
    let args = Args {
        port: 0,
        traffic_port: 0,
        admin_port: 0,
        delta,
        step: 1.0,
    };
    let (sender, mut said) = mpsc::unbounded_channel();
    let scene = start(&args, sender).await.unwrap();
    let app = TestApp::bootstrap(&scene.bootstrap(delta, 0)).await;
    let form = if delta {
        "incremental"
    } else {
        "state of the world"
    };
    heard(&mut said, &format!("demo-proxy has connected ({form})")).await;
    heard(&mut said, "accepted: route").await;
    eventually("the listener", || {
        app.running.addresses.of(LISTENER).is_some()
    })
    .await;
    let traffic = app.listener(LISTENER);
    assert_eq!(origin(traffic).await, "blue\n");

    scene.split(0).unwrap();
    heard(&mut said, "accepted: endpoints").await;
    assert_eq!(origin(traffic).await, "green\n");

    // Half of it: within some requests both are seen.
    scene.split(50).unwrap();
    heard(&mut said, "accepted: endpoints").await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(origin(traffic).await);
    }
    assert!(seen.contains(&"blue\n".into()) && seen.contains(&"green\n".into()));

    app.shutdown().await;
}

#[tokio::test]
async fn traffic_moves_by_the_state_of_the_world() {
    traffic_moves(false).await;
}

#[tokio::test]
async fn traffic_moves_by_changes() {
    traffic_moves(true).await;
}

/// `causeway xds watch` asks for what a proxy would ask for, and says what it got.
#[tokio::test]
async fn a_watcher_sees_what_the_server_sends() {
    let args = Args {
        port: 0,
        traffic_port: 0,
        admin_port: 0,
        delta: true,
        step: 1.0,
    };
    for form in [&[][..], &["--sotw"]] {
        let (sender, _said) = mpsc::unbounded_channel();
        let scene = start(&args, sender).await.unwrap();
        let server = scene.address().to_string();
        let mut arguments = vec!["xds", "watch", "--node", "looker", "--server", &server];
        arguments.extend(form);
        let program = Program::start(&arguments);
        for wanted in [
            "ok        cluster",
            "ok        endpoints",
            "ok        listener",
            "ok        route",
        ] {
            eventually(wanted, || program.output().contains(wanted)).await;
        }
        assert!(
            !program.output().contains("rejected"),
            "{}",
            program.output()
        );
    }
}
