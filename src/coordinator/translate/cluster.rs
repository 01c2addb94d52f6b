//! Circuit -> Cluster, kernel routes -> ClusterLoadAssignment. Both are named `circuit/<id>`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use causeway_xds::proto::core::{Http2ProtocolOptions, Metadata, TcpKeepalive};
use causeway_xds::proto::endpoint::{Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint};
use causeway_xds::proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use causeway_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use causeway_xds::proto::envoy::config::cluster::v3::{CircuitBreakers, UpstreamConnectionOptions};
use causeway_xds::proto::google::protobuf::{Struct, Value, value};
use causeway_xds::proto::upstream_http::http_protocol_options as options;
use causeway_xds::proto::{Any, Cluster, ClusterLoadAssignment, HttpProtocolOptions, UInt32Value};
use causeway_xds::type_url::pack_as;

use super::listener::{address, duration, same_origin, uint32};
use super::{Frame, names, policies};
use crate::coordinator::model::{Circuit, KernelRoute};

/// As long as the legacy worker waits for a kernel.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A kernel may be one notebook with hundreds of sockets or a model server with thousands of
/// streams: no limit of ours is right, and Envoy's default of 1024 would be an outage.
const NO_LIMIT: u32 = 1 << 30;
/// Finds out within about two minutes that a kernel's machine is gone, as nothing else cuts an
/// idle stream here.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    keepalive_probes: Some(UInt32Value { value: 4 }),
    keepalive_time: Some(UInt32Value { value: 60 }),
    keepalive_interval: Some(UInt32Value { value: 15 }),
};
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub fn cluster(frame: &Frame, circuit: &Circuit) -> Cluster {
    let limited = policies::connections(&frame.policies, circuit);
    let limited = limited.filter(|_| circuit.protocol.is_http());
    let limits = Thresholds {
        max_connections: Some(uint32(limited.map_or(NO_LIMIT, |limit| limit.max))),
        max_pending_requests: Some(uint32(limited.map_or(NO_LIMIT, |limit| limit.queue))),
        max_requests: Some(uint32(NO_LIMIT)),
        ..Thresholds::default()
    };
    let http2 = circuit
        .protocol
        .is_http2()
        .then(|| (HTTP_OPTIONS.to_owned(), http2_options()));
    let mut cluster = Cluster {
        name: names::circuit(circuit.id),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(same_origin()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![limits],
            ..CircuitBreakers::default()
        }),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(KEEPALIVE),
            ..UpstreamConnectionOptions::default()
        }),
        typed_extension_protocol_options: http2.into_iter().collect(),
        ..Cluster::default()
    };
    if policies::is_sticky(&frame.policies, circuit) {
        cluster.set_lb_policy(LbPolicy::Maglev);
    }
    let kernels = merged(&circuit.routes).len();
    frame
        .watch
        .apply(&mut cluster, circuit.protocol.is_http(), kernels);
    if let Some(limit) = limited {
        let timeout = format!("{}s", limit.queue_timeout.as_secs_f64());
        let kind = value::Kind::StringValue(timeout);
        say(&mut cluster.metadata, "queue_timeout", kind);
    }
    cluster
}

/// Has no endpoints.
pub fn nobody() -> Cluster {
    Cluster {
        name: names::NOBODY.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        ..Cluster::default()
    }
}

fn http2_options() -> Any {
    use options::explicit_http_config::ProtocolConfig;
    let explicit = options::ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
    };
    let message = HttpProtocolOptions {
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(
            explicit,
        )),
        ..HttpProtocolOptions::default()
    };
    pack_as(&message, HTTP_OPTIONS)
}

/// The kernels that take traffic. A ratio of 0 is left out, because a weight of 0 cannot be
/// written; with nobody left the assignment is empty and the data plane answers 503.
pub fn assignment(circuit: &Circuit) -> ClusterLoadAssignment {
    let kernels = merged(&circuit.routes);
    let weights = weights(&kernels.iter().map(|k| k.ratio).collect::<Vec<_>>());
    let endpoints: Vec<LbEndpoint> = kernels
        .iter()
        .zip(weights)
        .map(|(kernel, weight)| endpoint(kernel, weight))
        .collect();
    let locality = LocalityLbEndpoints {
        lb_endpoints: endpoints,
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: names::circuit(circuit.id),
        endpoints: if kernels.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..ClusterLoadAssignment::default()
    }
}

struct Kernel {
    address: SocketAddr,
    ratio: f64,
    id: Option<String>,
}

/// One entry per address, in the order of the routes: two routes to one kernel share it. A kernel
/// whose name leads nowhere has none.
fn merged(routes: &[KernelRoute]) -> Vec<Kernel> {
    let mut places = BTreeMap::new();
    let mut kernels: Vec<Kernel> = Vec::new();
    for route in routes.iter().filter(|r| r.traffic_ratio > 0.0) {
        let Some(address) = route.address else {
            continue;
        };
        let place = *places.entry(address).or_insert(kernels.len());
        match kernels.get_mut(place) {
            // Two huge ratios must not add up to infinity.
            Some(known) => known.ratio = (known.ratio + route.traffic_ratio).min(f64::MAX),
            None => kernels.push(Kernel {
                address,
                ratio: route.traffic_ratio,
                id: route.identity().map(|id| id.to_string()),
            }),
        }
    }
    kernels
}

