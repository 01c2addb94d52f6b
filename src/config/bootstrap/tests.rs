use std::path::PathBuf;
use std::time::Duration;

use causeway_xds::resource::api_source::{ApiProtocol, Target};
use causeway_xds::resource::config_source::Place;

use super::*;
use crate::config::xds::XdsOverrides;

mod grpc;

fn parse(text: &str) -> Result<BootstrapConfig, BootstrapError> {
    BootstrapConfig::parse("b.yaml", text, &Overrides::default())
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

const WHOLE: &str = r"
node: {id: n1, cluster: c1}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
stats_flush_interval: 5s
watchdogs: {}
overload_manager: {refresh_interval: 1s}
cluster_manager: {local_cluster_name: b}
static_resources:
  listeners: [{name: main}]
  clusters: [{name: a}, {name: b}]
  secrets: [{name: s}]
dynamic_resources:
  lds_config: {resource_api_version: V3, path_config_source: {path: /x/lds.json}}
  cds_config: {initial_fetch_timeout: 0s, path_config_source: {path: /x/cds.json, watched_directory: {path: /y}}}
layered_runtime:
  layers:
  - {name: base, static_layer: {routing: {share: 0, on: true}, pct: {numerator: 5, denominator: HUNDRED}}}
  - {name: over, static_layer: {routing.share: 7}}
  - {name: adm, admin_layer: {}}
";

#[test]
fn a_bootstrap_is_read() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(
        (&*config.xds.node.id, &*config.xds.node.cluster),
        ("n1", "c1")
    );
    assert_eq!(config.admin, Some(([127, 0, 0, 1], 9901).into()));
    let kinds: Vec<_> = config
        .static_updates
        .iter()
        .map(|u| (u.kind, u.upserts.len(), &u.origin))
        .collect();
    assert_eq!(
        kinds,
        [
            (ResourceType::Secret, 1, &Origin::Static),
            (ResourceType::Cluster, 2, &Origin::Static),
            (ResourceType::Listener, 1, &Origin::Static),
        ]
    );
    assert!(!config.xds.has_server());
    let lds = config.xds.lds.unwrap();
    let file = |path: &str, watched: Option<&str>| Place::File {
        path: path.into(),
        watched_directory: watched.map(PathBuf::from),
    };
    assert_eq!(lds.place, file("/x/lds.json", None));
    assert_eq!(lds.initial_fetch_timeout, Duration::from_secs(15));
    let cds = config.xds.cds.unwrap();
    assert_eq!(cds.place, file("/x/cds.json", Some("/y")));
    assert_eq!(cds.initial_fetch_timeout, Duration::ZERO);
    assert_eq!(config.local_cluster.as_deref(), Some("b"));
    assert_eq!(
        config.ignored,
        [
            "overload_manager.refresh_interval",
            "stats_flush_interval",
            "watchdogs",
        ]
    );
}

#[test]
fn the_limit_of_connections_is_the_resource_that_is_watched() {
    let monitors = |monitors: &str| {
        let text = format!("{{overload_manager: {{resource_monitors: [{monitors}]}}}}");
        parse(&text).map(|config| (config.max_connections, config.ignored))
    };
    let of = |kind: &str, fields: &str| {
        let kind = format!("type.googleapis.com/envoy.extensions.resource_monitors.{kind}");
        format!("{{name: m, typed_config: {{\"@type\": {kind}, {fields}}}}}")
    };
    let connections = "downstream_connections.v3.DownstreamConnectionsConfig";
    let heap = "fixed_heap.v3.FixedHeapConfig";
    let both = format!(
        "{}, {}",
        of(heap, "max_heap_size_bytes: 1"),
        of(connections, "max_active_downstream_connections: 7")
    );
    let (most, ignored) = monitors(&both).unwrap();
    assert_eq!(most, Some(7));
    assert_eq!(ignored, ["overload_manager.resource_monitors"]);
    let wrong = monitors(&of(connections, "")).unwrap_err().to_string();
    let expected = "overload_manager.resource_monitors[0].typed_config.\
                    max_active_downstream_connections: must be greater than zero";
    assert!(wrong.contains(expected), "{wrong}");
}

