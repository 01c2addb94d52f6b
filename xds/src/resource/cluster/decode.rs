//! Cluster: message to typed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::connection::ConnectionOptions;
use super::dns::DnsFields;
use super::original_dst::Fields as OwnDiscovery;
use super::{
    Balancing, Cluster, Discovery, Dns, HealthCheck, Limits, Options, OriginalDst,
    OutlierDetection, Preconnect, RetryBudget, SocketMatch, UpstreamHttp, UpstreamProtocol, policy,
};
use crate::proto;
use crate::proto::core::{self, Metadata, RoutingPriority};
use crate::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig,
};
use crate::proto::envoy::config::cluster::v3::{
    CircuitBreakers,
    circuit_breakers::{Thresholds, thresholds},
};
use crate::proto::google::protobuf::Value;
use crate::proto::google::protobuf::value::Kind;
use crate::reject::Invalid;
use crate::resource::config_source::{ConfigSource, Place};
use crate::resource::context::{
    At, Context, accept, duration, each, enumeration, fault, is_default, not_empty, refuse,
    required,
};
use crate::resource::dns_resolver::DnsResolverFields;
use crate::resource::load_assignment::{LoadAssignment, OUR_METADATA};
use crate::resource::metadata::namespaces;
use crate::resource::tls::UpstreamTls;

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_MERGE_WINDOW: Duration = Duration::from_secs(1);

