//! The example that plays a Coordinator, with a worker that was started from the file it prints.

use std::path::Path;
use std::time::Duration;

use causeway::config::WorkerConfig;

use self::fake_coordinator::{Args, Fake};
use crate::support::app::TestApp;
use crate::support::client::{Http1, empty, get, request};
use crate::support::origin::Origin;
use crate::support::within;

// Its `main` is for whoever runs it.
#[allow(dead_code, reason = "each user of it uses a part")]
#[path = "../../examples/fake_coordinator/main.rs"]
mod fake_coordinator;

#[tokio::test]
async fn a_worker_is_led_from_registration_to_removal() {
    let origin = Origin::echo().await;
    let args = Args {
        app: origin.address,
        authority: "worker-1".into(),
        coordinator_port: 0,
        redis_port: 0,
        api_port: 0,
        traffic_port: 0,
    };
    let fake = Fake::start(args).await.unwrap();
    let mut config = WorkerConfig::parse(&fake.worker_file(), Path::new("worker.toml")).unwrap();
    config.causeway.kernel_check_period = Duration::ZERO;
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    // Ports that other tests may have.
    config.causeway.management.set_port(0);
    config.causeway.path_frontend = None;
    let app = TestApp::with(config).await;
    within("the registration", fake.registered()).await;
    for (field, body) in fake.bodies() {
        fake.create(field, body).await.unwrap();
    }
    let host = "app-demo.apps.localhost";
    assert_eq!(get(app.wildcard(), host, "/").await.status, 401);

    // The worker of this test has its ports from the system, so the link is followed by hand.
    let link = fake.setup_link().unwrap();
    let (_, token) = link.split_once("/setup").unwrap();
    let api = app.running.api.unwrap();
    let way_in = get(api, "localhost", &format!("/setup{token}")).await;
    assert_eq!(way_in.status, 302, "{}", way_in.text());
    let location = way_in.header("location");
    assert!(
        location.starts_with("http://app-demo.apps.localhost:"),
        "{location}"
    );
    let cookie = way_in
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let asked = request("GET", host, "/")
        .header("cookie", cookie)
        .body(empty());
    let mut client = Http1::connect(app.wildcard()).await;
    assert_eq!(client.send_body(asked.unwrap()).await.status, 200);

    fake.remove();
    let circuits = app.running.circuits.clone().unwrap();
    let gone = async {
        while !circuits.list().await.1.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the removal", gone).await;
    app.shutdown().await;
}
