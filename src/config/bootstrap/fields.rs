//! What becomes of each field of the bootstrap.

use std::net::{IpAddr, SocketAddr};

use causeway_xds::ResourceType;
use causeway_xds::proto::core::address::Address as AddressKind;
use causeway_xds::proto::core::socket_address::PortSpecifier;
use causeway_xds::proto::envoy::config::bootstrap::v3 as proto;
use causeway_xds::proto::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use causeway_xds::proto::envoy::config::overload::v3::OverloadManager;
use causeway_xds::proto::envoy::config::overload::v3::resource_monitor::ConfigType;
use causeway_xds::proto::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use causeway_xds::proto::{Message as _, core};
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::dns_resolver::{DnsResolver, DnsResolverFields};
use causeway_xds::type_url::message_name;

use super::{BootstrapConfig, Runtime, dynamic, pack, static_updates};
use crate::config::xds::XdsConfig;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Errors when one of the named fields is set.
macro_rules! refuse {
    ($at:expr; $($field:ident),+ $(,)?) => {$(
        if !is_default(&$field) {
            return Err(Invalid::unsupported($at.field(stringify!($field))));
        }
    )+};
}

/// Notes which of the named fields are set.
macro_rules! ignore {
    ($ignored:expr, $prefix:literal; $($field:ident),+ $(,)?) => {$(
        if !is_default(&$field) {
            $ignored.push(concat!($prefix, stringify!($field)));
        }
    )+};
}

pub(super) fn read(message: proto::Bootstrap) -> Result<BootstrapConfig, Invalid> {
    let whole = message.clone();
    #[allow(deprecated, reason = "named so that each has a fate")]
    let proto::Bootstrap {
        node,
        static_resources,
        dynamic_resources,
        admin,
        layered_runtime,
        cluster_manager,
        header_prefix,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        // Without effect: they tune or observe Envoy itself.
        node_context_params,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        stats_flush,
        stats_eviction,
        watchdog,
        watchdogs,
        overload_manager,
        enable_dispatcher_stats,
        stats_server_version_override,
        bootstrap_extensions,
        fatal_actions,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        // Refused: traffic or configuration would differ without them.
        hds_config,
        tracing,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
    } = message;
    let root = FieldPath::root();
    refuse!(root; hds_config, tracing, config_sources, default_config_source,
        default_socket_interface, certificate_provider_instances, xds_delegate_extension,
        xds_config_tracker_extension, listener_manager);
    if !matches!(header_prefix.as_str(), "" | "x-envoy") {
        return Err(Invalid::unsupported(root.field("header_prefix")));
    }
    let mut ignored = Vec::new();
    ignore!(ignored, ""; node_context_params, flags_path, stats_sinks, deferred_stat_options,
        stats_config, stats_flush_interval, stats_flush, stats_eviction, watchdog, watchdogs,
        enable_dispatcher_stats, stats_server_version_override,
        bootstrap_extensions, fatal_actions, inline_headers, perf_tracing_file_path,
        default_regex_engine, application_log_config, grpc_async_client_manager_config,
        memory_allocator_manager, enable_worker_cpu_affinity);
    let max_connections = overload_manager
        .map(|manager| overload(manager, &mut ignored))
        .transpose()
        .map_err(|e| e.within(&root.field("overload_manager")))?;
    let (local_cluster, load_stats) =
        self::cluster_manager(cluster_manager.unwrap_or_default(), &mut ignored)
            .map_err(|e| e.within(&root.field("cluster_manager")))?;

    let admin = admin.map(|a| self::admin(a, &mut ignored)).transpose();
    let admin = admin.map_err(|e| e.within(&root.field("admin")))?.flatten();
    let StaticResources {
        listeners,
        clusters,
        secrets,
    } = static_resources.unwrap_or_default();
    if let Some(name) = &local_cluster
        && !clusters.iter().any(|cluster| cluster.name == *name)
    {
        let at = root.field("cluster_manager").field("local_cluster_name");
        let reason = format!("{name:?} is not among static_resources.clusters");
        return Err(Invalid::new(at, reason));
    }
    let resolver = DnsResolverFields {
        typed_dns_resolver_config,
        dns_resolution_config,
        dns_resolvers: Vec::new(),
        use_tcp_for_dns_lookups,
    };
    let mut xds = XdsConfig {
        node: node.unwrap_or_default(),
        resolver: DnsResolver::read(resolver, &mut ignored)?,
        ..XdsConfig::default()
    };
    let sources = dynamic_resources.unwrap_or_default();
    dynamic::read(sources, &clusters, &mut xds, &mut ignored)
        .map_err(|e| e.within(&root.field("dynamic_resources")))?;
    xds.load_reports = load_stats
        .map(|message| dynamic::load_reports(message, &clusters, &mut ignored))
        .transpose()
        .map_err(|e| e.within(&root.field("cluster_manager.load_stats_config")))?;
    dynamic::check_node(&xds)?;
    ignored.sort_unstable();
    ignored.dedup();
    Ok(BootstrapConfig {
        xds,
        admin,
        static_updates: static_updates([
            (ResourceType::Secret, pack(ResourceType::Secret, &secrets)),
            (
                ResourceType::Cluster,
                pack(ResourceType::Cluster, &clusters),
            ),
            (
                ResourceType::Listener,
                pack(ResourceType::Listener, &listeners),
            ),
        ]),
        runtime: Runtime::read(layered_runtime)?,
        local_cluster,
        max_connections: max_connections.flatten(),
        ignored: ignored.into_iter().map(str::to_owned).collect(),
        message: whole,
    })
}