#[test]
fn later_runtime_layers_win() {
    let runtime = parse(WHOLE).unwrap().runtime;
    assert_eq!(runtime.value("routing.share"), Some("7"));
    assert_eq!(runtime.value("routing.on"), Some("true"));
    assert_eq!(runtime.value("routing"), None);
    let flat = runtime.flattened();
    assert_eq!(flat["pct"], "{denominator: HUNDRED, numerator: 5}");
    assert_eq!(flat["routing.share"], "7");
    assert_eq!(runtime.layers.len(), 3);
}

#[test]
fn the_command_line_names_the_node_and_merges_a_text() {
    let overrides = Overrides {
        config_yaml: Some("static_resources: {clusters: [{name: c}]}".to_owned()),
        xds: XdsOverrides {
            service_node: Some("n2".to_owned()),
            service_zone: Some("z".to_owned()),
            max_deletion_percent: Some(30),
            ..XdsOverrides::default()
        },
        ..Overrides::default()
    };
    let config = BootstrapConfig::parse("b.yaml", WHOLE, &overrides).unwrap();
    assert_eq!(
        (&*config.xds.node.id, &*config.xds.node.cluster),
        ("n2", "c1")
    );
    assert_eq!(config.xds.node.locality.as_ref().unwrap().zone, "z");
    assert_eq!(config.xds.node.user_agent_name, "causeway");
    assert_eq!(config.xds.max_deletion_percent, Some(30));
    assert_eq!(config.message.node, Some(config.xds.node));
    assert_eq!(config.static_updates[1].upserts.len(), 3);
    assert!(BootstrapConfig::parse("-", "", &overrides).is_ok());
}

#[test]
fn refusals_name_file_place_and_path() {
    let unknown = refused("node: {id: x}\nstatic_resource: {}\n");
    assert!(unknown.starts_with("b.yaml: line 2, column "), "{unknown}");
    assert!(unknown.contains("static_resources"), "{unknown}");
    for (text, want) in [
        (
            "dynamic_resources: {ads_config: {api_type: GRPC}}",
            "b.yaml: line 1, column 21: dynamic_resources.ads_config: names no server",
        ),
        (
            "dynamic_resources: {cds_config: {ads: {}}}",
            "b.yaml: line 1, column 34: dynamic_resources.cds_config.ads: there is no `ads_config`",
        ),
        (
            "dynamic_resources: {cds_config: {self: {}}}",
            "b.yaml: line 1, column 34: dynamic_resources.cds_config.self: \
             the bootstrap has no origin to ask",
        ),
        (
            "dynamic_resources: {cds_resources_locator: 'xdstp://a/b/*'}",
            "b.yaml: line 1, column 21: dynamic_resources.cds_resources_locator: not supported yet",
        ),
        (
            "admin: {address: {socket_address: {address: localhost, port_value: 1}}}",
            "b.yaml: line 1, column 36: admin.address.socket_address.address: \
             \"localhost\" is no IP address",
        ),
        (
            "layered_runtime: {layers: [{name: a, rtds_layer: {name: x}}]}",
            "b.yaml: line 1, column 38: layered_runtime.layers[0].rtds_layer: not supported yet",
        ),
        (
            "cluster_manager: {local_cluster_name: a}",
            "b.yaml: line 1, column 19: cluster_manager.local_cluster_name: \
             \"a\" is not among static_resources.clusters",
        ),
        (
            "typed_dns_resolver_config: {name: x, typed_config: {\"@type\": \
             type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.\
             CaresDnsResolverConfig, query_tries: 0}}",
            "b.yaml: line 1, column 153: typed_dns_resolver_config.typed_config.query_tries: \
             0 is not within 1 and 3600",
        ),
        (
            "header_prefix: x-foo",
            "b.yaml: line 1, column 1: header_prefix: not supported yet",
        ),
    ] {
        assert_eq!(refused(text), want);
    }
}

