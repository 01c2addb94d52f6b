//! Bootstraps as gRPC has them.

use causeway_xds::resource::tls::DataSource;

use super::*;

const WHOLE: &str = r#"{
  "xds_servers": [
    {
      "server_uri": "dns:///xds.example:18000",
      "channel_creds": [
        {"type": "google_default"},
        {"type": "tls", "config": {
          "ca_certificate_file": "/c/ca.pem",
          "certificate_file": "/c/cert.pem",
          "private_key_file": "/c/key.pem",
          "refresh_interval": "600s"
        }}
      ],
      "server_features": ["xds_v3", "ignore_resource_deletion", "trusted_xds_server"]
    },
    {"server_uri": "unix:/run/xds.sock", "channel_creds": [{"type": "insecure"}]}
  ],
  "node": {
    "id": "n1",
    "metadata": {"role": "worker"},
    "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
    "from_the_future": 1
  },
  "certificate_providers": {
    "default": {"plugin_name": "file_watcher", "config": {"certificate_file": "/c/x"}}
  },
  "server_listener_resource_name_template": "grpc/server?address=%s",
  "client_default_listener_resource_name_template": "%s"
}"#;

fn parse(text: &str, listeners: &[&str]) -> Result<BootstrapConfig, String> {
    let overrides = Overrides {
        config_yaml: Some(
            "admin: {address: {socket_address: {address: ::1, port_value: 1}}}".into(),
        ),
        grpc_listeners: listeners.iter().map(ToString::to_string).collect(),
        ..Overrides::default()
    };
    BootstrapConfig::parse_grpc("g.json", text, &overrides).map_err(|e| e.to_string())
}

#[test]
fn a_grpc_bootstrap_is_read() {
    assert!(super::super::grpc::looks_like_grpc(WHOLE));
    let config = parse(WHOLE, &["0.0.0.0:8080", "[::]:8080"]).unwrap();
    assert_eq!(config.admin, Some("[::1]:1".parse().unwrap()));
    let xds = config.xds;
    assert_eq!(
        (&*xds.node.id, &*xds.node.user_agent_name),
        ("n1", "causeway")
    );
    assert_eq!(xds.node.locality.unwrap().sub_zone, "s");
    assert!(xds.node.metadata.is_some());
    assert_eq!(
        xds.listener_names,
        [
            "grpc/server?address=0.0.0.0:8080",
            "grpc/server?address=[::]:8080"
        ]
    );
    assert!(xds.ignore_resource_deletion);
    assert_eq!(xds.lds.unwrap().place, Place::Ads);
    let ads = xds.ads.unwrap();
    assert_eq!(ads.protocol, ApiProtocol::StateOfTheWorld);
    let targets: Vec<_> = ads.servers.iter().map(|server| &server.target).collect();
    let [
        Target::Uri {
            uri,
            tls: Some(tls),
            ..
        },
        Target::Uri { tls: None, .. },
    ] = &targets[..]
    else {
        panic!("{targets:?}");
    };
    assert_eq!(uri, "dns:///xds.example:18000");
    assert_eq!(tls.roots, Some(DataSource::File("/c/ca.pem".into())));
    let pair = ("/c/cert.pem".into(), "/c/key.pem".into());
    let pair = (DataSource::File(pair.0), DataSource::File(pair.1));
    assert_eq!(tls.client_certificate, Some(pair));
    assert_eq!(
        config.ignored,
        [
            "certificate_providers.default",
            "client_default_listener_resource_name_template",
            "xds_servers[0].server_features \"trusted_xds_server\"",
        ]
    );
}

#[test]
fn without_a_template_everything_is_asked_for() {
    let text =
        r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}]}"#;
    let xds = parse(text, &[]).unwrap().xds;
    assert!(xds.listener_names.is_empty());
    assert!(!xds.ignore_resource_deletion);
    let error = parse(text, &["0.0.0.0:1"]).unwrap_err();
    assert!(
        error.contains("must be given for --grpc-listener"),
        "{error}"
    );
}

#[test]
fn what_there_is_not_is_refused_by_path() {
    for (from, to, want) in [
        (
            "\"xds_servers\"",
            "\"servers\"",
            "xds_servers: must be given",
        ),
        (
            "{\"type\": \"insecure\"}",
            "{\"type\": \"google_default\"}",
            "xds_servers[1].channel_creds: \"google_default\" not supported yet; \
             \"tls\" and \"insecure\" are",
        ),
        (
            "dns:///xds.example:18000",
            "xds:///a",
            "xds_servers[0].server_uri: \"xds:///a\" is no host and port",
        ),
        (
            "\"certificate_file\": \"/c/cert.pem\",",
            "",
            "xds_servers[0].channel_creds[1].config: `certificate_file` and `private_key_file` \
             belong together",
        ),
        (
            "[{\"type\": \"insecure\"}]",
            "[{\"type\": \"insecure\"}], \"call_creds\": [{\"type\": \"jwt_token_file\"}]",
            "xds_servers[1].call_creds: \"jwt_token_file\" is not supported yet",
        ),
        (
            "\"node\":",
            "\"authorities\": {\"a\": {}}, \"node\":",
            "authorities: not supported yet",
        ),
        (
            "file_watcher",
            "meshca",
            "certificate_providers.default.plugin_name: \"meshca\" is not supported yet",
        ),
        (
            "grpc/server?address=%s",
            "xdstp://a/%s",
            "server_listener_resource_name_template: names of xdstp: are not supported yet",
        ),
    ] {
        assert!(WHOLE.contains(from), "{from}");
        let error = parse(&WHOLE.replacen(from, to, 1), &["0.0.0.0:1"]).unwrap_err();
        assert_eq!(error, format!("g.json: {want}"));
    }
    let error = parse(WHOLE, &[]).unwrap_err();
    assert!(error.contains("--grpc-listener 0.0.0.0:PORT"), "{error}");
    let error = parse("{\"xds_servers\"", &[]).unwrap_err();
    assert!(
        error.starts_with("g.json: ") && error.contains("line 1"),
        "{error}"
    );
}

#[test]
fn two_places_for_resources_are_one_too_many() {
    let overrides = Overrides {
        config_yaml: Some("dynamic_resources: {lds_config: {path: /x}}".into()),
        ..Overrides::default()
    };
    let error = BootstrapConfig::parse_grpc("g.json", WHOLE, &overrides).unwrap_err();
    assert!(
        error.to_string().contains("dynamic_resources: both"),
        "{error}"
    );
}