impl Cluster {
    pub(crate) fn decode(message: proto::Cluster, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(
            deprecated,
            reason = "older fields are still sent; the others are refused"
        )]
        let proto::Cluster {
            transport_socket_matches,
            transport_socket_matcher,
            name,
            alt_stat_name,
            stats_matcher,
            eds_cluster_config,
            connect_timeout,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            lb_policy,
            load_assignment,
            health_checks,
            max_requests_per_connection,
            circuit_breakers,
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            typed_extension_protocol_options,
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
            outlier_detection,
            cleanup_interval,
            upstream_bind_config,
            lb_subset_config,
            common_lb_config,
            transport_socket,
            metadata,
            protocol_selection,
            upstream_connection_options,
            close_connections_on_host_health_failure,
            ignore_health_on_host_removal,
            filters,
            load_balancing_policy,
            lrs_server,
            lrs_report_endpoint_metrics,
            track_timeout_budgets,
            upstream_config,
            track_cluster_stats,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = message;
        refuse!(
            transport_socket_matcher,
            per_connection_buffer_high_watermark_timeout,
            protocol_selection,
            close_connections_on_host_health_failure,
            filters,
            upstream_config,
            connection_pool_per_downstream_connection,
            queuing_policies,
        );
        let by_name = matches!(
            cluster_discovery_type,
            Some(ClusterDiscoveryType::Type(kind))
                if kind == DiscoveryType::StrictDns as i32 || kind == DiscoveryType::LogicalDns as i32
        );
        let mut dns = DnsFields::default();
        if by_name {
            dns = DnsFields {
                refresh_rate: dns_refresh_rate,
                failure_refresh_rate: dns_failure_refresh_rate,
                respect_ttl: respect_dns_ttl,
                jitter: dns_jitter,
                lookup_family: dns_lookup_family,
                resolver: DnsResolverFields {
                    typed_dns_resolver_config,
                    dns_resolution_config,
                    dns_resolvers,
                    use_tcp_for_dns_lookups,
                },
            };
        } else {
            accept!(ctx, "Cluster":
                dns_refresh_rate,
                dns_failure_refresh_rate,
                respect_dns_ttl,
                dns_jitter,
                dns_lookup_family,
                dns_resolvers,
                use_tcp_for_dns_lookups,
                dns_resolution_config,
                typed_dns_resolver_config,
            );
        }
        let (own_keys, metadata) = OwnKeys::take(metadata).at("metadata")?;
        let mut metadata = metadata.unwrap_or_default();
        let namespaces = namespaces(std::mem::take(&mut metadata.filter_metadata));
        accept!(ctx, "Cluster":
            stats_matcher,
            per_connection_buffer_limit_bytes,
            wait_for_warm_on_init,
            metadata,
            ignore_health_on_host_removal,
            lrs_report_endpoint_metrics,
            track_timeout_budgets,
            track_cluster_stats,
        );

        let original_dst = matches!(
            cluster_discovery_type,
            Some(ClusterDiscoveryType::Type(kind)) if kind == DiscoveryType::OriginalDst as i32
        );
        let own = match original_dst {
            true => Some(OwnDiscovery {
                cleanup_interval,
                config: match &lb_config {
                    Some(LbConfig::OriginalDstLbConfig(config)) => Some(config.clone()),
                    _ => None,
                },
                has_assignment: load_assignment.is_some(),
                has_eds: eds_cluster_config.is_some(),
            }),
            false => {
                accept!(ctx, "Cluster": cleanup_interval);
                None
            }
        };
        if original_dst && !health_checks.is_empty() {
            return Err(Invalid::at(
                "health_checks",
                "not supported for a cluster of type ORIGINAL_DST",
            ));
        }
        let name = not_empty(name, "name")?;
        let timeout = duration(connect_timeout, "connect_timeout")?;
        let connect_timeout = timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        if connect_timeout.is_zero() {
            return Err(Invalid::at("connect_timeout", "must be greater than zero"));
        }
        let (proxy_protocol, socket, at) = super::proxy_protocol::unwrap(transport_socket)?;
        let tls = UpstreamTls::from_socket(socket, ctx).at(at)?;
        let http = UpstreamHttp::decode(
            super::protocol::HttpFields {
                typed: typed_extension_protocol_options,
                max_requests_per_connection,
                upstream_http_protocol_options,
                common_http_protocol_options,
                http_protocol_options,
                http2_protocol_options,
            },
            ctx,
        )?;
        let sockets = each(
            "transport_socket_matches",
            transport_socket_matches,
            |one| SocketMatch::decode(one, ctx),
        )?;
        let clear = tls.is_none() || sockets.iter().any(|socket| socket.tls.is_none());
        if matches!(http.protocol, UpstreamProtocol::Auto(_)) && clear {
            // There is nothing else to choose a protocol by.
            return Err(Invalid::at(
                "transport_socket",
                "must be TLS with auto_config",
            ));
        }
        let connection = upstream_connection_options
            .map_or(Ok(ConnectionOptions::default()), |options| {
                ConnectionOptions::decode(options, ctx)
            })
            .at("upstream_connection_options")?;
        let (limits, high_limits) = circuit_breakers
            .map_or(Ok(Default::default()), |c| Limits::decode(c, ctx))
            .at("circuit_breakers")?;
        let discovery = match own {
            Some(own) => OriginalDst::decode(own)?,
            None => Discovery::decode(
                &name,
                cluster_discovery_type,
                load_assignment,
                eds_cluster_config,
                dns,
                ctx,
            )?,
        };
        let options = Options {
            metadata: namespaces,
            connect_timeout,
            queue_timeout: own_keys.queue_timeout.unwrap_or(connect_timeout),
            health_check: HealthCheck::decode_list(health_checks, own_keys.background_checks)?
                .map(Arc::new),
            outlier: outlier_detection
                .map(OutlierDetection::decode)
                .transpose()
                .at("outlier_detection")?,
            merge_window: merge_window(common_lb_config.as_ref()).at("common_lb_config")?,
            balancing: Balancing::decode(
                policy::Fields {
                    lb_policy,
                    lb_config,
                    common_lb_config,
                    load_balancing_policy,
                    lb_subset_config,
                    provided: original_dst,
                },
                ctx,
            )?,
            limits,
            high_limits,
            http,
            tls,
            sockets,
            proxy_protocol,
            source_addresses: upstream_bind_config
                .map_or(Ok(Default::default()), super::bind::decode)
                .at("upstream_bind_config")?,
            tcp_keepalive: connection.tcp_keepalive,
            happy_eyeballs: connection.happy_eyeballs,
            preconnect: preconnect_policy
                .map_or(Ok(None), Preconnect::decode)
                .at("preconnect_policy")?,
            load_reports: lrs_server
                .map(|source| decode_load_reports(source, ctx))
                .transpose()
                .at("lrs_server")?,
        };
        Ok(Self {
            name,
            alt_stat_name,
            discovery,
            options: Arc::new(options),
        })
    }
}