#[test]
fn unreadable_files_are_named() {
    let error = BootstrapConfig::load(Path::new("/nowhere/b.yaml"), &Overrides::default());
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("/nowhere/b.yaml: cannot read"), "{text}");
}

#[test]
fn a_bootstrap_is_known_by_its_keys() {
    for yes in [
        "static_resources:\n  clusters: []",
        "# c\nnode: {}\n",
        "{\n \"admin\": {}\n}",
        "{\"static_resources\": {}}",
        "'node': {id: x}",
    ] {
        assert!(looks_like_bootstrap(yes), "{yes}");
    }
    for no in [
        "[causeway]\nmanagement = \"127.0.0.1:0\"",
        "nodes: 1",
        "[proxy_worker]\nnode = \"x\"\n",
        "",
    ] {
        assert!(!looks_like_bootstrap(no), "{no}");
    }
}

/// A bootstrap with an aggregated stream from the cluster `xds`.
const ADS: &str = r"
node: {id: n1, cluster: c1, metadata: {role: worker}, user_agent_name: envoy}
static_resources:
  clusters: [{name: xds}, {name: by_eds, type: EDS}]
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    set_node_on_first_message_only: true
    rate_limit_settings: {}
    grpc_services:
    - envoy_grpc: {cluster_name: xds}
      initial_metadata: [{key: authorization, value: Bearer hush}]
  cds_config: {resource_api_version: V3, initial_fetch_timeout: 3s, ads: {}}
  lds_config:
    api_config_source:
      api_type: GRPC
      grpc_services:
      - google_grpc:
          target_uri: xds.example:18000
          stat_prefix: x
          channel_credentials: {ssl_credentials: {}}
          call_credentials: [{access_token: hush}]
";

