use super::*;

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
cluster_manager: {local_cluster_name: here}
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
    assert_eq!((&*config.node.id, &*config.node.cluster), ("n1", "c1"));
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
    let lds = config.lds.unwrap();
    assert_eq!(lds.path, Path::new("/x/lds.json"));
    assert_eq!(lds.initial_fetch_timeout, Duration::from_secs(15));
    let cds = config.cds.unwrap();
    assert_eq!(cds.watched_directory.as_deref(), Some(Path::new("/y")));
    assert_eq!(cds.initial_fetch_timeout, Duration::ZERO);
    assert_eq!(
        config.ignored,
        [
            "cluster_manager.local_cluster_name",
            "overload_manager",
            "stats_flush_interval",
            "watchdogs",
        ]
    );
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
        service_node: Some("n2".to_owned()),
        ..Overrides::default()
    };
    let config = BootstrapConfig::parse("b.yaml", WHOLE, &overrides).unwrap();
    assert_eq!((&*config.node.id, &*config.node.cluster), ("n2", "c1"));
    assert_eq!(config.message.node.unwrap().id, "n2");
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
            "b.yaml: line 1, column 21: dynamic_resources.ads_config: not supported yet",
        ),
        (
            "dynamic_resources: {cds_config: {ads: {}}}",
            "b.yaml: line 1, column 34: dynamic_resources.cds_config.ads: not supported yet",
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
