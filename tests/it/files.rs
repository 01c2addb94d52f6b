//! Resources from files, followed while the program runs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::TestApp;
use crate::support::bootstrap::{assignment, cluster, http, listener, routes, tcp};
use crate::support::client::{Http1, get};
use crate::support::origin::Origin;
use crate::support::raw::Raw;
use crate::support::{DEADLINE, eventually, tcp_echo, within, ws};

const TYPES: [(&str, &str); 4] = [
    ("lds", "envoy.config.listener.v3.Listener"),
    ("cds", "envoy.config.cluster.v3.Cluster"),
    ("rds", "envoy.config.route.v3.RouteConfiguration"),
    ("eds", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
];

/// A directory with one file per kind of resource.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn path(&self, kind: &str) -> PathBuf {
        self.directory.path().join(format!("{kind}.json"))
    }

    /// Replaces a file as it should be done: written beside, then moved over.
    fn write(&self, kind: &str, resources: &[Value]) {
        let (_, message) = TYPES.iter().find(|(k, _)| *k == kind).unwrap();
        let typed = resources.iter().map(|resource| {
            let mut typed = resource.clone();
            typed["@type"] = json!(format!("type.googleapis.com/{message}"));
            typed
        });
        self.write_text(
            kind,
            &json!({"resources": typed.collect::<Vec<_>>()}).to_string(),
        );
    }

    fn write_text(&self, kind: &str, text: &str) {
        replace(&self.path(kind), text);
    }

    fn source(&self, kind: &str) -> Value {
        json!({"resource_api_version": "V3", "path_config_source": {"path": self.path(kind)}})
    }

    /// Everything from files: a listener, its routes, a cluster, its endpoints.
    fn all(origin: &Origin) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let rds = json!({"route_config_name": "r", "config_source": files.source("rds")});
        files.write(
            "lds",
            &[listener(
                "web",
                &http(&json!({"rds": rds,
            "upgrade_configs": [{"upgrade_type": "websocket"}]})),
            )],
        );
        files.write("rds", &[to("/")]);
        files.write(
            "cds",
            &[json!({
                "name": "a", "type": "EDS",
                "eds_cluster_config": {"eds_config": files.source("eds")},
            })],
        );
        files.write("eds", &[assignment("a", origin.address)]);
        files
    }

    async fn app(&self) -> TestApp {
        let bootstrap = json!({
            "node": {"id": "n", "cluster": "c"},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "dynamic_resources":
                {"lds_config": self.source("lds"), "cds_config": self.source("cds")},
        });
        let app = TestApp::bootstrap(&bootstrap.to_string()).await;
        until(&app, "/", |status, _| status == 200).await;
        app
    }
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

fn to(prefix: &str) -> Value {
    routes(&json!([{"match": {"prefix": prefix}, "route": {"cluster": "a"}}]))
}