/// What a cluster says to us in its metadata.
#[derive(Default)]
struct OwnKeys {
    background_checks: bool,
    queue_timeout: Option<Duration>,
}

impl OwnKeys {
    /// Takes them out of the metadata; without the rest if there is none.
    fn take(metadata: Option<Metadata>) -> Result<(Self, Option<Metadata>), Invalid> {
        let mut keys = Self::default();
        let Some(mut metadata) = metadata else {
            return Ok((keys, None));
        };
        if let Some(ours) = metadata.filter_metadata.get_mut(OUR_METADATA) {
            keys.read(&mut ours.fields)
                .at_key("filter_metadata", OUR_METADATA)?;
        }
        metadata
            .filter_metadata
            .retain(|namespace, values| namespace != OUR_METADATA || !values.fields.is_empty());
        Ok((keys, Some(metadata).filter(|left| !is_default(left))))
    }

    fn read(&mut self, fields: &mut HashMap<String, Value>) -> Result<(), Invalid> {
        const BACKGROUND: &str = "background_checks";
        const QUEUE: &str = "queue_timeout";
        match fields.remove(BACKGROUND).map(|value| value.kind) {
            None => {}
            Some(Some(Kind::BoolValue(background))) => self.background_checks = background,
            Some(_) => return Err(fault("is neither true nor false")).at(BACKGROUND),
        }
        let Some(value) = fields.remove(QUEUE) else {
            return Ok(());
        };
        let seconds = match &value.kind {
            Some(Kind::StringValue(text)) => text.strip_suffix('s').and_then(|n| n.parse().ok()),
            _ => None,
        };
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let time = time.filter(|time| !time.is_zero());
        let wrong = || fault("is not a duration above 0, as in \"1.5s\"");
        self.queue_timeout = Some(time.ok_or_else(wrong).at(QUEUE)?);
        Ok(())
    }
}

fn merge_window(common: Option<&CommonLbConfig>) -> Result<Duration, Invalid> {
    let window = common.and_then(|common| common.update_merge_window);
    Ok(duration(window, "update_merge_window")?.unwrap_or(DEFAULT_MERGE_WINDOW))
}

/// Where the reports go: to a server, as its service takes them.
fn decode_load_reports(message: core::ConfigSource, ctx: &Context<'_>) -> Result<Place, Invalid> {
    match ConfigSource::decode(message, ctx)?.place {
        Place::Api(source) => source
            .check_streams()
            .map(|()| Place::Api(source))
            .at("api_config_source"),
        place @ (Place::SameOrigin | Place::Ads) => Ok(place),
        _ => Err(fault(
            "a file takes no reports; must be a management server",
        )),
    }
}

