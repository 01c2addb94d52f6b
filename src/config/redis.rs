//! `[redis]`: how the Coordinator's Redis or Valkey is found.

use serde::Deserialize;
use toml::Spanned;

use super::coordinator::HostPort;
use super::error::{ConfigError, Place};
use super::file::required;
use crate::util::Secret;

/// The server of the event bus, of usage marks and of service discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    pub server: RedisServer,
    pub password: Option<Secret>,
    /// Of the Sentinels; else `password`.
    pub sentinel_password: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServer {
    Single(HostPort),
    Sentinel {
        /// Not empty.
        sentinels: Vec<HostPort>,
        service_name: String,
    },
}

impl RedisServer {
    /// Every address that may be connected to first.
    pub fn addresses(&self) -> &[HostPort] {
        match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::Sentinel { sentinels, .. } => sentinels,
        }
    }
}

// No `Debug` on purpose: this holds secrets in the clear.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RedisTable {
    addr: Option<HostPort>,
    sentinel: Option<Spanned<Vec<HostPort>>>,
    service_name: Option<String>,
    password: Option<String>,
    sentinel_password: Option<String>,
}

impl RedisTable {
    pub fn validate(self, at: &Place<'_>) -> Result<Redis, ConfigError> {
        let secret = |text: Option<String>| text.filter(|s| !s.is_empty()).map(Secret::new);
        let server = match self.sentinel.filter(|list| !list.get_ref().is_empty()) {
            Some(list) => {
                let Some(service_name) = self.service_name.filter(|name| !name.is_empty()) else {
                    return Err(at.error(
                        Some(list.span()),
                        "redis.service_name is required beside redis.sentinel",
                        Some("it names the master that the Sentinels watch, often \"mymaster\""),
                    ));
                };
                RedisServer::Sentinel {
                    sentinels: list.into_inner(),
                    service_name,
                }
            }
            None => RedisServer::Single(required(
                self.addr,
                at,
                "redis.addr",
                "write addr = { host = \"127.0.0.1\", port = 6379 }, or sentinel with service_name",
            )?),
        };
        let password = secret(self.password);
        Ok(Redis {
            server,
            sentinel_password: secret(self.sentinel_password).or_else(|| password.clone()),
            password,
        })
    }
}
