//! Endpoints that requests name themselves (`OverrideHost`).

use super::{HostSource, OverrideHost};
use crate::proto::envoy::extensions::load_balancing_policies::override_host::v3 as message;
use crate::reject::Invalid;
use crate::resource::context::{At, each, fault};
use crate::resource::headers;
use crate::resource::rate_limit::MetadataKey;

impl OverrideHost {
    /// Without its fallback.
    pub(super) fn decode(message: message::OverrideHost) -> Result<Self, Invalid> {
        let message::OverrideHost {
            override_host_sources,
            selected_host_key,
            fallback_policy: _,
        } = message;
        const SOURCES: &str = "override_host_sources";
        const TOLD: &str = "selected_host_key";
        if override_host_sources.is_empty() {
            return Err(Invalid::at(SOURCES, "must not be empty"));
        }
        let told = selected_host_key.map(MetadataKey::decode).transpose();
        let told = told.at(TOLD)?;
        if told.as_ref().is_some_and(|key| key.path.len() > 1) {
            return Err(Invalid::at("path", "must be one key")).at(TOLD);
        }
        Ok(Self {
            sources: each(SOURCES, override_host_sources, HostSource::decode)?,
            told,
        })
    }
}

impl HostSource {
    fn decode(message: message::override_host::OverrideHostSource) -> Result<Self, Invalid> {
        let message::override_host::OverrideHostSource { header, metadata } = message;
        match (header.as_str(), metadata) {
            ("", Some(key)) => MetadataKey::decode(key).map(Self::Metadata).at("metadata"),
            ("", None) => Err(fault("must have a header or metadata")),
            (name, None) => headers::header_name(name).map(Self::Header).at("header"),
            (_, Some(_)) => Err(fault("must not have both a header and metadata")),
        }
    }
}
