//! Clusters whose endpoints are where clients wanted to go.

use std::time::Duration;

use super::Discovery;
use crate::proto::envoy::config::cluster::v3::cluster::OriginalDstLbConfig;
use crate::reject::Invalid;
use crate::resource::context::{At, duration, number, refuse};
use crate::resource::headers::header_name;

const HEADER: &str = "x-envoy-original-dst-host";
const CLEANUP: Duration = Duration::from_secs(5);

/// A cluster of type `ORIGINAL_DST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalDst {
    /// The field of a request that may name an address, in lower case (`use_http_header`,
    /// `http_header_name`). `None`: only where the connection was bound for counts.
    pub header: Option<String>,
    /// Instead of the port of the address (`upstream_port_override`).
    pub port: Option<u16>,
    /// After which an endpoint that nobody uses is forgotten (`cleanup_interval`). Default 5 s.
    pub cleanup: Duration,
}

/// The fields that belong together.
pub(super) struct Fields {
    pub config: Option<OriginalDstLbConfig>,
    pub cleanup_interval: Option<crate::proto::Duration>,
    pub has_assignment: bool,
    pub has_eds: bool,
}

impl OriginalDst {
    pub(super) fn decode(fields: Fields) -> Result<Discovery, Invalid> {
        for (given, field) in [
            (fields.has_assignment, "load_assignment"),
            (fields.has_eds, "eds_cluster_config"),
        ] {
            if given {
                return Err(Invalid::at(field, "the cluster is of type ORIGINAL_DST"));
            }
        }
        const CLEANUP_INTERVAL: &str = "cleanup_interval";
        let cleanup = duration(fields.cleanup_interval, CLEANUP_INTERVAL)?;
        if cleanup.is_some_and(|interval| interval.is_zero()) {
            return Err(Invalid::at(CLEANUP_INTERVAL, "must be greater than zero"));
        }
        let (header, port) =
            Self::config(fields.config.unwrap_or_default()).at("original_dst_lb_config")?;
        Ok(Discovery::OriginalDst(Self {
            header,
            port,
            cleanup: cleanup.unwrap_or(CLEANUP),
        }))
    }

    fn config(message: OriginalDstLbConfig) -> Result<(Option<String>, Option<u16>), Invalid> {
        let OriginalDstLbConfig {
            use_http_header,
            http_header_name,
            upstream_port_override,
            metadata_key,
        } = message;
        refuse!(metadata_key);
        let header = match (use_http_header, http_header_name.as_str()) {
            (true, "") => Some(HEADER.to_owned()),
            (true, name) => Some(header_name(name).at("http_header_name")?),
            (false, "") => None,
            (false, _) => {
                return Err(Invalid::at(
                    "http_header_name",
                    "has no effect without use_http_header",
                ));
            }
        };
        const PORTS: std::ops::RangeInclusive<u32> = 0..=65_535;
        let port = number(upstream_port_override, "upstream_port_override", PORTS)?;
        Ok((header, port.and_then(|port| u16::try_from(port).ok())))
    }
}