#[test]
fn management_servers_are_read() {
    let config = parse(ADS).unwrap();
    let xds = &config.xds;
    assert!(xds.has_server());
    assert_eq!(xds.node.user_agent_name, "causeway");
    assert!(xds.node.user_agent_version_type.is_some());
    assert!(xds.node.metadata.is_some());
    let ads = xds.ads.as_ref().unwrap();
    assert_eq!(ads.protocol, ApiProtocol::Incremental);
    assert!(ads.node_on_first_message_only);
    let cds = xds.cds.as_ref().unwrap();
    assert_eq!(cds.place, Place::Ads);
    assert_eq!(cds.initial_fetch_timeout, Duration::from_secs(3));
    let sources: Vec<_> = xds.api_sources().map(|s| &s.servers[0].target).collect();
    assert!(
        matches!(sources[..], [Target::Cluster { name, .. }, Target::Uri { .. }] if name == "xds"),
        "{sources:?}"
    );
    assert!(
        config
            .ignored
            .contains(&"ApiConfigSource.rate_limit_settings".to_owned()),
        "{:?}",
        config.ignored
    );
    // Neither what logs show nor what the config dump is made from.
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn management_servers_are_refused_by_path() {
    for (from, to, want) in [
        (
            "cluster_name: xds",
            "cluster_name: nowhere",
            "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: \"nowhere\" \
             is not among static_resources.clusters",
        ),
        (
            "cluster_name: xds",
            "cluster_name: by_eds",
            "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: \"by_eds\" \
             gets its endpoints by EDS, which needs a management server first",
        ),
        (
            "target_uri: xds.example:18000",
            "target_uri: 'xds:///a'",
            "dynamic_resources.lds_config.api_config_source.grpc_services[0].google_grpc.target_uri: \
             \"xds:///a\" is no host and port",
        ),
        (
            "api_type: DELTA_GRPC",
            "api_type: AGGREGATED_GRPC",
            "dynamic_resources.ads_config.api_type: not supported yet",
        ),
        (
            "id: n1, ",
            "",
            "node.id: must be given for a management server, here or with --service-node",
        ),
        (
            "cluster: c1, ",
            "",
            "node.cluster: must be given for a management server, here or with --service-cluster",
        ),
    ] {
        assert!(ADS.contains(from), "{from}");
        let error = refused(&ADS.replacen(from, to, 1));
        assert!(error.ends_with(want), "{error}\nis not\n{want}");
    }
    let poll = "static_resources: {clusters: [{name: xds}]}\nnode: {id: a, cluster: b}\n\
                dynamic_resources: {cds_config: {api_config_source: {api_type: REST, \
                refresh_delay: 1s, cluster_names: [xds, other]}}}";
    let error = refused(poll);
    let want = "cds_config.api_config_source.cluster_names[1]: \"other\" is not among \
                static_resources.clusters";
    assert!(error.ends_with(want), "{error}");
    assert!(parse(&poll.replace(", other", "")).is_ok());
}

#[test]
fn load_reports_have_a_server_of_their_own() {
    // Who reports need not say so: Envoy does not ask for it either.
    const TEXT: &str = "
static_resources: {clusters: [{name: lrs}]}
cluster_manager:
  load_stats_config:
    api_type: GRPC
    grpc_services:
    - envoy_grpc: {cluster_name: lrs}
      initial_metadata: [{key: authorization, value: Bearer hush}]
";
    let config = parse(TEXT).unwrap();
    let target = &config.xds.load_reports.as_ref().unwrap().servers[0].target;
    assert!(matches!(target, Target::Cluster { name, .. } if name == "lrs"));
    assert!(!config.xds.has_server());
    assert!(!format!("{config:?}").contains("hush"));
    let at = "cluster_manager.load_stats_config";
    for (from, to, want) in [
        (
            "cluster_name: lrs",
            "cluster_name: other",
            "grpc_services[0].envoy_grpc.cluster_name: \"other\" is not among \
             static_resources.clusters",
        ),
        (
            "api_type: GRPC",
            "api_type: AGGREGATED_GRPC",
            "api_type: not supported yet",
        ),
    ] {
        let error = refused(&TEXT.replacen(from, to, 1));
        assert!(error.ends_with(&format!("{at}.{want}")), "{error}");
    }
    let polled = TEXT
        .split("    grpc_services")
        .next()
        .unwrap()
        .replacen("GRPC", "REST", 1);
    let error = refused(&format!(
        "{polled}    cluster_names: [lrs]\n    refresh_delay: 1s\n"
    ));
    assert!(
        error.ends_with(&format!("{at}.api_type: must be GRPC or DELTA_GRPC")),
        "{error}"
    );
}

#[test]
fn a_suffix_tells_the_binary_form() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("b.pb");
    let message: Bootstrap = text::parse(ADS, MESSAGE, &Options::default()).unwrap();
    std::fs::write(&file, message.encode_to_vec()).unwrap();
    let over = Overrides {
        config_yaml: Some("{node: {id: n2}, static_resources: {clusters: [{name: c}]}}".into()),
        ..Overrides::default()
    };
    let config = BootstrapConfig::load(&file, &over).unwrap();
    assert_eq!(config.xds.node.id, "n2");
    assert_eq!(config.xds.node.cluster, "c1");
    assert_eq!(config.static_updates[0].upserts.len(), 3);

    std::fs::write(&file, "node: {id: x}").unwrap();
    let error = BootstrapConfig::load(&file, &over).unwrap_err().to_string();
    assert!(error.contains("not a bootstrap in binary form"), "{error}");
    let printed = directory.path().join("b.pb_text");
    std::fs::write(&printed, "node { id: \"x\" }").unwrap();
    let error = BootstrapConfig::load(&printed, &over).unwrap_err();
    assert!(
        error.to_string().contains("YAML, JSON or binary"),
        "{error}"
    );
}
