//! From the circuits in tests/golden/translate to messages, decoded again as a receiver would.

mod access;

use std::path::Path;
use std::time::Duration;

use causeway_xds::proto::envoy::config::cluster::v3::cluster::LbPolicy;
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::proto::hcm::http_connection_manager::RouteSpecifier;
use causeway_xds::proto::listener::filter::ConfigType;
use causeway_xds::proto::route::route::Action;
use causeway_xds::proto::route::route_action::ClusterSpecifier;
use causeway_xds::proto::route::route_match::PathSpecifier;
use causeway_xds::proto::route::{Route, RouteMatch};
use causeway_xds::proto::{
    Cluster, ClusterLoadAssignment, HttpConnectionManager, Listener, RouteConfiguration, TcpProxy,
    UInt32Value, VirtualHost, tcp_proxy,
};
use causeway_xds::type_url::message_name;

use uuid::Uuid;

use super::*;
use crate::config::{Connections, Policy, PortProxy};
use crate::coordinator::registry::Owner;
use crate::coordinator::wire::WireCircuit;

/// The messages of some updates, decoded.
#[derive(Debug, Default)]
struct Decoded {
    clusters: Vec<Cluster>,
    assignments: Vec<ClusterLoadAssignment>,
    listeners: Vec<Listener>,
    routes: Vec<RouteConfiguration>,
    hosts: Vec<VirtualHost>,
    removed: Vec<String>,
}

fn decode(updates: &[Update]) -> Decoded {
    let mut out = Decoded::default();
    for update in updates {
        assert_eq!(update.extent, Extent::Incremental);
        assert_eq!(update.origin, Origin::Coordinator);
        for any in &update.upserts {
            assert_eq!(message_name(&any.type_url), update.kind.message_name());
            let bytes = any.value.as_slice();
            match update.kind {
                ResourceType::Cluster => out.clusters.push(Message::decode(bytes).unwrap()),
                ResourceType::LoadAssignment => {
                    out.assignments.push(Message::decode(bytes).unwrap());
                }
                ResourceType::Listener => out.listeners.push(Message::decode(bytes).unwrap()),
                ResourceType::RouteConfiguration => {
                    out.routes.push(Message::decode(bytes).unwrap());
                }
                ResourceType::VirtualHost => out.hosts.push(Message::decode(bytes).unwrap()),
                ResourceType::Secret | ResourceType::FilterConfig => {
                    panic!("there is none of these here")
                }
            }
        }
        let removed = update
            .removals
            .iter()
            .map(|name| format!("{} {name}", update.kind));
        out.removed.extend(removed);
    }
    out
}

/// Ports 10210..=10212, advertised as 20210..=20212; all three frontends.
fn all_frontends() -> Frame {
    let config = PortProxy {
        bind_host: [127, 0, 0, 1].into(),
        bind_ports: vec![10210, 10211, 10212],
        advertised_from: Some(20210),
    };
    Frame {
        slots: Some(Slots::from(&config)),
        wildcard: Some(Wildcard {
            address: "127.0.0.1:10205".parse().unwrap(),
            domain: ".apps.test".to_owned(),
        }),
        path: Some(PathFrontend {
            address: "0.0.0.0:5050".parse().unwrap(),
            strip_prefix: true,
            tls: None,
        }),
        usage: true,
        tcp_log: true,
        ..Frame::default()
    }
}

fn access() -> Access {
    Access {
        jwt_secret: Secret::new("some_jwt_secret"),
        permits: PermitHasher::new(&Secret::new("some_permit_hash_secret"), Digest::Sha256),
    }
}

