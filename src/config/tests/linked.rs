//! Files of a worker with a Coordinator.

use std::path::Path;
use std::time::Duration;

use super::parse;
use crate::config::*;
use crate::util::Secret;

/// What a worker next to a Coordinator needs.
const LINKED: &str = r#"[redis]
addr = { host = "127.0.0.1", port = 6379 }
[proxy_worker]
coordinator_endpoint = "http://127.0.0.1:10200"
authority = "worker-1"
frontend_mode = "wildcard"
protocol = "http"
accepted_traffics = ["inference", "interactive"]
api_bind_addr = { host = "localhost", port = 10201 }
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = { host = "127.0.0.1", port = 10205 }
[secrets]
api_secret = "hush-api"
jwt_secret = "hush-jwt"
[permit_hash]
secret = "hush-permit"
[logging]
level = "INFO"
drivers = ["console"]
"#;

/// [`LINKED`] with some of its text replaced, and more lines in `[proxy_worker]`.
fn linked(replace: &[(&str, &str)], more: &str) -> Result<WorkerConfig, String> {
    let mut text = LINKED.to_owned();
    for (from, to) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    parse(&text.replace("[proxy_worker]\n", &format!("[proxy_worker]\n{more}\n")))
}

#[test]
fn a_file_with_a_coordinator_is_read_with_its_defaults() {
    let config = linked(&[], "").unwrap();
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    assert!(
        config.without_effect.is_empty(),
        "{:?}",
        config.without_effect
    );
    assert!(!format!("{config:?}").contains("hush"));
    let access = config.access.unwrap();
    assert_eq!(access.jwt_secret, Secret::new("hush-jwt"));
    assert_eq!(access.permit_hash.digest_mod, DigestMod::Sha256);
    assert_eq!(config.tls, Tls::default());
    assert_eq!(config.process, Process::default());
    assert_eq!(config.causeway, Causeway::default());
    assert_eq!(config.logging, Logging::default());
    let link = config.coordinator.unwrap();
    assert_eq!(link.endpoint, "http://127.0.0.1:10200");
    assert!(link.verify_certificate);
    assert!(link.node_id.starts_with("i-"), "{}", link.node_id);
    assert_eq!(link.frontend_mode, FrontendMode::Wildcard);
    assert_eq!(link.protocol, WorkerProtocol::Http);
    assert_eq!(
        link.accepted_traffics,
        [Traffic::Inference, Traffic::Interactive]
    );
    assert_eq!(link.heartbeat_period, Duration::from_secs(10));
    assert_eq!(link.api_bind_addr, "127.0.0.1:10201".parse().unwrap());
    assert_eq!(link.api_public_addr.to_string(), "localhost:10201");
    assert_eq!(link.announce_addr, link.api_public_addr);
    assert_eq!(link.metric_access_allowed_hosts.to_string(), "127.0.0.1/32");
    let single = RedisServer::Single(HostPort {
        host: "127.0.0.1".to_owned(),
        port: 6379,
    });
    assert_eq!(link.redis.server, single);
    assert_eq!(link.redis.password, None);
}

