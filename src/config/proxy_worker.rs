//! `[proxy_worker]`: the worker's place in the system.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use toml::Spanned;

use super::address::{Bind, tls_files};
use super::coordinator::{
    AppFilter, CoordinatorConfig, FrontendMode, HostPort, ServiceDiscovery, Traffic, WorkerProtocol,
};
use super::error::{ConfigError, Place};
use super::file::{required, seconds};
use super::frontend::{PortProxyTable, TraefikTable, WildcardTable};
use super::redis::Redis;
use super::worker::{Account, Certificates, PortProxy, Process, Tls, WildcardDomain};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ProxyWorkerTable {
    id: Option<String>,
    user: Option<Spanned<IdOrName>>,
    group: Option<Spanned<IdOrName>>,
    pid_file: Option<PathBuf>,

    coordinator_endpoint: Option<Spanned<String>>,
    verify_coordinator_ssl_certificate: Option<bool>,
    authority: Option<String>,
    heartbeat_period: Option<Spanned<f64>>,
    frontend_mode: Option<Spanned<Mode>>,
    protocol: Option<Spanned<String>>,
    accepted_traffics: Option<Spanned<Vec<Traffic>>>,
    app_filters: Vec<AppFilter>,
    filtered_apps_only: bool,

    api_bind_addr: Option<Bind>,
    api_advertised_addr: Option<HostPort>,
    announce_addr: Option<HostPort>,
    metric_access_allowed_hosts: Option<Spanned<String>>,
    inference_metric_collection_interval: Option<Spanned<f64>>,

    tls_listen: Option<Spanned<bool>>,
    tls_advertised: bool,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_privkey: Option<Spanned<PathBuf>>,
    trusted_proxies: Vec<Spanned<String>>,

    port_proxy: Option<PortProxyTable>,
    wildcard_domain: Option<WildcardTable>,
    traefik: Option<TraefikTable>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or a name")]
enum IdOrName {
    Id(i64),
    Name(String),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Port,
    Wildcard,
    Traefik,
}

/// Which frontends there are.
pub(super) struct Frontends {
    /// `None` in a push-only file, which may have all frontends at once.
    pub mode: Option<FrontendMode>,
    pub port_proxy: Option<PortProxy>,
    pub wildcard_domain: Option<WildcardDomain>,
}

impl ProxyWorkerTable {
    pub fn has_coordinator(&self) -> bool {
        self.coordinator_endpoint.is_some()
    }

    /// `automatic`: there is `[causeway.acme]`.
    pub fn take_tls(&mut self, automatic: bool, at: &Place<'_>) -> Result<Tls, ConfigError> {
        let listen = self.tls_listen.as_ref().is_some_and(|tls| *tls.get_ref());
        let advertised = self.tls_advertised;
        if automatic {
            let files = self.tls_cert.take().or(self.tls_privkey.take());
            let reason = match files {
                None if listen => {
                    return Ok(Tls {
                        listen: Some(Certificates::Automatic),
                        advertised,
                    });
                }
                None => "proxy_worker.tls_listen: must be true with [causeway.acme]",
                Some(_) => "proxy_worker.tls_cert, tls_privkey: exclude [causeway.acme]",
            };
            let flag = self.tls_listen.as_ref().map(Spanned::span);
            let span = files.map(|path| path.span()).or(flag);
            return Err(at.error(span, reason, None));
        }
        let files = tls_files(
            self.tls_cert.take(),
            self.tls_privkey.take(),
            self.tls_listen.as_ref().filter(|listen| *listen.get_ref()),
            at,
            ["proxy_worker.tls_cert", "proxy_worker.tls_privkey"],
        )?;
        Ok(Tls {
            listen: files.filter(|_| listen).map(Certificates::Files),
            advertised,
        })
    }

    pub fn trusted_proxies(&self, at: &Place<'_>) -> Result<Vec<IpNet>, ConfigError> {
        let network = |text: &Spanned<String>| {
            let one = text.get_ref().parse::<IpAddr>().map(IpNet::from);
            one.or_else(|_| text.get_ref().parse()).map_err(|_| {
                at.error(
                    Some(text.span()),
                    "proxy_worker.trusted_proxies: neither an address nor a network",
                    Some("for example \"10.0.0.5\" or \"10.0.0.0/8\""),
                )
            })
        };
        self.trusted_proxies.iter().map(network).collect()
    }

    pub fn take_process(&mut self, at: &Place<'_>) -> Result<Process, ConfigError> {
        let none = Path::new("/dev/null");
        Ok(Process {
            user: account(self.user.take(), at, "proxy_worker.user")?,
            group: account(self.group.take(), at, "proxy_worker.group")?,
            pid_file: self.pid_file.take().filter(|path| path != none),
        })
    }

    pub fn take_frontends(&mut self, at: &Place<'_>) -> Result<Frontends, ConfigError> {
        let ports = self.port_proxy.take();
        let wildcard = self.wildcard_domain.take();
        if !self.has_coordinator() {
            return Ok(Frontends {
                mode: None,
                port_proxy: ports.map(|table| table.validate(at)).transpose()?,
                wildcard_domain: wildcard.map(|table| table.validate(at)).transpose()?,
            });
        }
        let hint = "\"port\", \"wildcard\" or \"traefik\"";
        let mode = required(
            self.frontend_mode.as_ref(),
            at,
            "proxy_worker.frontend_mode",
            hint,
        )?;
        let missing = |table: &str| {
            let reason = format!("proxy_worker.frontend_mode: needs the table [{table}]");
            at.error(Some(mode.span()), reason, None)
        };
        let mut frontends = Frontends {
            mode: None,
            port_proxy: None,
            wildcard_domain: None,
        };
        frontends.mode = Some(match mode.get_ref() {
            Mode::Port => {
                const TABLE: &str = "proxy_worker.port_proxy";
                let table = ports.ok_or_else(|| missing(TABLE))?;
                let public_host = table.public_host();
                let ports = table.validate(at)?;
                let some = ports.bind_ports.first();
                let hint = "[lowest, highest], both included";
                required(some, at, &format!("{TABLE}.bind_port_range"), hint)?;
                frontends.port_proxy = Some(ports);
                FrontendMode::Port { public_host }
            }
            Mode::Wildcard => {
                let table = wildcard.ok_or_else(|| missing("proxy_worker.wildcard_domain"))?;
                frontends.wildcard_domain = Some(table.validate(at)?);
                FrontendMode::Wildcard
            }
            Mode::Traefik => {
                let table = self.traefik.take();
                let table = table.ok_or_else(|| missing("proxy_worker.traefik"))?;
                FrontendMode::Traefik(table.validate(at)?)
            }
        });
        Ok(frontends)
    }

    /// The rest, once [`Self::take_frontends`] has found that there is a Coordinator.
    pub fn link(
        self,
        frontend_mode: FrontendMode,
        redis: Redis,
        service_discovery: ServiceDiscovery,
        at: &Place<'_>,
    ) -> Result<CoordinatorConfig, ConfigError> {
        let key = |name: &str| format!("proxy_worker.{name}");
        let hint = "for example \"http://127.0.0.1:10200\"";
        let name = key("coordinator_endpoint");
        let endpoint = required(self.coordinator_endpoint, at, &name, hint)?;
        let endpoint = endpoint_uri(&endpoint, at, &name, hint)?;
        let authority = required(
            self.authority.filter(|text| !text.is_empty()),
            at,
            &key("authority"),
            "the identity of this worker, the same on all nodes of one group",
        )?;
        let protocol = required(
            self.protocol,
            at,
            &key("protocol"),
            "what the applications speak: \"http\", \"h2\", \"tcp\"",
        )?;
        let protocol = worker_protocol(&protocol, at)?;
        let accepted_traffics = required(
            self.accepted_traffics,
            at,
            &key("accepted_traffics"),
            "a list of \"interactive\" and \"inference\"",
        )?
        .into_inner();
        let (api_bind_addr, written) = match &self.api_bind_addr {
            Some(bind) => (bind.resolve(at, &key("api_bind_addr"))?, bind.as_written()),
            None => {
                let host = "0.0.0.0".to_owned();
                (([0, 0, 0, 0], 10201).into(), HostPort { host, port: 10201 })
            }
        };
        Ok(CoordinatorConfig {
            endpoint,
            verify_certificate: self.verify_coordinator_ssl_certificate.unwrap_or(true),
            authority,
            node_id: self.id.unwrap_or_else(default_id),
            frontend_mode,
            protocol,
            accepted_traffics,
            app_filters: self.app_filters,
            filtered_apps_only: self.filtered_apps_only,
            heartbeat_period: seconds(
                self.heartbeat_period,
                at,
                &key("heartbeat_period"),
                Duration::from_secs(10),
            )?,
            redis,
            api_bind_addr,
            api_public_addr: self.api_advertised_addr.unwrap_or_else(|| written.clone()),
            announce_addr: self.announce_addr.unwrap_or(written),
            service_discovery,
            metric_access_allowed_hosts: metric_hosts(self.metric_access_allowed_hosts, at)?,
            inference_metric_collection_interval: seconds(
                self.inference_metric_collection_interval,
                at,
                &key("inference_metric_collection_interval"),
                Duration::from_secs(5),
            )?,
        })
    }
}

fn account(
    value: Option<Spanned<IdOrName>>,
    at: &Place<'_>,
    key: &str,
) -> Result<Option<Account>, ConfigError> {
    let Some(value) = value else { return Ok(None) };
    let account = match value.get_ref() {
        IdOrName::Id(id) => u32::try_from(*id).ok().map(Account::Id),
        IdOrName::Name(name) if name.is_empty() => None,
        IdOrName::Name(name) => Some(name.parse().map_or_else(
            |_| Account::Name(name.clone()),
            // A number in quotes is one, as for chown.
            Account::Id,
        )),
    };
    match account {
        Some(account) => Ok(Some(account)),
        None => Err(at.error(
            Some(value.span()),
            format!("{key}: neither an id nor a name"),
            None,
        )),
    }
}

fn endpoint_uri(
    text: &Spanned<String>,
    at: &Place<'_>,
    key: &str,
    hint: &str,
) -> Result<http::Uri, ConfigError> {
    let wrong = || {
        at.error(
            Some(text.span()),
            format!("{key}: not an http URL"),
            Some(hint),
        )
    };
    let uri: http::Uri = text.get_ref().parse().map_err(|_| wrong())?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.host().is_some_and(|host| !host.is_empty());
    if scheme && host && uri.query().is_none() {
        Ok(uri)
    } else {
        Err(wrong())
    }
}

fn worker_protocol(text: &Spanned<String>, at: &Place<'_>) -> Result<WorkerProtocol, ConfigError> {
    let known = WorkerProtocol::ALL;
    let found = known.into_iter().find(|p| p.as_str() == text.get_ref());
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|p| p.as_str()).collect();
        let (why, hint) = if text.get_ref() == "grpc" {
            (
                "is no protocol of a worker",
                "use \"h2\", which carries gRPC".to_owned(),
            )
        } else {
            ("is not known", format!("one of {}", names.join(", ")))
        };
        let reason = format!("proxy_worker.protocol: \"{}\" {why}", text.get_ref());
        at.error(Some(text.span()), reason, Some(&hint))
    })
}

fn metric_hosts(text: Option<Spanned<String>>, at: &Place<'_>) -> Result<Ipv4Net, ConfigError> {
    let Some(text) = text else {
        return Ok(Ipv4Net::from(std::net::Ipv4Addr::LOCALHOST));
    };
    let one = text
        .get_ref()
        .parse::<std::net::Ipv4Addr>()
        .map(Ipv4Net::from);
    let network = one.or_else(|_| text.get_ref().parse::<Ipv4Net>()).ok();
    // Bits outside the mask say that somebody meant another network.
    let clean = network.filter(|net| net.addr() == net.network());
    clean.ok_or_else(|| {
        at.error(
            Some(text.span()),
            "proxy_worker.metric_access_allowed_hosts: not an IPv4 network",
            Some("for example \"10.0.0.0/8\", without bits beyond the mask, or one address"),
        )
    })
}

fn default_id() -> String {
    let host = nix::unistd::gethostname().ok();
    let host = host.and_then(|name| name.into_string().ok());
    format!("i-{}", host.unwrap_or_default())
}
