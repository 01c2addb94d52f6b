//! Listeners, and the two kinds of filter chain that circuits need.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use causeway_xds::proto::Message;
use causeway_xds::proto::causeway::v1 as own;
use causeway_xds::proto::core::{
    self, ConfigSource, DataSource, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions, SelfConfigSource, SocketAddress, TransportSocket, TypedExtensionConfig,
    config_source::ConfigSourceSpecifier, data_source, socket_address, transport_socket,
};
use causeway_xds::proto::envoy::extensions::http::original_ip_detection::xff::v3::{
    XffConfig, XffTrustedCidrs,
};
use causeway_xds::proto::hcm::Rds;
use causeway_xds::proto::hcm::http_connection_manager::{
    CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use causeway_xds::proto::listener::{Filter, FilterChain, filter};
use causeway_xds::proto::tcp_proxy::tcp_proxy::ClusterSpecifier;
use causeway_xds::proto::tls::{CommonTlsContext, TlsCertificate};
use causeway_xds::proto::{self, DownstreamTlsContext, HttpConnectionManager, Listener, TcpProxy};
use causeway_xds::type_url::pack_as;
use ipnet::IpNet;

use super::cluster::CONNECT_TIMEOUT;
use super::{Frame, filters, names};
use crate::config::{Certificates, TlsFiles};
use crate::coordinator::model::Circuit;

const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const AUTOMATIC: &str = "causeway.v1.AutomaticCertificates";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// How many kernels a connection of a TCP circuit is offered to.
const KERNELS: u32 = 3;
/// A notebook page left alone keeps its connection; the legacy 30 s cost a reconnect per click.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// More than the default 60: cookies of several apps on one domain add up.
const MAX_HEADERS_KB: u32 = 96;
/// Long for the slowest line, short for somebody who sends a byte a minute to hold a connection.
const REQUEST_HEADERS: Duration = Duration::from_secs(60);

/// A listener that serves HTTP by the RouteConfiguration of the same name.
pub fn http(frame: &Frame, name: &str, at: SocketAddr, tls: Option<&Certificates>) -> Listener {
    // One prefix for all slots: statistics must not grow with the port range.
    let stat_prefix = name.split('/').next().unwrap_or(name);
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        codec_type: CodecType::Auto.into(),
        http_filters: filters::chain(frame),
        use_remote_address: Some(proto::BoolValue {
            value: frame.trusted_proxies.is_empty(),
        }),
        original_ip_detection_extensions: trusting(frame),
        generate_request_id: Some(proto::BoolValue { value: true }),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        max_request_headers_kb: Some(uint32(MAX_HEADERS_KB)),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(duration(KEEP_ALIVE)),
            ..HttpProtocolOptions::default()
        }),
        // Old scripts and probes speak it, and some of them name no host.
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            default_host_for_http_10: "localhost".to_owned(),
            // Which methods an app knows is not ours to know either.
            allow_custom_methods: true,
            ..Http1ProtocolOptions::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            // WebSockets over HTTP/2 (RFC 8441).
            allow_connect: true,
            // One client's mistake is not to end what others run through a proxy in front.
            override_stream_error_on_invalid_http_message: Some(proto::BoolValue { value: true }),
            ..Http2ProtocolOptions::default()
        }),
        // A kernel socket may be silent for hours and a model may think for minutes.
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        request_headers_timeout: Some(duration(REQUEST_HEADERS)),
        // Any upgrade: which protocols an app speaks is not ours to know.
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "*".to_owned(),
            ..UpgradeConfig::default()
        }],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(same_origin()),
            route_config_name: name.to_owned(),
        })),
        ..HttpConnectionManager::default()
    };
    let filter = network_filter("http_connection_manager", &manager, HCM);
    listener(name, at, vec![filter], tls)
}

/// Whose word about the client counts. Without proxies in front the connection alone tells.
fn trusting(frame: &Frame) -> Vec<TypedExtensionConfig> {
    if frame.trusted_proxies.is_empty() {
        return Vec::new();
    }
    let network = |network: &IpNet| core::CidrRange {
        address_prefix: network.network().to_string(),
        prefix_len: Some(uint32(network.prefix_len().into())),
    };
    let config = XffConfig {
        xff_trusted_cidrs: Some(XffTrustedCidrs {
            cidrs: frame.trusted_proxies.iter().map(network).collect(),
        }),
        skip_xff_append: Some(proto::BoolValue { value: false }),
        ..XffConfig::default()
    };
    vec![TypedExtensionConfig {
        name: "envoy.http.original_ip_detection.xff".to_owned(),
        typed_config: Some(pack_as(&config, XFF)),
    }]
}

