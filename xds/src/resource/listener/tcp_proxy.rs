//! TcpProxy: message to typed.

use std::time::Duration;

use super::{ConnectionPolicy, LogTimes, TcpCluster, TcpHash, TcpProxy, TlvMerge, Tunneling};
use crate::proto;
use crate::proto::core::BackoffStrategy;
use crate::proto::envoy::r#type::v3::HashPolicy;
use crate::proto::envoy::r#type::v3::hash_policy::{FilterState, PolicySpecifier, SourceIp};
use crate::proto::tcp_proxy::tcp_proxy::TcpAccessLogOptions;
use crate::proto::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use crate::proto::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use crate::proto::tcp_proxy::{ProxyProtocolTlvMergePolicy, UpstreamConnectMode};
use crate::reject::Invalid;
use crate::resource::access_log::AccessLog;
use crate::resource::context::{
    At, Context, accept, duration, each, enumeration, not_empty, number, percent, required,
};
use crate::resource::metadata::Labels;
use crate::resource::route::labels;
use crate::resource::tlv::TlvSource;

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
        if on_demand.is_some() {
            let reason =
                "not supported: clusters are not asked for by connections, name one that is known";
            return Err(Invalid::at("on_demand", reason));
        }
        accept!(ctx, "TcpProxy": check_drain_close);
        let old = LogTimes {
            start: false,
            connected: flush_access_log_on_connected,
            every: interval(access_log_flush_interval, "access_log_flush_interval")?,
        };
        let log_times = match access_log_options {
            None => old,
            Some(_) if old != LogTimes::default() => {
                let reason = "is given beside the older fields for the same";
                return Err(Invalid::at("access_log_options", reason));
            }
            Some(options) => log_times(options).at("access_log_options")?,
        };
        let attempts = number(max_connect_attempts, "max_connect_attempts", 1..=u32::MAX)?;
        let max_duration = duration(
            max_downstream_connection_duration,
            "max_downstream_connection_duration",
        )?;
        if max_duration.is_some_and(|limit| limit < Duration::from_millis(1)) {
            let reason = "must be 1 ms or more";
            return Err(Invalid::at("max_downstream_connection_duration", reason));
        }
        let jitter = "max_downstream_connection_duration_jitter_percentage";
        let jitter = percent(max_downstream_connection_duration_jitter_percentage, jitter)?;
        let labels = labels(metadata_match);
        let clusters = match required(cluster_specifier, "cluster")? {
            ClusterSpecifier::Cluster(cluster) => vec![TcpCluster {
                name: not_empty(cluster, "cluster")?,
                weight: 1,
                labels,
            }],
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }) => {
                weighted(clusters, &labels).at("weighted_clusters")?
            }
        };
        Ok(Self {
            stat_prefix: not_empty(stat_prefix, "stat_prefix")?,
            clusters,
            idle_timeout: duration(idle_timeout, "idle_timeout")?.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            downstream_idle_timeout: duration(downstream_idle_timeout, "downstream_idle_timeout")?
                .unwrap_or_default(),
            upstream_idle_timeout: duration(upstream_idle_timeout, "upstream_idle_timeout")?
                .unwrap_or_default(),
            awaits_data: awaited(upstream_connect_mode, max_early_data_bytes)?,
            max_duration,
            max_duration_jitter: jitter.unwrap_or_default(),
            max_connect_attempts: attempts.unwrap_or(1),
            backoff: backoff_options
                .map(backoff)
                .transpose()
                .at("backoff_options")?,
            hash: hashed(hash_policy)?,
            policy: ConnectionPolicy::default(),
            access_logs: each("access_log", access_log, |log| AccessLog::decode(log, ctx))?,
            log_times,
            tlvs: each("proxy_protocol_tlvs", proxy_protocol_tlvs, |tlv| {
                TlvSource::decode(tlv, ctx)
            })?,
            tunneling: tunneling_config
                .map(|config| Tunneling::decode(config, ctx))
                .transpose()
                .at("tunneling_config")?,
            tlv_merge: merge(proxy_protocol_tlv_merge_policy)?,
        })
    }
}

