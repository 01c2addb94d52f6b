//! TcpProxy: message to typed.

use std::time::Duration;

use super::{ConnectionPolicy, TcpProxy};
use crate::proto;
use crate::proto::tcp_proxy::tcp_proxy::ClusterSpecifier;
use crate::reject::Invalid;
use crate::resource::access_log::AccessLog;
use crate::resource::context::{
    Context, accept, duration, each, not_empty, number, refuse, required,
};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl TcpProxy {
    pub(super) fn decode(message: proto::TcpProxy, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let proto::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = message;
        refuse!(
            on_demand,
            metadata_match,
            downstream_idle_timeout,
            upstream_idle_timeout,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
        );
        accept!(ctx, "TcpProxy":
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            check_drain_close,
        );
        if number(max_connect_attempts, "max_connect_attempts", 1..=u32::MAX)?.unwrap_or(1) > 1 {
            return Err(Invalid::at("max_connect_attempts", "not supported yet"));
        }
        let cluster = match required(cluster_specifier, "cluster")? {
            ClusterSpecifier::Cluster(cluster) => not_empty(cluster, "cluster")?,
            ClusterSpecifier::WeightedClusters(_) => {
                return Err(Invalid::at("weighted_clusters", "not supported yet"));
            }
        };
        Ok(Self {
            stat_prefix: not_empty(stat_prefix, "stat_prefix")?,
            cluster,
            idle_timeout: duration(idle_timeout, "idle_timeout")?.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            policy: ConnectionPolicy::default(),
            access_logs: each("access_log", access_log, |log| AccessLog::decode(log, ctx))?,
        })
    }
}
