//! The file as written, and the checks that turn it into a [`WorkerConfig`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Place};
use super::{Causeway, PortProxy, WildcardDomain, WorkerConfig};
use crate::util::Secret;

#[derive(Deserialize)]
pub(super) struct File {
    secrets: Option<Secrets>,
    #[serde(default)]
    causeway: CausewayTable,
    #[serde(default)]
    proxy_worker: ProxyWorker,
}

// No `Debug` on purpose: this holds the secret in the clear.
#[derive(Deserialize)]
struct Secrets {
    api_secret: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CausewayTable {
    management: Option<Spanned<String>>,
    path_frontend: Option<Spanned<Switchable>>,
    strip_prefix: Option<bool>,
    allow_unauthenticated: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an address such as \"0.0.0.0:5050\", or false")]
enum Switchable {
    Flag(bool),
    Address(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProxyWorker {
    tls_listen: Option<Spanned<bool>>,
    port_proxy: Option<PortProxyTable>,
    wildcard_domain: Option<WildcardTable>,
}

#[derive(Deserialize)]
struct PortProxyTable {
    bind_host: Spanned<String>,
    bind_port_range: Option<Spanned<Vec<u16>>>,
    advertised_port_range: Option<Spanned<Vec<u16>>>,
}

#[derive(Deserialize)]
struct WildcardTable {
    bind_addr: HostPort,
    domain: Spanned<String>,
    advertised_port: Option<u16>,
}

#[derive(Deserialize)]
struct HostPort {
    host: Spanned<String>,
    port: u16,
}

impl File {
    pub fn validate(self, at: &Place<'_>) -> Result<WorkerConfig, ConfigError> {
        let api_secret = self
            .secrets
            .and_then(|s| s.api_secret)
            .filter(|s| !s.is_empty());
        let Some(api_secret) = api_secret else {
            return Err(at.error(
                None,
                "secrets.api_secret is required",
                Some("add [secrets] with api_secret = \"...\", the same as the Coordinator's"),
            ));
        };
        if let Some(tls) = self.proxy_worker.tls_listen.filter(|tls| *tls.get_ref()) {
            // Going on in plain text would put on the wire what was meant to be hidden.
            return Err(at.error(
                Some(tls.span()),
                "proxy_worker.tls_listen: not supported yet",
                Some("terminate TLS in front of this worker, with tls_advertised = true"),
            ));
        }
        Ok(WorkerConfig {
            api_secret: Secret::new(api_secret),
            causeway: self.causeway.validate(at)?,
            port_proxy: self
                .proxy_worker
                .port_proxy
                .map(|p| p.validate(at))
                .transpose()?,
            wildcard_domain: self
                .proxy_worker
                .wildcard_domain
                .map(|w| w.validate(at))
                .transpose()?,
            unknown: Vec::new(),
        })
    }
}

impl CausewayTable {
    fn validate(self, at: &Place<'_>) -> Result<Causeway, ConfigError> {
        const HINT: &str = "write it as \"host:port\", the host being an IP address; port 0 lets \
                            the system choose";
        let default = Causeway::default();
        let address = |text: &str, span, key: &str| {
            socket(text).ok_or_else(|| {
                at.error(
                    Some(span),
                    format!("causeway.{key}: not an address"),
                    Some(HINT),
                )
            })
        };
        let management = match self.management {
            Some(text) => address(text.get_ref(), text.span(), "management")?,
            None => default.management,
        };
        let path_frontend = match self.path_frontend {
            None => default.path_frontend,
            Some(value) => match value.get_ref() {
                Switchable::Flag(false) => None,
                Switchable::Flag(true) => Some(address("", value.span(), "path_frontend")?),
                Switchable::Address(text) if text.is_empty() => None,
                Switchable::Address(text) => Some(address(text, value.span(), "path_frontend")?),
            },
        };
        Ok(Causeway {
            management,
            path_frontend,
            strip_prefix: self.strip_prefix.unwrap_or(default.strip_prefix),
            allow_unauthenticated: self.allow_unauthenticated,
        })
    }
}

impl PortProxyTable {
    fn validate(self, at: &Place<'_>) -> Result<PortProxy, ConfigError> {
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
    fn validate(self, at: &Place<'_>) -> Result<WildcardDomain, ConfigError> {
        const TABLE: &str = "proxy_worker.wildcard_domain";
        let host = bind_host(&self.bind_addr.host, at, &format!("{TABLE}.bind_addr.host"))?;
        let domain = self.domain.get_ref().to_ascii_lowercase();
        if !domain.starts_with('.') || domain.len() < 2 {
            return Err(at.error(
                Some(self.domain.span()),
                format!("{TABLE}.domain: begins with a dot and names a domain"),
                Some("for example \".apps.example.org\""),
            ));
        }
        Ok(WildcardDomain {
            bind_addr: SocketAddr::new(host, self.bind_addr.port),
            domain,
            advertised_port: self.advertised_port,
        })
    }
}

/// An inclusive `[low, high]`, or nothing.
fn ports(range: &Spanned<Vec<u16>>, at: &Place<'_>, key: &str) -> Result<Vec<u16>, ConfigError> {
    match range.get_ref()[..] {
        [] => Ok(Vec::new()),
        // A 0 is a port that the system chooses; a range cannot begin with it.
        [0, 0] => Ok(vec![0]),
        [low, high] if 0 < low && low <= high => Ok((low..=high).collect()),
        _ => Err(at.error(
            Some(range.span()),
            format!("{key}: must be [lowest, highest] or empty"),
            Some("both ends belong to the range, for example [10205, 10300]"),
        )),
    }
}

fn bind_host(host: &Spanned<String>, at: &Place<'_>, key: &str) -> Result<IpAddr, ConfigError> {
    ip(host.get_ref()).ok_or_else(|| {
        at.error(
            Some(host.span()),
            format!("{key}: must be an IP address or localhost"),
            Some("0.0.0.0 listens on every IPv4 address, :: on every address"),
        )
    })
}

fn ip(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => host.parse().ok(),
    }
}

fn socket(text: &str) -> Option<SocketAddr> {
    let port = text.strip_prefix("localhost:");
    match port {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}
