//! How connections to endpoints are opened: `upstream_connection_options`, `preconnect_policy`.

use std::time::Duration;

use super::{HappyEyeballs, IpFamily, Preconnect, TcpKeepalive};
use crate::proto::core;
use crate::proto::envoy::config::cluster::v3::cluster::PreconnectPolicy;
use crate::proto::envoy::config::cluster::v3::upstream_connection_options::{
    FirstAddressFamilyVersion as First, HappyEyeballsConfig,
};
use crate::proto::envoy::config::cluster::v3::{
    UpstreamConnectionOptions, upstream_connection_options,
};
use crate::proto::google::protobuf::DoubleValue;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, accept, enumeration, number, refuse};

#[derive(Default)]
pub(super) struct ConnectionOptions {
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub happy_eyeballs: HappyEyeballs,
}

impl ConnectionOptions {
    pub fn decode(message: UpstreamConnectionOptions, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let UpstreamConnectionOptions {
            tcp_keepalive,
            set_local_interface_name_on_upstream_connections,
            happy_eyeballs_config,
        } = message;
        accept!(ctx, "UpstreamConnectionOptions":
            set_local_interface_name_on_upstream_connections,
        );
        Ok(Self {
            tcp_keepalive: tcp_keepalive
                .map(TcpKeepalive::decode)
                .transpose()
                .at("tcp_keepalive")?,
            happy_eyeballs: happy_eyeballs_config
                .map_or(Ok(HappyEyeballs::default()), HappyEyeballs::decode)
                .at("happy_eyeballs_config")?,
        })
    }
}

impl HappyEyeballs {
    fn decode(message: HappyEyeballsConfig) -> Result<Self, Invalid> {
        let upstream_connection_options::HappyEyeballsConfig {
            first_address_family_version,
            first_address_family_count,
        } = message;
        const VERSION: &str = "first_address_family_version";
        let first = match enumeration(first_address_family_version, VERSION)? {
            First::Default => None,
            First::V4 => Some(IpFamily::V4),
            First::V6 => Some(IpFamily::V6),
            // Endpoints with several addresses have those of IP only.
            other @ (First::Pipe | First::Internal) => {
                let reason = format!("{} is no family of IP", other.as_str_name());
                return Err(Invalid::at(VERSION, reason));
            }
        };
        let count = number(
            first_address_family_count,
            "first_address_family_count",
            1..=u32::MAX,
        )?;
        Ok(Self {
            first,
            count: count.unwrap_or(1),
        })
    }
}

impl TcpKeepalive {
    fn decode(message: core::TcpKeepalive) -> Result<Self, Invalid> {
        let core::TcpKeepalive {
            keepalive_probes,
            keepalive_time,
            keepalive_interval,
        } = message;
        // The bounds of the Linux socket options.
        const PROBES: std::ops::RangeInclusive<u32> = 1..=127;
        const SECONDS: std::ops::RangeInclusive<u32> = 1..=32_767;
        let seconds = |value, field: &str| {
            number(value, field, SECONDS).map(|v| v.map(|v| Duration::from_secs(v.into())))
        };
        Ok(Self {
            probes: number(keepalive_probes, "keepalive_probes", PROBES)?,
            time: seconds(keepalive_time, "keepalive_time")?,
            interval: seconds(keepalive_interval, "keepalive_interval")?,
        })
    }
}

impl Preconnect {
    /// `None` where connections are opened when they are needed.
    pub(super) fn decode(message: PreconnectPolicy) -> Result<Option<Self>, Invalid> {
        let PreconnectPolicy {
            per_upstream_preconnect_ratio,
            predictive_preconnect_ratio,
            preconnect_enabled_metadata,
        } = message;
        refuse!(preconnect_enabled_metadata);
        let policy = Self {
            per_upstream: ratio(
                per_upstream_preconnect_ratio,
                "per_upstream_preconnect_ratio",
            )?,
            predictive: ratio(predictive_preconnect_ratio, "predictive_preconnect_ratio")?,
        };
        Ok(Some(policy).filter(|p| p.per_upstream > 1.0 || p.predictive > 1.0))
    }
}

fn ratio(given: Option<DoubleValue>, field: &str) -> Result<f64, Invalid> {
    let ratio = given.map_or(1.0, |given| given.value);
    match (1.0..=3.0).contains(&ratio) {
        true => Ok(ratio),
        false => Err(Invalid::at(field, format!("{ratio} is not within 1 and 3"))),
    }
}
