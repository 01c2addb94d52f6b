//! Envoy bootstraps: served as they are, or refused with the place and the reason.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, forwarding, http, listener, routes, tcp};
use crate::support::client::get;
use crate::support::origin::Origin;
use crate::support::process::{Program, run};

const YAML: &str = r#"
# An ordinary bootstrap, with what people write into them.
node: {id: tests, cluster: tests}
static_resources:
  listeners:
  - name: web
    address:
      socket_address: {address: 127.0.0.1, port_value: 0}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: AUTO
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: local
            virtual_hosts:
            - name: app
              domains: [app.test, "*.app.test"]
              routes:
              - match: {path: /exact}
                direct_response: {status: 201, body: {inline_string: "exactly"}}
              - match: {prefix: /api}
                route: {cluster: app, timeout: 5s}
              - match: {prefix: /old}
                redirect: {path_redirect: /new}
            - name: rest
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 421}
  clusters:
  - name: app
    type: STATIC
    connect_timeout: 0.25s
    lb_policy: ROUND_ROBIN
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}
"#;

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_yaml_bootstrap_is_served() {
    let origin = Origin::fixed("from the app").await;
    let app = TestApp::bootstrap(&YAML.replace("PORT", &origin.address.port().to_string())).await;
    let web = app.listener("web");
    for (host, path, status, text) in [
        ("app.test", "/exact", 201, "exactly"),
        ("app.test", "/exact?query", 201, "exactly"),
        ("sub.app.test", "/api/x", 200, "from the app"),
        ("app.test", "/elsewhere", 404, ""),
        ("other.test", "/api", 421, ""),
    ] {
        let reply = get(web, host, path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (status, text),
            "{host}{path}"
        );
    }
    let moved = get(web, "app.test", "/old").await;
    assert_eq!(moved.status, 301);
    assert_eq!(moved.header("location"), "http://app.test/new");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_json_bootstrap_is_served() {
    let origin = Origin::fixed("json").await;
    let text = bootstrap(&[forwarding("web", "a")], &[cluster("a", origin.address)]).to_string();
    let app = TestApp::bootstrap(&text).await;
    assert_eq!(get(app.listener("web"), "x", "/").await.text(), "json");
}

#[tokio::test]
async fn several_listeners_and_a_tcp_proxy_are_served() {
    let (one, two) = (Origin::fixed("one").await, Origin::fixed("two").await);
    let tcp = listener("tcp", &tcp("two", &json!({})));
    let text = bootstrap(
        &[forwarding("web", "one"), tcp],
        &[cluster("one", one.address), cluster("two", two.address)],
    );
    let app = TestApp::bootstrap(&text.to_string()).await;
    assert_eq!(get(app.listener("web"), "x", "/").await.text(), "one");
    assert_eq!(get(app.listener("tcp"), "x", "/").await.text(), "two");
}

/// Ports on which a process listens.
fn listening(id: u32) -> BTreeSet<u16> {
    let inode = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        let text = link
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .to_owned();
        Some(text)
    };
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let sockets: BTreeSet<String> = files.flatten().filter_map(inode).collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{id}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN.
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = columns[..]
                && sockets.contains(inode)
            {
                let (_, port) = local.rsplit_once(':').unwrap();
                ports.insert(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

#[tokio::test]
async fn a_process_opens_only_what_its_bootstrap_names() {
    let directory = tempfile::tempdir().unwrap();
    let ok = routes(&json!([{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]));
    let web = listener("web", &http(&json!({"route_config": ok})));
    let without = bootstrap(&[web], &[]);
    let mut with = without.clone();
    with["admin"] =
        json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});

    let path = file(directory.path(), "without.json", &without.to_string());
    let mut program = Program::start(&["-c", path.to_str().unwrap()]);
    program.said("listeners=1").await;
    assert_eq!(listening(program.id()).len(), 1);

    let path = file(directory.path(), "with.json", &with.to_string());
    let mut program = Program::start(&["-c", path.to_str().unwrap()]);
    let management = program.management().await;
    let ports = listening(program.id());
    assert!(
        ports.len() == 2 && ports.contains(&management.port()),
        "{ports:?}"
    );
    for port in [5050, 6040, 10201] {
        assert!(!ports.contains(&port), "{ports:?}");
    }
    let shim = get(management, "localhost", "/v1/circuits").await;
    assert_eq!(shim.status, 404, "no shim for a bootstrap");
    let listeners = get(management, "localhost", "/listeners").await.text();
    assert!(listeners.starts_with("web::127.0.0.1:"), "{listeners}");
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_place_and_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let mut complaints = Vec::new();
    for (what, text, expected) in [
        (
            "bad YAML",
            "static_resources:\n  listeners:\n  - {name: web\n",
            &["bad.yaml: line 3, column 5: ", "unclosed bracket '{'"][..],
        ),
        (
            "bad JSON",
            "{\"static_resources\": {\"listeners\": [}\n",
            &["bad.yaml: line 1, column 37: "],
        ),
        (
            "unknown field",
            "static_resources:\n  listeners:\n  - name: web\n    adress: {}\n",
            &[
                "bad.yaml: line 4, column 5: static_resources.listeners[0].adress: ",
                "unknown field",
                "did you mean \"address\"?",
            ],
        ),
        (
            "unknown field in an extension",
            "static_resources:\n  listeners:\n  - name: web\n    address: {socket_address: \
             {address: 127.0.0.1, port_value: 0}}\n    filter_chains:\n    - filters:\n      \
             - name: tcp\n        typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
             stat_prefix: a\n          clustr: a\n",
            &[
                "bad.yaml: line 11, column 11: ",
                "typed_config.clustr",
                "cluster",
            ],
        ),
        (
            "wrong type",
            "static_resources:\n  clusters:\n  - name: a\n    connect_timeout: soon\n",
            &["bad.yaml: line 4, column 22: static_resources.clusters[0].connect_timeout: "],
        ),
        (
            "unsupported field",
            "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    \
             upstream_config: {name: x}\n    load_assignment: {cluster_name: a}\n",
            &[
                "bad.yaml: line 5, column 5: cluster \"a\": upstream_config: ",
                "not supported",
            ],
        ),
        (
            "a fault deep inside, in the other spelling",
            "staticResources:\n  listeners:\n  - name: web\n    address: {socketAddress: \
             {address: 127.0.0.1, portValue: 0}}\n    filterChains:\n    - filters:\n      \
             - name: http\n        typedConfig:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
             HttpConnectionManager\n          statPrefix: a\n          routeConfig:\n            \
             virtualHosts:\n            - name: v\n              domains: ['*']\n              \
             routes:\n              - match: {prefix: /}\n                \
             route: {cluster: a, timeout: -1s}\n",
            &[
                "bad.yaml: line 17, column 37: listener \"web\": filter_chains[0].filters[0].\
                 typed_config.route_config.virtual_hosts[0].routes[0].route.timeout: ",
            ],
        ),
        (
            "a certificate that is missing",
            "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    \
             transport_socket:\n      name: tls\n      typed_config:\n        \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        \
             common_tls_context:\n          validation_context:\n            \
             trusted_ca: {filename: /nowhere}\n",
            &[
                "bad.yaml: line 11, column 26: cluster \"a\": transport_socket.typed_config.common_tls_context.validation_context.trusted_ca.filename: /nowhere: ",
            ],
        ),
        (
            "a certificate that is none when the cluster is used",
            "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    \
             transport_socket:\n      name: tls\n      typed_config:\n        \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        \
             common_tls_context:\n          validation_context:\n            \
             trusted_ca: {filename: /dev/null}\n",
            &["bad.yaml: line 7, column 7: cluster \"a\": transport_socket.typed_config"],
        ),
        (
            "two faults",
            "static_resources:\n  clusters:\n  - name: a\n    connect_timeout: -1s\n  - name: b\n    \
             connect_timeout: -1s\n",
            &[
                "line 4, column 5: cluster \"a\": connect_timeout: ",
                "line 6, column 5: cluster \"b\": connect_timeout: ",
            ],
        ),
        (
            "a bootstrap field",
            "node: {id: a}\nadmin:\n  address: {pipe: {path: /x}}\n",
            &["bad.yaml: line 3, column 13: admin.address.pipe: not supported"],
        ),
        (
            "a listener without chains",
            "static_resources:\n  listeners:\n  - name: web\n    address: {socket_address: \
             {address: 127.0.0.1, port_value: 0}}\n",
            &["bad.yaml: line 3, column 5: listener \"web\": filter_chains"],
        ),
        (
            "worker without a secret",
            "[causeway]\nmanagement = \"127.0.0.1:0\"\n",
            &["bad.yaml: secrets.api_secret is required"],
        ),
        (
            "worker with a bad address",
            "[secrets]\napi_secret = \"s\"\n[causeway]\nmanagement = \"here\"\n",
            &[
                "bad.yaml:4:14: causeway.management: not an address",
                "hint: ",
            ],
        ),
    ] {
        let path = file(directory.path(), "bad.yaml", text);
        let path = path.to_str().unwrap();
        for arguments in [
            &["validate", "-c", path][..],
            &["--mode", "validate", "-c", path],
            &["-c", path],
        ] {
            let finished = run(arguments).await;
            let missing = expected
                .iter()
                .find(|part| !finished.stderr.contains(**part));
            let panicked = finished.stderr.contains("panicked");
            if finished.code != Some(1) || missing.is_some() || panicked {
                let said = finished.stderr;
                complaints.push(format!("{what} {arguments:?}: not {missing:?} but {said}"));
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test]
async fn a_good_file_is_validated_without_opening_anything() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut web = forwarding("web", "a");
    web["address"]["socket_address"]["port_value"] = json!(port);
    let text = bootstrap(&[web], &[cluster("a", "127.0.0.1:9".parse().unwrap())]).to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "good.yaml", &text);
    let finished = run(&["validate", "-c", path.to_str().unwrap()]).await;
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    assert!(finished.stdout.contains("good.yaml"), "{}", finished.stdout);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut web = forwarding("web", "a");
    web["address"]["socket_address"]["port_value"] = json!(address.port());
    let text = bootstrap(&[web], &[cluster("a", "127.0.0.1:9".parse().unwrap())]).to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "taken.yaml", &text);
    let listener = run(&["-c", path.to_str().unwrap()]).await;
    let worker = |management: &str, path: &str| {
        format!(
            "[secrets]\napi_secret = \"s\"\n[causeway]\nmanagement = \"{management}\"\n\
             path_frontend = \"{path}\"\n"
        )
    };
    let (any, at) = ("127.0.0.1:0", address.to_string());
    let path = file(directory.path(), "management.toml", &worker(&at, any));
    let management = run(&["-c", path.to_str().unwrap()]).await;
    let path = file(directory.path(), "path.toml", &worker(any, &at));
    let frontend = run(&["-c", path.to_str().unwrap()]).await;
    for finished in [listener, management, frontend] {
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains(&at), "{}", finished.stderr);
        assert!(finished.stderr.contains("in use"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn text_on_the_command_line_is_merged_over_the_file() {
    let origin = Origin::fixed("a").await;
    let text = bootstrap(&[forwarding("web", "a")], &[cluster("a", origin.address)]).to_string();
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "base.json", &text);
    let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";
    let mut program = Program::start(&["-c", path.to_str().unwrap(), "--config-yaml", admin]);
    let management = program.management().await;
    let listeners = get(management, "localhost", "/listeners").await.text();
    let (_, web) = listeners.trim().split_once("::").expect("name::address");
    assert_eq!(get(web.parse().unwrap(), "x", "/").await.text(), "a");
}

#[tokio::test]
async fn a_fault_in_the_text_on_the_command_line_is_told_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let base = "static_resources:\n  clusters:\n  - name: a\n";
    let path = file(directory.path(), "base.yaml", base);
    let path = path.to_str().unwrap();
    let over = "static_resources: {clusters: [{name: b, connect_timeout: -1s}]}";
    let place = "line 1, column 41: cluster \"b\": connect_timeout: ";
    for (arguments, expected) in [
        (
            &["-c", path][..],
            format!("base.yaml: --config-yaml: {place}"),
        ),
        (&[], format!("causeway: --config-yaml: {place}")),
    ] {
        let arguments = [&["validate", "--config-yaml", over], arguments].concat();
        let said = run(&arguments).await.stderr;
        assert!(said.contains(&expected), "{said}");
    }
}

#[tokio::test]
async fn envoys_flags_are_taken() {
    let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";
    let mut program = Program::start(&[
        "--config-yaml",
        admin,
        "--service-node",
        "node-1",
        "--service-cluster",
        "cluster-1",
        "--concurrency",
        "1",
        "--drain-time-s",
        "1",
        "--disable-hot-restart",
        "--base-id",
        "7",
        "-l",
        "info",
    ]);
    let management = program.management().await;
    let info = get(management, "localhost", "/server_info").await.json();
    assert_eq!(info["node"]["id"], "node-1");
    assert_eq!(info["node"]["cluster"], "cluster-1");
    assert_eq!(info["command_line_options"]["concurrency"], 1);
}