fn merge(policy: i32) -> Result<TlvMerge, Invalid> {
    use ProxyProtocolTlvMergePolicy as Policy;
    Ok(
        match enumeration(policy, "proxy_protocol_tlv_merge_policy")? {
            Policy::AddIfAbsent => TlvMerge::IfAbsent,
            Policy::OverwriteByTypeIfExistsOrAdd => TlvMerge::Overwrite,
            Policy::AppendIfExistsOrAdd => TlvMerge::Append,
        },
    )
}

/// How often, if it is; as with Envoy at most a thousand times a second.
fn interval(value: Option<proto::Duration>, field: &str) -> Result<Duration, Invalid> {
    match duration(value, field)? {
        Some(every) if every < Duration::from_millis(1) => {
            Err(Invalid::at(field, "must be 1 ms or more"))
        }
        every => Ok(every.unwrap_or_default()),
    }
}

fn log_times(message: TcpAccessLogOptions) -> Result<LogTimes, Invalid> {
    let TcpAccessLogOptions {
        access_log_flush_interval,
        flush_access_log_on_connected,
        flush_access_log_on_start,
    } = message;
    Ok(LogTimes {
        start: flush_access_log_on_start,
        connected: flush_access_log_on_connected,
        every: interval(access_log_flush_interval, "access_log_flush_interval")?,
    })
}

fn backoff(message: BackoffStrategy) -> Result<(Duration, Duration), Invalid> {
    let BackoffStrategy {
        base_interval,
        max_interval,
    } = message;
    let base = required(duration(base_interval, "base_interval")?, "base_interval")?;
    if base < Duration::from_millis(1) {
        return Err(Invalid::at("base_interval", "must be 1 ms or more"));
    }
    match duration(max_interval, "max_interval")? {
        Some(max) if max < base => Err(Invalid::at(
            "max_interval",
            "must not be less than base_interval",
        )),
        max => Ok((base, max.unwrap_or(base.saturating_mul(10)))),
    }
}

/// How much of what the client says is held until there is an endpoint, if one is only connected to
/// once it has spoken.
fn awaited(mode: i32, early: Option<proto::UInt32Value>) -> Result<Option<u32>, Invalid> {
    use UpstreamConnectMode as Mode;
    const FIELD: &str = "max_early_data_bytes";
    let mode = enumeration(mode, "upstream_connect_mode")?;
    let early = number(early, FIELD, 0..=1 << 20)?;
    match (mode, early) {
        // Without waiting nothing is held here: what comes early stays in the socket.
        (Mode::Immediate, _) => Ok(None),
        (_, None) => Err(Invalid::at(
            FIELD,
            "must be given with this upstream_connect_mode",
        )),
        // The handshake always comes first.
        (Mode::OnDownstreamTlsHandshake, Some(_)) => Ok(None),
        (Mode::OnDownstreamData, Some(early)) => Ok(Some(early)),
    }
}

fn hashed(policies: Vec<HashPolicy>) -> Result<Option<TcpHash>, Invalid> {
    const FIELD: &str = "hash_policy";
    if policies.len() > 1 {
        return Err(Invalid::at(FIELD, "must be one at most"));
    }
    let hashed = each(FIELD, policies, |policy| {
        match required(policy.policy_specifier, "policy_specifier")? {
            PolicySpecifier::SourceIp(SourceIp {}) => Ok(TcpHash::SourceIp),
            PolicySpecifier::FilterState(FilterState { key }) => {
                let key = not_empty(key, "key").at("filter_state")?;
                Ok(TcpHash::FilterState(key))
            }
        }
    })?;
    Ok(hashed.into_iter().next())
}

fn weighted(clusters: Vec<ClusterWeight>, common: &Labels) -> Result<Vec<TcpCluster>, Invalid> {
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
        if weight == 0 {
            return Err(Invalid::at("weight", "must be 1 or more"));
        }
        // What a cluster asks for goes before what all of them do.
        let all = labels(metadata_match).or(common);
        Ok(TcpCluster {
            name: not_empty(name, "name")?,
            weight,
            labels: all,
        })
    })?;
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    if total > u64::from(u32::MAX) {
        let reason = format!("weights add up to {total}, which is more than {}", u32::MAX);
        return Err(Invalid::at(FIELD, reason));
    }
    Ok(clusters)
}