/// The limit of connections is the one resource that is watched.
fn overload(
    message: OverloadManager,
    ignored: &mut Vec<&'static str>,
) -> Result<Option<u32>, Invalid> {
    const CONNECTIONS: &str =
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
    let OverloadManager {
        refresh_interval,
        resource_monitors,
        actions,
        loadshed_points,
        buffer_factory_config,
    } = message;
    ignore!(ignored, "overload_manager."; refresh_interval, actions, loadshed_points, buffer_factory_config);
    let mut most = None;
    for (index, monitor) in resource_monitors.into_iter().enumerate() {
        let Some(ConfigType::TypedConfig(any)) = monitor.config_type else {
            ignored.push("overload_manager.resource_monitors");
            continue;
        };
        if message_name(&any.type_url) != CONNECTIONS {
            ignored.push("overload_manager.resource_monitors");
            continue;
        }
        let at = FieldPath::root().field("resource_monitors").index(index);
        let at = at.field("typed_config");
        let DownstreamConnectionsConfig {
            max_active_downstream_connections: given,
        } = DownstreamConnectionsConfig::decode(any.value.as_slice())
            .map_err(|e| Invalid::new(at.clone(), e.to_string()))?;
        if given <= 0 {
            let at = at.field("max_active_downstream_connections");
            return Err(Invalid::new(at, "must be greater than zero"));
        }
        most = Some(u32::try_from(given).unwrap_or(u32::MAX));
    }
    Ok(most)
}

fn cluster_manager(
    message: proto::ClusterManager,
    ignored: &mut Vec<&'static str>,
) -> Result<(Option<String>, Option<core::ApiConfigSource>), Invalid> {
    let proto::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = message;
    refuse!(FieldPath::root(); upstream_bind_config);
    ignore!(ignored, "cluster_manager."; outlier_detection, enable_deferred_cluster_creation);
    let local_cluster = Some(local_cluster_name).filter(|name| !name.is_empty());
    Ok((local_cluster, load_stats_config))
}

fn admin(
    message: proto::Admin,
    ignored: &mut Vec<&'static str>,
) -> Result<Option<SocketAddr>, Invalid> {
    #[allow(deprecated, reason = "named so that each has a fate")]
    let proto::Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = message;
    // It narrows what the port answers: taking it silently would open more than was asked for.
    refuse!(FieldPath::root(); allow_paths);
    ignore!(ignored, "admin."; access_log, access_log_path, profile_path, socket_options,
        ignore_global_conn_limit);
    let at = FieldPath::root().field("address");
    address
        .map(|a| socket_address(a).map_err(|e| e.within(&at)))
        .transpose()
}

fn socket_address(message: core::Address) -> Result<SocketAddr, Invalid> {
    let core::Address { address } = message;
    let address = match address {
        Some(AddressKind::SocketAddress(address)) => address,
        Some(AddressKind::Pipe(_)) => {
            return Err(Invalid::unsupported(FieldPath::root().field("pipe")));
        }
        Some(AddressKind::EnvoyInternalAddress(_)) => {
            let at = FieldPath::root().field("envoy_internal_address");
            return Err(Invalid::unsupported(at));
        }
        None => return Err(Invalid::at("address", "must be given")),
    };
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = address;
    let at = FieldPath::root().field("socket_address");
    refuse!(at; protocol, resolver_name, ipv4_compat, network_namespace_filepath);
    let ip: IpAddr = address
        .parse()
        .map_err(|_| Invalid::new(at.field("address"), format!("{address:?} is no IP address")))?;
    match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
            .map(|port| SocketAddr::new(ip, port))
            .map_err(|_| Invalid::new(at.field("port_value"), format!("{port} is no port"))),
        Some(PortSpecifier::NamedPort(_)) => Err(Invalid::unsupported(at.field("named_port"))),
        None => Err(Invalid::new(at.field("port_value"), "must be given")),
    }
}