#[test]
fn each_key_that_a_coordinator_needs_is_asked_for() {
    for (line, expected) in [
        (
            "authority = \"worker-1\"",
            "proxy_worker.authority is required",
        ),
        (
            "frontend_mode = \"wildcard\"",
            "proxy_worker.frontend_mode is required",
        ),
        ("protocol = \"http\"", "proxy_worker.protocol is required"),
        (
            "accepted_traffics = [\"inference\", \"interactive\"]",
            "proxy_worker.accepted_traffics is required",
        ),
        (
            "addr = { host = \"127.0.0.1\", port = 6379 }",
            "redis.addr is required",
        ),
        (
            "jwt_secret = \"hush-jwt\"",
            "secrets.jwt_secret is required",
        ),
        (
            "api_secret = \"hush-api\"",
            "secrets.api_secret is required",
        ),
        (
            "[permit_hash]\nsecret = \"hush-permit\"",
            "permit_hash.secret is required",
        ),
        (
            "[redis]\naddr = { host = \"127.0.0.1\", port = 6379 }",
            "[redis] is required",
        ),
        (
            "[logging]\nlevel = \"INFO\"\ndrivers = [\"console\"]",
            "[logging] is required",
        ),
    ] {
        let error = linked(&[(line, "")], "").unwrap_err();
        let expected = format!("w.toml: {expected} (hint: ");
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn wrong_values_next_to_a_coordinator_are_named() {
    const MODE: &str = "frontend_mode = \"wildcard\"";
    for (replace, more, expected) in [
        (
            ("\"http://127.0.0.1:10200\"", "\"127.0.0.1:10200\""),
            "",
            "w.toml:5:24: proxy_worker.coordinator_endpoint: not an http URL (hint: ",
        ),
        (
            ("\"http\"", "\"grpc\""),
            "",
            "w.toml:8:12: proxy_worker.protocol: \"grpc\" is no protocol of a worker (hint: use \"h2\"",
        ),
        (
            ("\"http\"", "\"gopher\""),
            "",
            "w.toml:8:12: proxy_worker.protocol: \"gopher\" is not known (hint: one of http, h2,",
        ),
        (
            (MODE, "frontend_mode = \"path\""),
            "",
            "w.toml:7:17: unknown variant `path`, expected one of `port`, `wildcard`, `traefik`",
        ),
        (
            (MODE, "frontend_mode = \"port\""),
            "",
            "w.toml:7:17: proxy_worker.frontend_mode: needs the table [proxy_worker.port_proxy]",
        ),
        (
            (MODE, "frontend_mode = \"traefik\""),
            "",
            "w.toml:7:17: proxy_worker.frontend_mode: needs the table [proxy_worker.traefik]",
        ),
        (
            ("\"inference\", ", "\"batch\", "),
            "",
            "w.toml:9:22: unknown variant `batch`, expected `interactive` or `inference`",
        ),
        (
            (MODE, MODE),
            "heartbeat_period = 0",
            "w.toml:4:20: proxy_worker.heartbeat_period: must be more than 0",
        ),
        (
            (MODE, MODE),
            "metric_access_allowed_hosts = \"10.0.0.1/8\"",
            "w.toml:4:31: proxy_worker.metric_access_allowed_hosts: not an IPv4 network",
        ),
        (
            (MODE, MODE),
            "trusted_proxies = [\"10.0.0.0/8\", \"lb\"]",
            "w.toml:4:34: proxy_worker.trusted_proxies: neither an address nor a network",
        ),
        (
            (MODE, MODE),
            "user = -2",
            "w.toml:4:8: proxy_worker.user: neither an id nor a name",
        ),
        (
            ("\"localhost\"", "\"\""),
            "",
            "w.toml:10:26: proxy_worker.api_bind_addr.host: must be an IP address or a host name",
        ),
        (
            ("\"localhost\"", "\"no such host\""),
            "",
            "w.toml:10:26: proxy_worker.api_bind_addr.host: \"no such host\" cannot be resolved",
        ),
        (
            (
                "secret = \"hush-permit\"",
                "secret = \"x\"\ndigest_mod = \"md5\"",
            ),
            "",
            "w.toml:19:14: unknown variant `md5`, expected one of `sha224`, `sha256`",
        ),
        (
            ("\"INFO\"", "\"LOUD\""),
            "",
            "w.toml:20:9: logging.level: \"LOUD\" is no level (hint: one of CRITICAL",
        ),
        (
            ("[\"console\"]", "[\"file\"]"),
            "",
            "w.toml:21:11: logging.drivers: \"file\" needs the table [logging.file]",
        ),
        (
            (
                "addr = { host = \"127.0.0.1\", port = 6379 }",
                "sentinel = [{host=\"a\",port=1}]",
            ),
            "",
            "w.toml:2:12: redis.service_name is required beside redis.sentinel",
        ),
        (
            (
                "[logging]",
                "[service_discovery]\ntype = \"etcd\"\n[logging]",
            ),
            "",
            "w.toml:20:8: service_discovery.type: \"etcd\" is not supported",
        ),
    ] {
        let error = linked(&[replace], more).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn the_mode_decides_which_frontend_there_is() {
    const PORTS: &str = "[proxy_worker.port_proxy]\nbind_host = \"127.0.0.1\"\n\
                         bind_port_range = [10210, 10212]\nadvertised_host = \"w.example\"\n";
    let both = format!("{PORTS}[secrets]");
    let wildcard = linked(&[("[secrets]", &both)], "").unwrap();
    assert_eq!(wildcard.port_proxy, None);
    assert_eq!(wildcard.without_effect, ["proxy_worker.port_proxy"]);

    let mode = ("frontend_mode = \"wildcard\"", "frontend_mode = \"port\"");
    let port = linked(&[mode, ("[secrets]", &both)], "").unwrap();
    assert_eq!(port.wildcard_domain, None);
    assert_eq!(port.without_effect, ["proxy_worker.wildcard_domain"]);
    assert_eq!(port.port_proxy.unwrap().bind_ports.len(), 3);
    let public_host = "w.example".to_owned();
    let found = port.coordinator.unwrap().frontend_mode;
    assert_eq!(found, FrontendMode::Port { public_host });

    let none = both.replace("[10210, 10212]", "[]");
    let error = linked(&[mode, ("[secrets]", &none)], "").unwrap_err();
    let expected = "w.toml: proxy_worker.port_proxy.bind_port_range is required";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn traefik_has_an_inner_mode() {
    let mode = (
        "frontend_mode = \"wildcard\"",
        "frontend_mode = \"traefik\"",
    );
    let table = "[proxy_worker.traefik]\napi_port = 8080\nfrontend_mode = \"port\"\n\
                 last_used_time_marker_directory = \"/run/x\"\n\
                 [proxy_worker.traefik.port_proxy]\nadvertised_host = \"t.example\"\n\
                 port_range = [10205, 10210]\n[secrets]";
    let config = linked(&[mode, ("[secrets]", table)], "").unwrap();
    assert_eq!((config.port_proxy, config.wildcard_domain), (None, None));
    let FrontendMode::Traefik(traefik) = config.coordinator.unwrap().frontend_mode else {
        panic!("not traefik");
    };
    assert_eq!(traefik.api_port, 8080);
    let expected = TraefikFrontend::Port {
        advertised_host: "t.example".to_owned(),
        port_range: (10205, 10210),
    };
    assert_eq!(traefik.frontend, expected);

    let inner = table.replace("\"port\"", "\"wildcard\"");
    let error = linked(&[mode, ("[secrets]", &inner)], "").unwrap_err();
    let expected = "needs the table [proxy_worker.traefik.wildcard_domain]";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn sentinels_come_before_the_address() {
    let sentinel = "addr = { host = \"a\", port = 1 }\nservice_name = \"m\"\n\
                    password = \"hush\"\nsentinel = [{ host = \"s\", port = 2 }]";
    let addr = "addr = { host = \"127.0.0.1\", port = 6379 }";
    let redis = linked(&[(addr, sentinel)], "")
        .unwrap()
        .coordinator
        .unwrap()
        .redis;
    assert_eq!(redis.server.addresses()[0].to_string(), "s:2");
    assert_eq!(
        redis.sentinel_password, redis.password,
        "as in the older workers"
    );
    let own = sentinel.replace("password", "sentinel_password = \"own\"\npassword");
    let redis = linked(&[(addr, &own)], "")
        .unwrap()
        .coordinator
        .unwrap()
        .redis;
    assert_eq!(redis.sentinel_password, Some(Secret::new("own")));
}

#[test]
fn a_certificate_must_be_there_and_readable() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["w.example".to_owned()]).unwrap();
    let (cert, key) = (
        directory.path().join("c.pem"),
        directory.path().join("k.pem"),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let pair = |cert: &Path, key: &Path| {
        format!(
            "tls_cert = \"{}\"\ntls_privkey = \"{}\"",
            cert.display(),
            key.display()
        )
    };
    let files = Certificates::Files(TlsFiles {
        certificate: cert.clone(),
        private_key: key.clone(),
    });
    let on = linked(&[], &format!("tls_listen = true\n{}", pair(&cert, &key))).unwrap();
    assert_eq!(on.tls.listen, Some(files.clone()));
    assert_eq!(on.causeway.path_tls, Some(files));
    let off = linked(&[], &pair(&cert, &key)).unwrap();
    assert_eq!((off.tls.listen, off.causeway.path_tls), (None, None));
    assert_eq!(
        off.without_effect,
        ["proxy_worker.tls_cert", "proxy_worker.tls_privkey"]
    );

    let none = directory.path().join("none.pem");
    for (more, expected) in [
        (
            "tls_listen = true".to_owned(),
            "w.toml:4:14: proxy_worker.tls_cert is required",
        ),
        (pair(&none, &key), "w.toml:4:12: proxy_worker.tls_cert: "),
        (pair(&key, &key), "w.toml:4:12: proxy_worker.tls_cert: "),
        (
            pair(&cert, &cert),
            "w.toml:5:15: proxy_worker.tls_privkey: ",
        ),
    ] {
        let error = linked(&[], &more).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn keys_without_effect_are_named_and_no_unknown_ones() {
    let more = "event_loop = \"uvloop\"\naiomonitor_webui_port = 1\n\
                http2 = { nghttpx_path = \"/x\", api_port_pool = [1, 2] }";
    let logging = (
        "[logging]",
        "[debug]\nenabled = true\n[logging]\npkg-ns = { a = \"INFO\" }",
    );
    let drivers = ("[\"console\"]", "[\"logstash\"]");
    let config = linked(&[logging, drivers], more).unwrap();
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    assert_eq!(
        config.without_effect,
        [
            "debug",
            "logging.pkg-ns",
            "proxy_worker.aiomonitor_webui_port",
            "proxy_worker.event_loop",
            "proxy_worker.http2",
            "logging.drivers \"logstash\"",
        ]
    );
    assert!(
        config.logging.console.is_some(),
        "somewhere it must be said"
    );
    let alone = parse(&LINKED.replace("coordinator_endpoint", "#")).unwrap();
    assert!(alone.coordinator.is_none());
    let named = |key: &str| alone.without_effect.iter().any(|found| found == key);
    assert!(
        named("redis") && named("proxy_worker.authority"),
        "{:?}",
        alone.without_effect
    );
}

#[test]
fn the_log_goes_where_the_file_says() {
    let drivers = (
        "[\"console\"]",
        "[\"console\", \"file\"]\n[logging.file]\npath = \"/var/log\"\nfilename = \"w.log\"\nrotation-size = \"2M\"",
    );
    let logging = linked(&[drivers, ("INFO", "NOTSET")], "").unwrap().logging;
    assert_eq!(logging.level, "trace");
    let file = logging.file.unwrap();
    assert_eq!(file.path, Path::new("/var/log/w.log"));
    assert_eq!((file.rotation_size, file.backup_count), (2 << 20, 5));
    let bad = drivers.1.replace("2M", "much");
    let error = linked(&[(drivers.0, &bad)], "").unwrap_err();
    assert!(
        error.contains("logging.file.rotation-size: not a size"),
        "{error}"
    );
}

#[test]
fn accounts_are_names_or_numbers_and_the_null_device_is_no_pid_file() {
    let more = "user = 1000\ngroup = \"staff\"\npid_file = \"/run/w.pid\"";
    let process = linked(&[], more).unwrap().process;
    assert_eq!(process.user, Some(Account::Id(1000)));
    assert_eq!(process.group, Some(Account::Name("staff".to_owned())));
    assert_eq!(process.pid_file.as_deref(), Some(Path::new("/run/w.pid")));
    let none = linked(&[], "pid_file = \"/dev/null\"").unwrap();
    assert_eq!(none.process.pid_file, None);
}
