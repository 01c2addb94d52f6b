//! The tables of the frontends: ports, the wildcard domain, Traefik.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::address::{Bind, bind_host, domain, ports};
use super::coordinator::{Traefik, TraefikFrontend};
use super::error::{ConfigError, Place};
use super::file::required;
use super::worker::{PortProxy, WildcardDomain};

#[derive(Deserialize)]
pub(super) struct PortProxyTable {
    bind_host: Spanned<String>,
    advertised_host: Option<String>,
    bind_port_range: Option<Spanned<Vec<u16>>>,
    advertised_port_range: Option<Spanned<Vec<u16>>>,
}

#[derive(Deserialize)]
pub(super) struct WildcardTable {
    bind_addr: Bind,
    domain: Spanned<String>,
    advertised_port: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct TraefikTable {
    api_port: Spanned<u16>,
    frontend_mode: Spanned<InnerMode>,
    last_used_time_marker_directory: PathBuf,
    port_proxy: Option<TraefikPortTable>,
    wildcard_domain: Option<TraefikWildcardTable>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InnerMode {
    Port,
    Wildcard,
}

#[derive(Deserialize)]
struct TraefikPortTable {
    advertised_host: String,
    port_range: Spanned<Vec<u16>>,
}

#[derive(Deserialize)]
struct TraefikWildcardTable {
    domain: Spanned<String>,
    advertised_port: u16,
    #[serde(default)]
    tls_advertised: bool,
}

impl PortProxyTable {
    /// What users reach the ports by.
    pub fn public_host(&self) -> String {
        self.advertised_host
            .as_ref()
            .unwrap_or(self.bind_host.get_ref())
            .clone()
    }

    pub fn validate(self, at: &Place<'_>) -> Result<PortProxy, ConfigError> {
        const TABLE: &str = "proxy_worker.port_proxy";
        let bind_host = bind_host(&self.bind_host, at, &format!("{TABLE}.bind_host"))?;
        let bind_ports = match &self.bind_port_range {
            Some(range) => ports(range, at, &format!("{TABLE}.bind_port_range"))?,
            None => Vec::new(),
        };
        let advertised_from = match &self.advertised_port_range {
            Some(range) => {
                let key = format!("{TABLE}.advertised_port_range");
                let advertised = ports(range, at, &key)?;
                if advertised.len() != bind_ports.len() {
                    let reason = format!(
                        "{key}: as long as bind_port_range it must be ({} ports), not {}",
                        bind_ports.len(),
                        advertised.len()
                    );
                    let hint = "each advertised port stands for the bind port at its place";
                    return Err(at.error(Some(range.span()), reason, Some(hint)));
                }
                advertised.first().copied()
            }
            None => None,
        };
        Ok(PortProxy {
            bind_host,
            bind_ports,
            advertised_from,
        })
    }
}

impl WildcardTable {
    pub fn validate(self, at: &Place<'_>) -> Result<WildcardDomain, ConfigError> {
        const TABLE: &str = "proxy_worker.wildcard_domain";
        let bind_addr: SocketAddr = self.bind_addr.resolve(at, &format!("{TABLE}.bind_addr"))?;
        Ok(WildcardDomain {
            bind_addr,
            domain: domain(&self.domain, at, &format!("{TABLE}.domain"))?,
            advertised_port: self.advertised_port,
        })
    }
}

impl TraefikTable {
    pub fn validate(self, at: &Place<'_>) -> Result<Traefik, ConfigError> {
        const TABLE: &str = "proxy_worker.traefik";
        if *self.api_port.get_ref() == 0 {
            let reason = format!("{TABLE}.api_port: must be 1..=65535");
            return Err(at.error(Some(self.api_port.span()), reason, None));
        }
        let mode = &self.frontend_mode;
        let needed = |name: &str| {
            at.error(
                Some(mode.span()),
                format!("{TABLE}.frontend_mode: needs the table [{TABLE}.{name}]"),
                None,
            )
        };
        let frontend = match mode.get_ref() {
            InnerMode::Port => {
                let table = self.port_proxy.ok_or_else(|| needed("port_proxy"))?;
                let key = format!("{TABLE}.port_proxy.port_range");
                let range = ports(&table.port_range, at, &key)?;
                let both = range.first().copied().zip(range.last().copied());
                TraefikFrontend::Port {
                    advertised_host: table.advertised_host,
                    port_range: required(both, at, &key, "a worker in port mode needs ports")?,
                }
            }
            InnerMode::Wildcard => {
                let table = self
                    .wildcard_domain
                    .ok_or_else(|| needed("wildcard_domain"))?;
                let key = format!("{TABLE}.wildcard_domain.domain");
                TraefikFrontend::Wildcard {
                    domain: domain(&table.domain, at, &key)?,
                    advertised_port: table.advertised_port,
                    tls_advertised: table.tls_advertised,
                }
            }
        };
        Ok(Traefik {
            api_port: self.api_port.into_inner(),
            marker_directory: self.last_used_time_marker_directory,
            frontend,
        })
    }
}