fn golden(name: &str) -> Vec<Circuit> {
    let path = format!("tests/golden/translate/{name}.circuits.json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).unwrap();
    let wires: Vec<WireCircuit> = serde_json::from_str(&text).unwrap();
    wires
        .into_iter()
        .map(|wire| Circuit::try_from(wire).unwrap())
        .collect()
}

fn announced(name: &str) -> (CircuitRegistry, Decoded) {
    let mut registry = CircuitRegistry::default();
    let circuits = golden(name);
    for circuit in &circuits {
        all_frontends().check(circuit).unwrap();
    }
    let touched = registry.announce(Owner::Shim, circuits);
    let updates = change(&all_frontends(), &registry, &touched, "1");
    (registry, decode(&updates))
}

/// What a control plane would print of these updates.
fn printed(updates: &[Update]) -> String {
    let mut out = serde_json::Map::new();
    for update in updates {
        let messages: Vec<_> = update
            .upserts
            .iter()
            .map(causeway_xds::text::to_value)
            .collect();
        out.insert(update.kind.to_string(), messages.into());
        assert!(update.removals.is_empty());
    }
    serde_json::to_string_pretty(&out).unwrap() + "\n"
}

/// `UPDATE_GOLDEN=1` rewrites the files; a reader of the difference decides.
fn assert_golden(name: &str, updates: &[Update]) {
    let path = format!("tests/golden/translate/{name}.resources.json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let made = printed(updates);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        made,
        "{name}: UPDATE_GOLDEN=1 rewrites"
    );
}

fn cluster_of(route: &Route) -> &str {
    match &route.action {
        Some(Action::Route(action)) => match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => name,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn path_of(route: &Route) -> &PathSpecifier {
    let Some(RouteMatch {
        path_specifier: Some(path),
        ..
    }) = &route.r#match
    else {
        panic!("{route:?}")
    };
    path
}

fn manager(listener: &Listener) -> HttpConnectionManager {
    let Some(ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type
    else {
        panic!("{listener:?}")
    };
    assert!(any.type_url.ends_with("HttpConnectionManager"));
    Message::decode(any.value.as_slice()).unwrap()
}

#[test]
fn the_frame_has_every_listener_and_an_answer_for_everyone() {
    let made = decode(&frame(&all_frontends()));
    let names: Vec<_> = made.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(
        names,
        ["slot/10210", "slot/10211", "slot/10212", "wildcard", "path"]
    );
    for listener in &made.listeners {
        let manager = manager(listener);
        let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else {
            panic!()
        };
        assert_eq!(rds.route_config_name, listener.name);
        assert_eq!(manager.stream_idle_timeout.unwrap().seconds, 0);
        assert_eq!(manager.upgrade_configs[0].upgrade_type, "*");
    }
    let names: Vec<_> = made.routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["slot/10210", "slot/10211", "slot/10212", "wildcard", "path"]
    );
    let answers: Vec<_> = made
        .routes
        .iter()
        .map(|routes| match &routes.virtual_hosts[0].routes[0].action {
            Some(Action::DirectResponse(direct)) => direct.status,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers, [400, 400, 400, 400, 404]);
    assert!(made.routes[3].vhds.is_some() && made.routes[3].ignore_port_in_host_matching);
    assert_eq!(made.routes[4].vhost_header, ":first-path-segment");
}

#[test]
fn a_wildcard_circuit_is_a_host_and_a_path() {
    let (_, made) = announced("wildcard");
    let name = "circuit/cccccccc-0000-4000-8000-000000000001";
    assert_eq!(made.clusters[0].name, name);
    assert_eq!(made.assignments[0].cluster_name, name);
    assert!(made.listeners.is_empty() && made.routes.is_empty());
    let [by_host, by_path] = &made.hosts[..] else {
        panic!("{made:?}")
    };
    assert_eq!(
        (by_host.name.as_str(), &by_host.domains[..]),
        ("wildcard/nb", &["nb.apps.test".to_owned()][..])
    );
    assert_eq!(cluster_of(&by_host.routes[0]), name);
    assert_eq!(
        *path_of(&by_host.routes[0]),
        PathSpecifier::Prefix("/".into())
    );

    assert_eq!(by_path.name, "path/aaaaaaaa-0000-4000-8000-000000000001");
    assert_eq!(by_path.domains, ["aaaaaaaa-0000-4000-8000-000000000001"]);
    let prefix = "/aaaaaaaa-0000-4000-8000-000000000001/jupyter".to_owned();
    assert_eq!(
        *path_of(&by_path.routes[0]),
        PathSpecifier::PathSeparatedPrefix(prefix)
    );
    let metadata = by_path.routes[0].metadata.as_ref().unwrap();
    assert!(
        metadata.filter_metadata["causeway"]
            .fields
            .contains_key("strip_prefix")
    );
    assert_eq!(
        by_path.routes.len(),
        2,
        "what no app answers for is a 404 with a reason"
    );
}

#[test]
fn a_port_circuit_takes_the_slot_that_its_advertised_port_means() {
    let (_, made) = announced("port");
    assert_eq!(made.listeners[0].name, "slot/10211");
    manager(&made.listeners[0]);
    assert_eq!(made.routes[0].name, "slot/10211");
    let host = &made.routes[0].virtual_hosts[0];
    assert_eq!(host.domains, ["*"]);
    assert_eq!(
        cluster_of(&host.routes[0]),
        "circuit/cccccccc-0000-4000-8000-000000000002"
    );
}

#[test]
fn a_tcp_circuit_turns_its_slot_into_a_tcp_proxy_and_back() {
    let (mut registry, made) = announced("tcp");
    let [policy, proxy] = &made.listeners[0].filter_chains[0].filters[..] else {
        panic!("{:?}", made.listeners)
    };
    let Some(ConfigType::TypedConfig(any)) = &policy.config_type else {
        panic!()
    };
    let policy: causeway_xds::proto::causeway::v1::ConnectionPolicy =
        Message::decode(any.value.as_slice()).unwrap();
    assert_eq!(policy.circuit, "cccccccc-0000-4000-8000-000000000003");
    let Some(ConfigType::TypedConfig(any)) = &proxy.config_type else {
        panic!()
    };
    let proxy: TcpProxy = Message::decode(any.value.as_slice()).unwrap();
    let name = "circuit/cccccccc-0000-4000-8000-000000000003".to_owned();
    assert_eq!(
        proxy.cluster_specifier,
        Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
            name.clone()
        ))
    );
    // Beside its port it has a path, for those who come with a WebSocket.
    let [by_path] = &made.hosts[..] else {
        panic!("{:?}", made.hosts)
    };
    let said = &by_path.routes[0].typed_per_filter_config;
    assert!(said.contains_key("causeway.websocket_bridge"), "{said:?}");

    let touched = registry.remove(golden("tcp")[0].id).unwrap();
    let back = decode(&change(&all_frontends(), &registry, &touched, "2"));
    manager(&back.listeners[0]);
    let host = format!("{} {}", ResourceType::VirtualHost, by_path.name);
    let mut gone = [format!("cluster {name}"), format!("endpoints {name}"), host];
    gone.sort();
    let mut removed = back.removed;
    removed.sort();
    assert_eq!(removed, gone);
}

#[test]
fn a_model_service_is_weighted_and_reached_by_its_endpoint_id() {
    let (_, made) = announced("inference");
    let weights: Vec<_> = made.assignments[0].endpoints[0]
        .lb_endpoints
        .iter()
        .map(|e| e.load_balancing_weight.unwrap().value)
        .collect();
    assert_eq!(weights, [7, 3]);
    let by_path = made
        .hosts
        .iter()
        .find(|h| h.name.starts_with("path/"))
        .unwrap();
    let prefix = "/aaaaaaaa-0000-4000-8000-000000000009/my%20model".to_owned();
    assert_eq!(
        *path_of(&by_path.routes[0]),
        PathSpecifier::PathSeparatedPrefix(prefix)
    );
}

/// Two apps of one session share its virtual host; of two circuits for one app the newer serves,
/// and the older takes over when it goes.
#[test]
fn apps_of_one_session_share_a_host() {
    let (mut registry, made) = announced("two-apps");
    let clusters = |made: &Decoded| {
        let host = made
            .hosts
            .iter()
            .find(|h| h.name.starts_with("path/"))
            .unwrap();
        let forwards = host.routes.iter().filter(|r| !r.name.is_empty());
        forwards
            .map(|r| cluster_of(r)[43..].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(clusters(&made), ["7", "6"]);
    let touched = registry.remove(golden("two-apps")[2].id).unwrap();
    let made = decode(&change(&all_frontends(), &registry, &touched, "2"));
    assert_eq!(clusters(&made), ["6", "5"]);
}

#[test]
fn messages_are_as_written_down() {
    let small = Frame {
        slots: Some(Slots::from(&PortProxy {
            bind_host: [127, 0, 0, 1].into(),
            bind_ports: vec![10210],
            advertised_from: None,
        })),
        ..all_frontends()
    };
    assert_golden("frame", &frame(&small));
    for name in ["wildcard", "port", "tcp", "inference", "two-apps", "h2"] {
        let mut registry = CircuitRegistry::default();
        let touched = registry.announce(Owner::Shim, golden(name));
        assert_golden(name, &change(&all_frontends(), &registry, &touched, "1"));
    }
    let watching = Frame {
        watch: KernelWatch::from(&config::Causeway::default()),
        ..small
    };
    let mut registry = CircuitRegistry::default();
    let touched = registry.announce(Owner::Shim, golden("inference"));
    assert_golden("watched", &change(&watching, &registry, &touched, "1"));
}

/// A second kernel makes a difference to how the first is watched.
#[test]
fn kernels_are_watched_as_many_as_there_are() {
    let watching = Frame {
        watch: KernelWatch::from(&config::Causeway::default()),
        ..all_frontends()
    };
    let mut registry = CircuitRegistry::default();
    let circuit = golden("inference").remove(0);
    let routes = circuit.routes.clone();
    registry.announce(Owner::Shim, vec![circuit.clone()]);
    let clusters = |frame: &Frame, registry: &CircuitRegistry, touched: &Touched| {
        let updates = change(frame, registry, touched, "2");
        let of = updates.iter().find(|u| u.kind == ResourceType::Cluster);
        of.map_or(0, |update| update.upserts.len())
    };
    let touched = registry
        .set_routes(circuit.id, routes[..1].to_vec())
        .unwrap();
    assert_eq!(clusters(&watching, &registry, &touched), 1);
    assert_eq!(clusters(&all_frontends(), &registry, &touched), 0);
}

#[test]
fn a_policy_limits_the_connections_of_http_circuits() {
    let connections = Connections {
        max: 3,
        queue: 9,
        queue_timeout: Duration::from_millis(2500),
    };
    let frame = Frame {
        policies: vec![Policy {
            connections: Some(connections),
            sticky: Some(true),
            ..Policy::default()
        }],
        ..all_frontends()
    };
    let of = |frame: &Frame, name: &str| super::cluster::cluster(frame, &golden(name)[0]);
    let limits = |cluster: &Cluster| {
        let thresholds = &cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
        let limit = |limit: Option<UInt32Value>| limit.unwrap().value;
        (
            limit(thresholds.max_connections),
            limit(thresholds.max_pending_requests),
        )
    };
    let limited = of(&frame, "port");
    assert_eq!(limits(&limited), (3, 9));
    assert_eq!(limited.lb_policy(), LbPolicy::Maglev);
    let own = &limited.metadata.as_ref().unwrap().filter_metadata["causeway"].fields;
    let timeout = Some(Kind::StringValue("2.5s".to_owned()));
    assert_eq!(own["queue_timeout"].kind, timeout);
    // What it says beside that stays.
    let before = of(&all_frontends(), "port");
    let kept = before
        .metadata
        .map_or(0, |own| own.filter_metadata["causeway"].fields.len());
    assert_eq!(own.len(), kept + 1);
    // Relayed as bytes.
    assert_eq!(of(&frame, "tcp"), of(&all_frontends(), "tcp"));
}

#[test]
fn a_port_that_nobody_has_speaks_no_http_where_circuits_are_raw() {
    let raw = Frame {
        raw_ports: true,
        ..all_frontends()
    };
    let made = decode(&frame(&raw));
    let slot = made.listeners.iter().find(|l| l.name.starts_with("slot/"));
    let [policy, _] = &slot.unwrap().filter_chains[0].filters[..] else {
        panic!("{slot:?}")
    };
    let Some(ConfigType::TypedConfig(any)) = &policy.config_type else {
        panic!()
    };
    let policy: causeway_xds::proto::causeway::v1::ConnectionPolicy =
        Message::decode(any.value.as_slice()).unwrap();
    assert_eq!(policy.allowed_client_ips, [filters::NOBODY]);
    assert!(made.clusters.iter().any(|c| c.name == names::NOBODY));
}