impl Discovery {
    fn decode(
        cluster: &str,
        kind: Option<ClusterDiscoveryType>,
        load_assignment: Option<proto::ClusterLoadAssignment>,
        eds: Option<EdsClusterConfig>,
        dns: DnsFields,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let kind = match kind {
            None => DiscoveryType::Static,
            Some(ClusterDiscoveryType::Type(kind)) => enumeration(kind, "type")?,
            Some(ClusterDiscoveryType::ClusterType(custom)) => {
                return Dns::decode_custom(cluster, custom, load_assignment, ctx);
            }
        };
        if eds.is_some() && kind != DiscoveryType::Eds {
            return Err(Invalid::at(
                "eds_cluster_config",
                "the cluster is not of type EDS",
            ));
        }
        match kind {
            DiscoveryType::StrictDns => Dns::decode(cluster, false, dns, load_assignment, ctx),
            DiscoveryType::LogicalDns => Dns::decode(cluster, true, dns, load_assignment, ctx),
            DiscoveryType::Static => {
                let assignment = match load_assignment {
                    Some(message) => LoadAssignment::decode(message, ctx).at("load_assignment")?,
                    None => LoadAssignment::empty(cluster),
                };
                Ok(Self::Static(assignment))
            }
            DiscoveryType::Eds => {
                if load_assignment.is_some() {
                    return Err(Invalid::at("load_assignment", "the cluster is of type EDS"));
                }
                let EdsClusterConfig {
                    eds_config,
                    service_name,
                } = required(eds, "eds_cluster_config")?;
                let source = ConfigSource::decode_field(eds_config, "eds_config", ctx)
                    .at("eds_cluster_config")?;
                let service_name = match service_name.is_empty() {
                    true => cluster.to_owned(),
                    false => service_name,
                };
                Ok(Self::Eds {
                    service_name,
                    source,
                })
            }
            other => Err(Invalid::at(
                "type",
                format!("{} is not supported yet", other.as_str_name()),
            )),
        }
    }
}

impl Limits {
    /// Those of the default priority, and those of the high one.
    fn decode(message: CircuitBreakers, ctx: &Context<'_>) -> Result<(Self, Self), Invalid> {
        let CircuitBreakers {
            thresholds,
            per_host_thresholds,
        } = message;
        refuse!(per_host_thresholds);
        let (mut default, mut high) = (None, None);
        for (index, one) in thresholds.into_iter().enumerate() {
            let (priority, one) = Self::threshold(one, ctx).at_index("thresholds", index)?;
            let limits = match priority {
                RoutingPriority::Default => &mut default,
                RoutingPriority::High => &mut high,
            };
            // The first of a priority counts, as in Envoy.
            limits.get_or_insert(one);
        }
        Ok((default.unwrap_or_default(), high.unwrap_or_default()))
    }

    fn threshold(
        message: Thresholds,
        ctx: &Context<'_>,
    ) -> Result<(RoutingPriority, Self), Invalid> {
        let Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = message;
        accept!(ctx, "CircuitBreakers.Thresholds": max_connection_pools);
        let default = Self::default();
        let or = |given: Option<proto::UInt32Value>, default| given.map_or(default, |v| v.value);
        let limits = Self {
            max_connections: or(max_connections, default.max_connections),
            max_pending_requests: or(max_pending_requests, default.max_pending_requests),
            max_requests: or(max_requests, default.max_requests),
            max_retries: or(max_retries, default.max_retries),
            retry_budget: retry_budget
                .map(RetryBudget::decode)
                .transpose()
                .at("retry_budget")?,
            track_remaining,
        };
        Ok((enumeration(priority, "priority")?, limits))
    }
}

impl RetryBudget {
    fn decode(message: thresholds::RetryBudget) -> Result<Self, Invalid> {
        const DEFAULT_PERCENT: f64 = 20.0;
        const DEFAULT_MIN: u32 = 3;
        let thresholds::RetryBudget {
            budget_percent,
            min_retry_concurrency,
            budget_interval,
        } = message;
        refuse!(budget_interval);
        let percent = budget_percent.map_or(DEFAULT_PERCENT, |p| p.value);
        if !(0.0..=100.0).contains(&percent) {
            let reason = format!("{percent} is not within 0 and 100");
            return Err(Invalid::at("budget_percent", reason));
        }
        Ok(Self {
            millionths: (percent * 10_000.0).round() as u32,
            min: min_retry_concurrency.map_or(DEFAULT_MIN, |n| n.value),
        })
    }
}