/// Asks again until the answer is as wanted.
async fn until(app: &TestApp, path: &str, wanted: impl Fn(u16, &str) -> bool) {
    let start = Instant::now();
    loop {
        let mut last = None;
        if let Some(web) = app.running.addresses.of("web") {
            let reply = get(web, "x", path).await;
            if wanted(reply.status.as_u16(), &reply.text()) {
                return;
            }
            last = Some(reply);
        }
        assert!(start.elapsed() < DEADLINE, "{path} still is {last:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn dump_until(app: &TestApp, wanted: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let dump = app.admin("/config_dump?include_eds").await.text();
        if wanted(&dump) {
            return dump;
        }
        assert!(start.elapsed() < DEADLINE, "still {dump}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn everything_may_come_from_files_and_change_while_it_runs() {
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let files = Files::all(&one);
    let app = files.app().await;
    until(&app, "/", |_, text| text == "one").await;

    files.write("eds", &[assignment("a", two.address)]);
    until(&app, "/", |_, text| text == "two").await;
    files.write("rds", &[to("/only")]);
    until(&app, "/", |status, _| status == 404).await;
    until(&app, "/only", |_, text| text == "two").await;
    files.write("cds", &[]);
    until(&app, "/only", |status, _| status == 503).await;
}

#[tokio::test]
async fn a_change_of_files_keeps_connections() {
    let echo = ws::echo_origin().await;
    let origin = Origin::fixed("x").await;
    let files = Files::all(&origin);
    let app = files.app().await;
    files.write("eds", &[assignment("a", echo.address)]);
    // Whoever answers a plain GET with something else than 200 is the WebSocket origin.
    until(&app, "/", |status, _| status != 200).await;
    let mut socket = ws::open(app.listener("web"), "x", "/").await;
    let mut kept = Http1::connect(app.listener("web")).await;
    for prefix in ["/a", "/", "/b", "/"] {
        files.write("rds", &[to(prefix)]);
        until(&app, "/", |status, _| (status == 404) == (prefix != "/")).await;
        ws::echoed(&mut socket, prefix).await.unwrap();
    }
    assert_eq!(kept.get("x", "/").await.header("connection"), "");
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_state_and_is_reported() {
    let (origin, other) = (Origin::fixed("good").await, Origin::fixed("other").await);
    let files = Files::all(&origin);
    let app = files.app().await;
    let before = app.generation();

    files.write_text(
        "rds",
        "{\"resources\": [{\"@type\": \
         \"type.googleapis.com/envoy.config.route.v3.RouteConfiguration\",\n\"name\": \"r\",\n\
         \"virtual_hosts\": [{\"name\": \"v\", \"domains\": []}]}]}",
    );
    let dump = dump_until(&app, |dump| dump.contains("error_state")).await;
    assert!(
        dump.contains("domains"),
        "the reason names the field: {dump}"
    );
    let place = format!("{}: line 3, column 33: ", files.path("rds").display());
    assert!(dump.contains(&place), "{place}: {dump}");
    assert_eq!(app.generation(), before);
    until(&app, "/", |_, text| text == "good").await;

    // What is in force again is no change, but what was wrong is over.
    files.write("rds", &[to("/")]);
    dump_until(&app, |dump| !dump.contains("error_state")).await;
    assert_eq!(app.generation(), before);

    files.write_text("eds", "{\"resources\": [");
    files.write("rds", &[to("/only")]);
    until(&app, "/", |status, _| status == 404).await;
    until(&app, "/only", |_, text| text == "good").await;
    files.write("eds", &[assignment("a", other.address)]);
    until(&app, "/only", |_, text| text == "other").await;
}

#[tokio::test]
async fn an_equal_file_is_no_change() {
    let (origin, other) = (Origin::fixed("x").await, Origin::fixed("y").await);
    let files = Files::all(&origin);
    let app = files.app().await;
    let before = app.generation();
    for _ in 0..5 {
        files.write("rds", &[to("/")]);
        files.write(
            "lds",
            &[
                serde_json::from_str::<Value>(&std::fs::read_to_string(files.path("lds")).unwrap())
                    .unwrap()["resources"][0]
                    .clone(),
            ],
        );
    }
    // A real change behind them: once it is seen, the others have been seen too, or were equal.
    files.write("eds", &[assignment("a", other.address)]);
    until(&app, "/", |_, text| text == "y").await;
    assert_eq!(
        app.generation(),
        before + 1,
        "one generation for one change"
    );
}

#[tokio::test]
async fn a_listener_that_leaves_its_file_is_closed_and_one_that_comes_is_opened() {
    let origin = Origin::fixed("x").await;
    let files = Files::all(&origin);
    let app = files.app().await;
    let ok = routes(&json!([{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]));
    let other = listener("other", &http(&json!({"route_config": ok})));
    files.write("lds", &[other]);
    let gone = crate::support::eventually("the new one is open, the old one gone", || {
        let of = |name| app.running.addresses.of(name);
        of("other").is_some() && of("web").is_none()
    });
    gone.await;
    assert_eq!(get(app.listener("other"), "x", "/").await.status, 204);
}

#[tokio::test]
async fn what_network_filters_have_counted_outlives_a_change_of_their_listener() {
    let origin = Origin::fixed("x").await;
    let files = Files::all(&origin);
    let app = files.app().await;
    let echo = tcp_echo().await;
    let before = app.generation();
    files.write("cds", &[cluster("e", echo.address)]);
    eventually("its cluster is there", || app.generation() > before).await;
    let limited = |max: u32, timeout: &str| {
        let limit = json!({"name": "limit", "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
            "stat_prefix": "c", "max_connections": max,
        }});
        let mut listener = listener("echo", &limit);
        let filters = listener["filter_chains"][0]["filters"]
            .as_array_mut()
            .unwrap();
        filters.push(tcp("e", &json!({})));
        listener["listener_filters_timeout"] = json!(timeout);
        listener
    };
    let change = async |max: u32, timeout: &str| {
        let before = app.generation();
        files.write("lds", &[limited(max, timeout)]);
        eventually("the change", || app.generation() > before).await;
    };
    change(1, "1s").await;
    eventually("it is open", || app.running.addresses.of("echo").is_some()).await;
    let at = app.listener("echo");
    let mut first = Raw::connect(at).await;
    first.send("one").await;
    assert_eq!(first.bytes(3).await, b"one");
    change(1, "2s").await;
    // Data threads hear of a change one after the other, and a little later.
    for _ in 0..20 {
        assert_eq!(Raw::connect(at).await.rest().await.0, b"");
    }
    change(2, "2s").await;
    let mut second = admitted(at).await;
    for _ in 0..20 {
        assert_eq!(Raw::connect(at).await.rest().await.0, b"");
    }
    for raw in [&mut first, &mut second] {
        raw.send("still").await;
        assert_eq!(raw.bytes(5).await, b"still");
    }
}

/// A connection that is let in, if not at once.
async fn admitted(at: std::net::SocketAddr) -> Raw {
    within("a connection that is let in", async {
        loop {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let sent = stream.write_all(b"x").await.is_ok();
            if sent && matches!(stream.read(&mut [0]).await, Ok(1)) {
                return Raw::over(stream);
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_http_filters_have_counted_outlives_changes_around_them() {
    let origin = Origin::fixed("ok").await;
    let files = Files::all(&origin);
    let app = files.app().await;
    let always = json!({"default_value": {"numerator": 100}});
    let limit = |max: u32| {
        json!({
            "@type": "type.googleapis.com/\
                      envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "l", "filter_enabled": always, "filter_enforced": always,
            "token_bucket": {"max_tokens": max, "fill_interval": "3600s"},
        })
    };
    let change = async |kind: &str, resource: Value| {
        let before = app.generation();
        files.write(kind, &[resource]);
        eventually("the change", || app.generation() > before).await;
    };
    let limited = |max: u32, timeout: &str| {
        let rds = json!({"route_config_name": "r", "config_source": files.source("rds")});
        let router = json!({"name": "envoy.filters.http.router", "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        let limit = json!({"name": "limit", "typed_config": limit(max)});
        let mut web = listener(
            "web",
            &http(&json!({"rds": rds, "http_filters": [limit, router]})),
        );
        web["listener_filters_timeout"] = json!(timeout);
        web
    };
    change("lds", limited(2, "1s")).await;
    until(&app, "/", |status, _| status == 429).await;
    change("lds", limited(2, "2s")).await;
    let web = app.listener("web");
    for _ in 0..20 {
        assert_eq!(get(web, "x", "/").await.status, 429);
    }
    change("lds", limited(1, "2s")).await;
    until(&app, "/", |status, _| status == 200).await;

    // What a virtual host says is one limit for all of its routes.
    change("lds", limited(1_000_000, "2s")).await;
    let routes = |prefixes: &[&str]| {
        let routes = prefixes
            .iter()
            .map(|prefix| json!({"match": {"prefix": prefix}, "route": {"cluster": "a"}}));
        json!({"name": "r", "virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": routes.collect::<Vec<_>>(),
            "typed_per_filter_config": {"limit": limit(2)},
        }]})
    };
    change("rds", routes(&["/a", "/b"])).await;
    until(&app, "/a", |status, _| status == 429).await;
    assert_eq!(get(web, "x", "/b").await.status, 429);
    change("rds", routes(&["/c", "/a", "/b"])).await;
    until(&app, "/c", |status, _| status != 404).await;
    for path in ["/a", "/b", "/c"] {
        assert_eq!(get(web, "x", path).await.status, 429, "{path}");
    }
}

/// Both have the name of their address in statistics.
#[tokio::test]
async fn a_listener_that_takes_over_an_address_is_still_counted() {
    let origin = Origin::fixed("ok").await;
    let files = Files::all(&origin);
    let app = files.app().await;
    let rds = json!({"route_config_name": "r", "config_source": files.source("rds")});
    files.write("lds", &[listener("able", &http(&json!({"rds": rds})))]);
    eventually("the listener is another", || {
        app.running.addresses.of("able").is_some() && app.running.addresses.of("web").is_none()
    })
    .await;
    let mut client = Http1::connect(app.listener("able")).await;
    client.get("x", "/").await;
    let open = app.running.stats.listeners();
    let open = open
        .iter()
        .map(|(_, stats)| stats.downstream_cx_active.value());
    assert_eq!(open.sum::<i64>(), 1);
}

/// Where a listener is, once it has so many addresses.
async fn addresses(app: &TestApp, count: usize) -> Vec<std::net::SocketAddr> {
    let all = || app.running.addresses.all_of("web");
    eventually("its addresses", || all().len() == count).await;
    all()
}

#[tokio::test]
async fn a_listener_with_several_addresses_keeps_those_that_stay() {
    let origin = Origin::fixed("here").await;
    let files = Files::all(&origin);
    let write = |more: &[&str]| {
        let rds = json!({"route_config_name": "r", "config_source": files.source("rds")});
        let mut web = listener("web", &http(&json!({"rds": rds})));
        let more = more.iter().map(
            |address| json!({"address": {"socket_address": {"address": address, "port_value": 0}}}),
        );
        web["additional_addresses"] = more.collect();
        files.write("lds", &[web]);
    };
    write(&["127.0.0.2", "::1"]);
    let app = files.app().await;
    let first = addresses(&app, 3).await;
    for at in &first {
        assert_eq!(get(*at, "a", "/").await.text(), "here", "{at}");
    }
    let listed = app.admin("/listeners").await.text();
    for at in &first {
        assert!(listed.contains(&format!("web::{at}\n")), "{listed}");
    }
    // One goes, another comes, and the rest stays where it was, port and all.
    write(&["127.0.0.2", "127.0.0.3"]);
    eventually("the new address", || {
        let all = app.running.addresses.all_of("web");
        all.len() == 3 && all[2].ip() == std::net::Ipv4Addr::new(127, 0, 0, 3)
    })
    .await;
    let second = addresses(&app, 3).await;
    assert_eq!(second[..2], first[..2]);
    for at in &second {
        assert_eq!(get(*at, "a", "/").await.text(), "here", "{at}");
    }
    let start = Instant::now();
    while TcpStream::connect(first[2]).await.is_ok() {
        assert!(start.elapsed() < DEADLINE, "{} is listened at", first[2]);
        tokio::task::yield_now().await;
    }
}
