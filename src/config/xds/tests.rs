//! The table `[xds]`, and what the command line says beside it.

use std::path::Path;

use causeway_xds::resource::api_source::{ApiProtocol, Token};
use causeway_xds::resource::tls::DataSource;

use super::*;
use crate::config::WorkerConfig;

fn parse(table: &str) -> Result<XdsConfig, String> {
    let text = format!("[secrets]\napi_secret = \"s\"\n[xds]\n{table}");
    let config = WorkerConfig::parse(&text, Path::new("w.toml")).map_err(|e| e.to_string())?;
    assert_eq!(config.unknown, []);
    Ok(config.xds.expect("the table is there"))
}

#[test]
fn a_short_table_is_enough() {
    let xds = parse("servers = [\"127.0.0.1:18000\"]\nnode-id = \"w1\"\n").unwrap();
    assert_eq!((&*xds.node.id, &*xds.node.cluster), ("w1", "causeway"));
    assert_eq!(xds.node.user_agent_name, "causeway");
    assert_eq!(xds.backoff_max, BACKOFF_MAX);
    assert_eq!((xds.max_deletion_percent, &xds.cache), (None, &None));
    assert!(xds.listener_names.is_empty());
    let ads = xds.ads.unwrap();
    assert_eq!(ads.protocol, ApiProtocol::Incremental);
    let expected = Target::Uri {
        uri: "127.0.0.1:18000".into(),
        tls: None,
        token: None,
    };
    assert_eq!(ads.servers[0].target, expected);
    for source in [xds.cds, xds.lds] {
        let source = source.unwrap();
        assert_eq!(source.place, Place::Ads);
        assert_eq!(source.initial_fetch_timeout, Duration::from_secs(15));
    }
}

#[test]
fn every_key_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "hush\n").unwrap();
    let xds = parse(&format!(
        "servers = [\"unix:/run/xds.sock\", {{ url = \"https://xds.test:1/\", ca = \"/ca\", \
         cert = \"/c\", key = \"/k\", server-name = \"s\", token-file = {token:?} }}, \
         {{ url = \"https://b.test:2\", token = \"hush2\" }}]\n\
         node-id = \"w\"\ncluster = \"c\"\nzone = \"z\"\nprotocol = \"sotw\"\nmax-backoff = 1.5\n\
         initial-fetch-timeout = 0\nconfig-cache = \"/var/x\"\nmax-deletion-percent = 40\n"
    ))
    .unwrap();
    assert!(!format!("{xds:?}").contains("hush"));
    assert_eq!(xds.node.cluster, "c");
    assert_eq!(xds.node.locality.as_ref().unwrap().zone, "z");
    assert_eq!(xds.backoff_max, Duration::from_millis(1500));
    assert_eq!(xds.cache.as_deref(), Some(Path::new("/var/x")));
    assert_eq!(xds.max_deletion_percent, Some(40));
    assert_eq!(xds.cds.unwrap().initial_fetch_timeout, Duration::ZERO);
    let ads = xds.ads.unwrap();
    assert_eq!(ads.protocol, ApiProtocol::StateOfTheWorld);
    let targets: Vec<_> = ads.servers.into_iter().map(|s| s.target).collect();
    let Target::Uri { uri, tls, token } = &targets[1] else {
        panic!("{targets:?}");
    };
    assert_eq!(uri, "xds.test:1");
    assert_eq!(token, &Some(Token("hush".into())));
    let tls = tls.as_ref().unwrap();
    let file = |path: &str| DataSource::File(path.into());
    assert_eq!(tls.roots, Some(file("/ca")));
    assert_eq!(tls.client_certificate, Some((file("/c"), file("/k"))));
    assert_eq!(tls.server_name, "s");
    assert!(
        matches!(&targets[0], Target::Uri { uri, tls: None, .. } if uri == "unix:/run/xds.sock")
    );
    assert!(
        matches!(&targets[2], Target::Uri { tls: Some(tls), token: Some(_), .. }
        if tls.roots.is_none())
    );
}