fn endpoint(kernel: &Kernel, weight: u32) -> LbEndpoint {
    let endpoint = Endpoint {
        address: Some(address(kernel.address)),
        ..Endpoint::default()
    };
    LbEndpoint {
        metadata: kernel
            .id
            .as_ref()
            .map(|id| own_metadata("id", value::Kind::StringValue(id.clone()))),
        load_balancing_weight: Some(uint32(weight)),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

/// Adds a key to `filter_metadata["causeway"]`.
fn say(metadata: &mut Option<Metadata>, key: &str, kind: value::Kind) {
    let metadata = metadata.get_or_insert_default();
    let own = metadata.filter_metadata.entry("causeway".to_owned());
    own.or_default()
        .fields
        .insert(key.to_owned(), Value { kind: Some(kind) });
}

/// `filter_metadata["causeway"]` with one key.
pub(super) fn own_metadata(key: &str, kind: value::Kind) -> Metadata {
    let fields = [(key.to_owned(), Value { kind: Some(kind) })];
    let own = Struct {
        fields: fields.into_iter().collect(),
    };
    Metadata {
        filter_metadata: [("causeway".to_owned(), own)].into_iter().collect(),
        ..Metadata::default()
    }
}

/// Ratios as the smallest integers that express them: three decimals for ordinary ratios, six
/// digits relative to the largest otherwise. Nobody who has a share falls to 0.
fn weights(ratios: &[f64]) -> Vec<u32> {
    let largest = ratios.iter().copied().fold(0.0, f64::max);
    let ordinary = (0.01..=1000.0).contains(&largest);
    let scaled = ratios.iter().map(|ratio| {
        let share = if ordinary {
            ratio * 1000.0
        } else {
            ratio / largest * 1_000_000.0
        };
        // At most a million by the above, so the cast loses nothing but the fraction.
        share.round().clamp(1.0, 1_000_000.0) as u32
    });
    let scaled: Vec<u32> = scaled.collect();
    let divisor = scaled.iter().copied().fold(0, gcd).max(1);
    scaled.into_iter().map(|weight| weight / divisor).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::circuit;
    use super::*;
    use crate::coordinator::model::Protocol;

    #[test]
    fn weights_are_small_and_true_to_the_ratios() {
        assert_eq!(weights(&[1.0, 1.0]), [1, 1]);
        assert_eq!(weights(&[0.7, 0.3]), [7, 3]);
        assert_eq!(weights(&[1.0, 0.5]), [2, 1]);
        assert_eq!(weights(&[1e-9, 3e-9]), [333_333, 1_000_000]);
        assert_eq!(
            weights(&[f64::MAX, f64::MAX / 2.0, f64::MIN_POSITIVE]),
            [1_000_000, 500_000, 1]
        );
        assert!(weights(&[]).is_empty());
    }

    #[test]
    fn an_assignment_leaves_out_who_gets_nothing_and_says_who_is_who() {
        let mut circuit = circuit(1, "a");
        let mut other = circuit.routes[0].clone();
        other.address = Some(([10, 0, 0, 1], 9).into());
        let mut nowhere = other.clone();
        nowhere.address = None;
        other.traffic_ratio = 0.0;
        circuit.routes[0].route_id = Some(uuid::Uuid::from_u128(7));
        circuit.routes.extend([other, nowhere]);
        let made = assignment(&circuit);
        assert_eq!(made.cluster_name, names::circuit(circuit.id));
        let [only] = &made.endpoints[0].lb_endpoints[..] else {
            panic!("{made:?}")
        };
        let metadata = only.metadata.as_ref().unwrap();
        let id = metadata.filter_metadata["causeway"].fields["id"]
            .kind
            .clone();
        let expected = uuid::Uuid::from_u128(7).to_string();
        assert_eq!(id, Some(value::Kind::StringValue(expected)));
        circuit.routes.clear();
        assert!(assignment(&circuit).endpoints.is_empty());
    }

    #[test]
    fn routes_to_one_address_share_an_endpoint() {
        let mut circuit = circuit(1, "a");
        let mut third = circuit.routes[0].clone();
        circuit.routes.push(third.clone());
        third.address = Some(([10, 0, 0, 1], 9).into());
        circuit.routes.push(third);
        let made = assignment(&circuit);
        let weights: Vec<_> = made.endpoints[0]
            .lb_endpoints
            .iter()
            .map(|e| e.load_balancing_weight.unwrap().value)
            .collect();
        assert_eq!(weights, [2, 1]);
    }

    #[test]
    fn only_an_http2_circuit_asks_for_http2() {
        let mut circuit = circuit(1, "a");
        assert!(
            cluster(&Frame::default(), &circuit)
                .typed_extension_protocol_options
                .is_empty()
        );
        circuit.protocol = Protocol::H2;
        assert!(
            cluster(&Frame::default(), &circuit)
                .typed_extension_protocol_options
                .contains_key(HTTP_OPTIONS)
        );
    }
}
