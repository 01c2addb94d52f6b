//! One file in, one configuration or one message out.

use std::time::Duration;

use super::*;

mod acme;
mod linked;

fn parse(text: &str) -> Result<WorkerConfig, String> {
    WorkerConfig::parse(text, Path::new("w.toml")).map_err(|e| e.to_string())
}

const FULL: &str = r#"
[redis]
addr = { host = "127.0.0.1", port = 6379 }
[proxy_worker]
authority = "worker-1"
frontend_mode = "wildcard"
protocol = "http"
[proxy_worker.wildcard_domain]
domain = ".Apps.test"
bind_addr = { host = "127.0.0.1", port = 10205 }
[proxy_worker.port_proxy]
bind_host = "localhost"
bind_port_range = [10210, 10212]
advertised_port_range = [20210, 20212]
[secrets]
api_secret = "hush"
jwt_secret = "hush too"
[causeway]
path_frontend = false
"#;

#[test]
fn a_legacy_file_is_read_and_shows_no_secret() {
    let config = parse(FULL).unwrap();
    let wildcard = config.wildcard_domain.as_ref().unwrap();
    assert_eq!(wildcard.domain, ".apps.test");
    assert_eq!(wildcard.bind_addr, "127.0.0.1:10205".parse().unwrap());
    let ports = config.port_proxy.as_ref().unwrap();
    assert_eq!(ports.bind_ports, [10210, 10211, 10212]);
    assert_eq!(ports.advertised_from, Some(20210));
    assert_eq!(config.causeway.path_frontend, None);
    assert_eq!(config.causeway.management.port(), 6040);
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn both_spellings_switch_the_path_frontend_off() {
    for off in ["false", "\"\""] {
        let text = format!("[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = {off}\n");
        assert_eq!(parse(&text).unwrap().causeway.path_frontend, None);
    }
    let text = "[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = \"127.0.0.1:0\"\n";
    let path = parse(text).unwrap().causeway.path_frontend.unwrap();
    assert_eq!(path.port(), 0);
}

#[test]
fn an_empty_range_is_no_port_mode() {
    let text = "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::1\"\n";
    let none = parse(text).unwrap().port_proxy.unwrap();
    assert!(none.bind_ports.is_empty());
    let empty = parse(&format!("{text}bind_port_range = []\n")).unwrap();
    assert!(empty.port_proxy.unwrap().bind_ports.is_empty());
}

#[test]
fn errors_name_the_place_and_what_would_help() {
    for (text, expected) in [
        (
            "[secrets]\napi_secret = 5\n",
            "w.toml:2:14: invalid type: integer `5`",
        ),
        ("[secrets\n", "w.toml:1:9: "),
        ("x = 1\n", "w.toml: secrets.api_secret is required"),
        (
            "[secrets]\napi_secret=\"s\"\n[causeway]\nmanagement = \"6040\"\n",
            "w.toml:4:14: causeway.management: not an address (hint: ",
        ),
        (
            "[secrets]\napi_secret=\"s\"\n[causeway]\npath_frontend = true\n",
            "w.toml:4:17: causeway.path_frontend: not an address",
        ),
        (
            "[secrets]\napi_secret=\"s\"\n[proxy_worker]\ntls_listen = true\n",
            "w.toml:4:14: proxy_worker.tls_cert is required for TLS",
        ),
        (
            "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::\"\n\
             bind_port_range=[9,8]\n",
            "w.toml:5:17: proxy_worker.port_proxy.bind_port_range: ",
        ),
        (
            "[secrets]\napi_secret=\"s\"\n[proxy_worker.port_proxy]\nbind_host=\"::\"\n\
             bind_port_range=[8,9]\nadvertised_port_range=[1,3]\n",
            "w.toml:6:23: proxy_worker.port_proxy.advertised_port_range: as long as",
        ),
        (
            "[secrets]\napi_secret=\"s\"\n[proxy_worker.wildcard_domain]\n\
             domain=\"apps.test\"\nbind_addr={host=\"::1\",port=1}\n",
            "w.toml:4:8: proxy_worker.wildcard_domain.domain: begins with a dot",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    let config = parse(
        "[secrets]\napi_secret=\"s\"\n[causeway]\nmanagment=\"x\"\n\
         [wat]\nx=1\n[logging]\na=1\n[debug]\nanything=1\n",
    )
    .unwrap();
    let unknown: Vec<_> = config.unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "causeway.managment (did you mean management?)",
            "logging.a",
            "wat"
        ]
    );
}

#[test]
fn the_additions_of_causeway_are_read() {
    let text = "[secrets]\napi_secret=\"s\"\n[causeway]\nrelist_period = 5\nbus = false\n\
                usage_period = 0.5\nstate_file = \"/tmp/s\"\ndrain_time = 0\n\
                ports_at_start = false\nkernel_check_period = 0\nkernel_ejection = false\n\
                dns_servers = [\"192.0.2.1\", \"[2001:db8::1]:5353\"]\nmax_connections = 9\n\
                tcp_idle_timeout = 900\ntcp_log = false\n\
                tcp_websocket_origins = [\"https://p.test\"]\ncoordinator_timeout = 3\ntraefik_poll_period = 2\n";
    let causeway = parse(text).unwrap().causeway;
    let expected = Causeway {
        relist_period: Duration::from_secs(5),
        traefik_poll_period: Duration::from_secs(2),
        coordinator_timeout: Duration::from_secs(3),
        usage_period: Duration::from_millis(500),
        state_file: Some("/tmp/s".into()),
        bus: false,
        ports_at_start: false,
        kernel_check_period: Duration::ZERO,
        kernel_ejection: false,
        dns_servers: vec![
            "192.0.2.1:53".parse().unwrap(),
            "[2001:db8::1]:5353".parse().unwrap(),
        ],
        max_connections: Some(9),
        tcp_idle_timeout: Duration::from_secs(900),
        tcp_log: false,
        tcp_websocket_origins: vec!["https://p.test".to_owned()],
        drain_time: Duration::ZERO,
        ..Causeway::default()
    };
    assert_eq!(causeway, expected);
    for server in ["dns.test", "192.0.2.1:0", ""] {
        let error = parse(&text.replace("192.0.2.1", server)).unwrap_err();
        let told = "causeway.dns_servers: not an address";
        assert!(error.contains(told), "{error}");
    }
    let error = parse(&text.replace("= 0.5", "= -1")).unwrap_err();
    assert!(
        error.contains("causeway.usage_period: must be more than 0"),
        "{error}"
    );
}

#[test]
fn the_example_is_a_file_of_all_keys() {
    let config = parse(EXAMPLE).unwrap();
    assert!(config.coordinator.is_some());
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    // With every key in force, tables of other modes and sample paths included, the names are
    // still all known.
    let every: String = EXAMPLE
        .lines()
        .map(|line| {
            format!(
                "{}\n",
                line.strip_prefix('#')
                    .filter(|l| !l.starts_with(' '))
                    .unwrap_or(line)
            )
        })
        .collect();
    let root: toml::Table = every.parse().unwrap();
    assert_eq!(keys::unknown(&root), []);
    for key in keys::read() {
        let mut names = key.split('.');
        let first = root.get(names.next().unwrap());
        let in_list = |list: &'_ toml::Value, name: &str| match list {
            toml::Value::Array(list) => list.iter().find_map(|v| v.get(name).cloned()),
            other => other.get(name).cloned(),
        };
        let found = names.fold(first.cloned(), |value, name| in_list(&value?, name));
        assert!(found.is_some(), "{key} is not in the example");
    }
}

#[test]
fn the_manual_names_every_key() {
    let manual = include_str!("../../docs/CONFIGURATION.md");
    let short = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    for key in keys::read().chain(legacy::WITHOUT_EFFECT.iter().map(ToString::to_string)) {
        let name = short(&key);
        let named = [
            format!("`{name}`"),
            format!(".{name}`"),
            format!("`[{name}]`"),
        ];
        assert!(named.iter().any(|form| manual.contains(form)), "{key}");
    }
}