/// The listener of a port that no circuit has.
pub fn empty_slot(frame: &Frame, name: &str, at: SocketAddr) -> Listener {
    if !frame.raw_ports {
        return http(frame, name, at, frame.tls.as_ref());
    }
    let nobody = own::ConnectionPolicy {
        allowed_client_ips: vec![filters::NOBODY.to_owned()],
        ..own::ConnectionPolicy::default()
    };
    relayed(name, at, (&nobody, Duration::ZERO), (names::NOBODY, 1))
}

/// A listener that hands connections to a circuit's kernels as they are.
pub fn tcp(frame: &Frame, name: &str, at: SocketAddr, circuit: &Circuit) -> Listener {
    let mut policy = own::ConnectionPolicy {
        allowed_client_ips: filters::allowed(circuit),
        log: frame.tcp_log,
        // Whoever waits has not to wait longer for several kernels than for one.
        connect_deadline_ms: match circuit.routes.len() {
            0 | 1 => 0,
            _ => u32::try_from(CONNECT_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
        },
        ..own::ConnectionPolicy::default()
    };
    if frame.usage {
        policy.circuit = circuit.id.to_string();
        policy.sessions = circuit.sessions().iter().map(ToString::to_string).collect();
    }
    relayed(
        name,
        at,
        (&policy, frame.tcp_idle),
        (&names::circuit(circuit.id), circuit.routes.len()),
    )
}

fn relayed(
    name: &str,
    at: SocketAddr,
    (policy, idle): (&own::ConnectionPolicy, Duration),
    (cluster, kernels): (&str, usize),
) -> Listener {
    // Nothing was said yet when a kernel cannot be reached, so that the next one will do.
    let attempts = u32::try_from(kernels).map_or(KERNELS, |all| all.clamp(1, KERNELS));
    let proxy = TcpProxy {
        stat_prefix: "slot".to_owned(),
        // SSH and database connections are idle by nature: no limit unless somebody wants one.
        idle_timeout: Some(duration(idle)),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        max_connect_attempts: (attempts > 1).then(|| uint32(attempts)),
        ..TcpProxy::default()
    };
    let policy = Filter {
        name: "causeway.connection".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack_as(
            policy,
            "causeway.v1.ConnectionPolicy",
        ))),
    };
    let proxy = network_filter("tcp_proxy", &proxy, TCP_PROXY);
    listener(name, at, vec![policy, proxy], None)
}

fn network_filter(name: &str, config: &impl Message, kind: &str) -> Filter {
    Filter {
        name: format!("envoy.filters.network.{name}"),
        config_type: Some(filter::ConfigType::TypedConfig(pack_as(config, kind))),
    }
}

fn listener(
    name: &str,
    at: SocketAddr,
    filters: Vec<Filter>,
    tls: Option<&Certificates>,
) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        filter_chains: vec![FilterChain {
            filters,
            transport_socket: tls.map(tls_socket),
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn tls_socket(certificates: &Certificates) -> TransportSocket {
    let mut common = CommonTlsContext {
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..CommonTlsContext::default()
    };
    match certificates {
        Certificates::Files(files) => common.tls_certificates = vec![certificate(files)],
        Certificates::Automatic => {
            let selector = pack_as(&own::AutomaticCertificates {}, AUTOMATIC);
            common.custom_tls_certificate_selector = Some(TypedExtensionConfig {
                name: "causeway.automatic_certificates".to_owned(),
                typed_config: Some(selector),
            });
        }
    }
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        ..DownstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack_as(
            &context, TLS,
        ))),
    }
}

fn certificate(files: &TlsFiles) -> TlsCertificate {
    let file = |path: &Path| DataSource {
        specifier: Some(data_source::Specifier::Filename(path.display().to_string())),
        ..DataSource::default()
    };
    let directory = files.certificate.parent();
    let directory = directory.filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    TlsCertificate {
        certificate_chain: Some(file(&files.certificate)),
        private_key: Some(file(&files.private_key)),
        // Renewed files are in use at once. Whoever writes them writes the key first, or both.
        watched_directory: Some(core::WatchedDirectory {
            path: directory.display().to_string(),
            ..core::WatchedDirectory::default()
        }),
        ..TlsCertificate::default()
    }
}

/// `self`: what is referred to comes from the Coordinator too.
pub(super) fn same_origin() -> ConfigSource {
    ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Self_(SelfConfigSource {
            transport_api_version: core::ApiVersion::V3.into(),
        })),
        ..ConfigSource::default()
    }
}

pub(super) fn address(at: SocketAddr) -> core::Address {
    let socket = SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(at.port().into())),
        ..SocketAddress::default()
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    }
}

pub(super) fn duration(length: Duration) -> proto::Duration {
    proto::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) const fn uint32(value: u32) -> proto::UInt32Value {
    proto::UInt32Value { value }
}
