//! TcpProxy: message to typed.

use std::time::Duration;

use super::{ConnectionPolicy, TcpCluster, TcpProxy};
use crate::proto;
use crate::proto::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use crate::proto::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use crate::reject::Invalid;
use crate::resource::access_log::AccessLog;
use crate::resource::context::{
    At, Context, accept, duration, each, not_empty, number, refuse, required,
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
        let attempts = number(max_connect_attempts, "max_connect_attempts", 1..=u32::MAX)?;
        let max_duration = duration(
            max_downstream_connection_duration,
            "max_downstream_connection_duration",
        )?;
        if max_duration.is_some_and(|limit| limit < Duration::from_millis(1)) {
            let reason = "must be 1 ms or more";
            return Err(Invalid::at("max_downstream_connection_duration", reason));
        }
        let clusters = match required(cluster_specifier, "cluster")? {
            ClusterSpecifier::Cluster(cluster) => vec![TcpCluster {
                name: not_empty(cluster, "cluster")?,
                weight: 1,
            }],
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }) => {
                weighted(clusters).at("weighted_clusters")?
            }
        };
        Ok(Self {
            stat_prefix: not_empty(stat_prefix, "stat_prefix")?,
            clusters,
            idle_timeout: duration(idle_timeout, "idle_timeout")?.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            max_duration,
            max_connect_attempts: attempts.unwrap_or(1),
            policy: ConnectionPolicy::default(),
            access_logs: each("access_log", access_log, |log| AccessLog::decode(log, ctx))?,
        })
    }
}

fn weighted(clusters: Vec<ClusterWeight>) -> Result<Vec<TcpCluster>, Invalid> {
    const FIELD: &str = "clusters";
    if clusters.is_empty() {
        return Err(Invalid::at(FIELD, "must not be empty"));
    }
    let clusters = each(FIELD, clusters, |cluster| {
        let ClusterWeight {
            name,
            weight,
            metadata_match,
        } = cluster;
        refuse!(metadata_match);
        if weight == 0 {
            return Err(Invalid::at("weight", "must be 1 or more"));
        }
        let name = not_empty(name, "name")?;
        Ok(TcpCluster { name, weight })
    })?;
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    if total > u64::from(u32::MAX) {
        let reason = format!("weights add up to {total}, which is more than {}", u32::MAX);
        return Err(Invalid::at(FIELD, reason));
    }
    Ok(clusters)
}