#[test]
fn faults_are_named_with_their_place() {
    for (table, want) in [
        ("node-id = \"w\"", "w.toml:3:1: missing field `servers`"),
        (
            "servers = []\nnode-id = \"w\"",
            "w.toml:4:11: xds.servers: names no server",
        ),
        (
            "servers = [\"a:1\"]",
            "w.toml:4:11: xds.node-id is required",
        ),
        (
            "servers = [\"a:1\", \"https://b\"]\nnode-id = \"w\"",
            "w.toml:4:19: xds.servers: \"b\" has no port",
        ),
        (
            "servers = [\"grpc://a:1\"]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: \"grpc://a:1\" is no host and port",
        ),
        (
            "servers = [{ url = \"http://a:1\", token = \"t\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: certificates and tokens are for https only",
        ),
        (
            "servers = [{ url = \"http://a:1\", ca = \"/c\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: certificates and tokens are for https only",
        ),
        (
            "servers = [{ url = \"https://a:1\", cert = \"/c\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: cert and key belong together",
        ),
        (
            "servers = [{ url = \"https://a:1\", token = \"a b\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: the token is no bearer token",
        ),
        (
            "servers = [{ url = \"https://a:1\", token-file = \"/nowhere/t\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: token-file /nowhere/t: No such file",
        ),
        (
            "servers = [{ url = \"https://a:1\", token = \"t\", token-file = \"/t\" }]\nnode-id = \"w\"",
            "w.toml:4:12: xds.servers: token and token-file are two ways",
        ),
        (
            "servers = [5]\nnode-id = \"w\"",
            "w.toml:4:11: a URL such as",
        ),
        (
            "servers = [\"a:1\"]\nnode-id = \"w\"\nprotocol = \"rest\"",
            "w.toml:6:12: unknown variant `rest`",
        ),
        (
            "servers = [\"a:1\"]\nnode-id = \"w\"\nmax-backoff = 0",
            "w.toml:6:15: xds.max-backoff: must be more than 0",
        ),
        (
            "servers = [\"a:1\"]\nnode-id = \"w\"\nmax-deletion-percent = 101",
            "w.toml:6:24: xds.max-deletion-percent: must be between 0 and 100",
        ),
    ] {
        let error = parse(table).unwrap_err();
        assert!(error.starts_with(want), "{error}\nis not\n{want}");
    }
}

#[test]
fn keys_of_a_server_are_known_too() {
    let text = "[secrets]\napi_secret = \"s\"\n[xds]\nnode-id = \"w\"\n\
                servers = [{ url = \"https://a:1\", server-nam = \"x\" }]\n";
    let config = WorkerConfig::parse(text, Path::new("w.toml")).unwrap();
    let unknown: Vec<_> = config.unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        ["xds.servers.server-nam (did you mean server-name?)"]
    );
}

#[test]
fn the_command_line_has_the_last_word() {
    let mut xds =
        parse("servers = [\"a:1\"]\nnode-id = \"w\"\nmax-deletion-percent = 5\n").unwrap();
    XdsOverrides {
        service_node: Some("n".into()),
        service_cluster: Some("c".into()),
        service_zone: Some("z".into()),
        cache: Some("/x".into()),
        cache_secrets: true,
        backoff_max: Some(Duration::from_secs(9)),
        max_deletion_percent: Some(0),
    }
    .apply(&mut xds);
    assert_eq!((&*xds.node.id, &*xds.node.cluster), ("n", "c"));
    assert_eq!(xds.node.locality.unwrap().zone, "z");
    assert_eq!(xds.cache.as_deref(), Some(Path::new("/x")));
    assert!(xds.cache_secrets);
    assert_eq!(xds.backoff_max, Duration::from_secs(9));
    assert_eq!(xds.max_deletion_percent, None);
}
