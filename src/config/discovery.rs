//! `[service_discovery]`: how the worker's metrics are found.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::coordinator::{ServiceDiscovery, ServiceEndpoint};
use super::error::{ConfigError, Place};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct DiscoveryTable {
    r#type: Option<Spanned<String>>,
    instance_id: Option<String>,
    service_group: Option<String>,
    display_name: Option<String>,
    extra_labels: BTreeMap<String, String>,
    endpoints: Vec<ServiceEndpoint>,
}

impl DiscoveryTable {
    pub fn validate(self, at: &Place<'_>) -> Result<ServiceDiscovery, ConfigError> {
        if let Some(kind) = self.r#type.filter(|kind| kind.get_ref() != "redis") {
            return Err(at.error(
                Some(kind.span()),
                format!(
                    "service_discovery.type: \"{}\" is not supported",
                    kind.get_ref()
                ),
                Some("the only one is \"redis\""),
            ));
        }
        Ok(ServiceDiscovery {
            instance_id: self.instance_id,
            service_group: self.service_group,
            display_name: self.display_name,
            extra_labels: self.extra_labels,
            endpoints: self.endpoints,
        })
    }
}
