//! The file as written, and the checks that turn it into a [`WorkerConfig`].

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::acme::AcmeTable;
use super::address::{socket, tls_files};
use super::coordinator::{FrontendMode, Traefik, TraefikFrontend};
use super::discovery::DiscoveryTable;
use super::error::{ConfigError, Place};
use super::logging::LoggingTable;
use super::policies::PolicyTable;
use super::proxy_worker::Frontends;
use super::proxy_worker::ProxyWorkerTable;
use super::redis::RedisTable;
use super::worker::{Access, Causeway, Certificates, DigestMod, PermitHash, Tls, WorkerConfig};
use super::xds::XdsTable;
use crate::util::{Secret, is_origin};

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    secrets: SecretsTable,
    #[serde(default)]
    permit_hash: PermitHashTable,
    redis: Option<RedisTable>,
    #[serde(default)]
    causeway: CausewayTable,
    #[serde(default)]
    proxy_worker: ProxyWorkerTable,
    logging: Option<LoggingTable>,
    #[serde(default)]
    service_discovery: DiscoveryTable,
    xds: Option<XdsTable>,
}

// No `Debug` on purpose: this and the next hold secrets in the clear.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SecretsTable {
    api_secret: Option<String>,
    jwt_secret: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PermitHashTable {
    secret: Option<String>,
    digest_mod: DigestMod,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CausewayTable {
    management: Option<Spanned<String>>,
    path_frontend: Option<Spanned<Switchable>>,
    path_tls_cert: Option<Spanned<PathBuf>>,
    path_tls_privkey: Option<Spanned<PathBuf>>,
    strip_prefix: Option<bool>,
    allow_unauthenticated: bool,
    relist_period: Option<Spanned<f64>>,
    traefik_poll_period: Option<Spanned<f64>>,
    coordinator_timeout: Option<Spanned<f64>>,
    usage_period: Option<Spanned<f64>>,
    state_file: Option<PathBuf>,
    bus: Option<bool>,
    ports_at_start: Option<bool>,
    kernel_check_period: Option<Spanned<f64>>,
    kernel_ejection: Option<bool>,
    dns_servers: Vec<Spanned<String>>,
    max_connections: Option<u32>,
    tcp_idle_timeout: Option<Spanned<f64>>,
    tcp_log: Option<bool>,
    tcp_websocket_origins: Vec<Spanned<String>>,
    drain_time: Option<Spanned<f64>>,
    policies: Vec<PolicyTable>,
    acme: Option<AcmeTable>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an address such as \"0.0.0.0:5050\", or false")]
enum Switchable {
    Flag(bool),
    Address(String),
}

/// What the file must have.
pub(super) fn required<T>(
    value: Option<T>,
    at: &Place<'_>,
    key: &str,
    hint: &str,
) -> Result<T, ConfigError> {
    value.ok_or_else(|| at.error(None, format!("{key} is required"), Some(hint)))
}

/// Seconds, as a span that is not empty.
pub(super) fn seconds(
    value: Option<Spanned<f64>>,
    at: &Place<'_>,
    key: &str,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(value) = value else {
        return Ok(default);
    };
    match Duration::try_from_secs_f64(*value.get_ref()) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(at.error(
            Some(value.span()),
            format!("{key}: must be more than 0"),
            Some("in seconds; fractions are allowed"),
        )),
    }
}

impl File {
    pub fn validate(self, at: &Place<'_>) -> Result<WorkerConfig, ConfigError> {
        let Self {
            secrets,
            permit_hash,
            redis,
            mut causeway,
            mut proxy_worker,
            logging,
            service_discovery,
            xds,
        } = self;
        let api_secret = required(
            secret(secrets.api_secret),
            at,
            "secrets.api_secret",
            "add [secrets] with api_secret = \"...\", the same as the Coordinator's",
        )?;
        let jwt_secret = secret(secrets.jwt_secret);
        let permit_secret = secret(permit_hash.secret);
        let with_coordinator = proxy_worker.has_coordinator();
        if with_coordinator {
            const SAME: &str = "the same as the Coordinator's";
            required(jwt_secret.as_ref(), at, "secrets.jwt_secret", SAME)?;
            required(permit_secret.as_ref(), at, "permit_hash.secret", SAME)?;
            let hint = "for example level = \"INFO\" and drivers = [\"console\"]";
            required(logging.as_ref(), at, "[logging]", hint)?;
        }
        let access = jwt_secret
            .zip(permit_secret)
            .map(|(jwt_secret, secret)| Access {
                jwt_secret,
                permit_hash: PermitHash {
                    secret,
                    digest_mod: permit_hash.digest_mod,
                },
            });
        let acme = causeway.acme.take();
        let tls = proxy_worker.take_tls(acme.is_some(), at)?;
        let mut causeway = causeway.validate(&tls, at)?;
        let trusted_proxies = proxy_worker.trusted_proxies(at)?;
        let process = proxy_worker.take_process(at)?;
        let frontends = proxy_worker.take_frontends(at)?;
        let acme = acme.map(|table| table.validate(wildcard_domain(&frontends), at));
        causeway.acme = acme.transpose()?;
        let coordinator = match frontends.mode {
            Some(mode) => {
                let redis = required(redis, at, "[redis]", "with addr = { host, port }")?;
                let redis = redis.validate(at)?;
                let discovery = service_discovery.validate(at)?;
                Some(proxy_worker.link(mode, redis, discovery, at)?)
            }
            None => None,
        };
        Ok(WorkerConfig {
            causeway,
            coordinator,
            xds: xds.map(|table| table.validate(at)).transpose()?,
            access,
            tls,
            trusted_proxies,
            port_proxy: frontends.port_proxy,
            wildcard_domain: frontends.wildcard_domain,
            process,
            logging: logging.unwrap_or_default().validate(at)?,
            ..WorkerConfig::push_only(api_secret)
        })
    }
}

/// Of whichever frontend has subdomains.
fn wildcard_domain(frontends: &Frontends) -> Option<&str> {
    match (&frontends.wildcard_domain, &frontends.mode) {
        (Some(own), _) => Some(&own.domain),
        (
            None,
            Some(FrontendMode::Traefik(Traefik {
                frontend: TraefikFrontend::Wildcard { domain, .. },
                ..
            })),
        ) => Some(domain),
        _ => None,
    }
}

fn secret(text: Option<String>) -> Option<Secret> {
    text.filter(|text| !text.is_empty()).map(Secret::new)
}

impl CausewayTable {
    fn validate(self, tls: &Tls, at: &Place<'_>) -> Result<Causeway, ConfigError> {
        let default = Causeway::default();
        let management = match self.management {
            Some(text) => address(text.get_ref(), text.span(), at, "management")?,
            None => default.management,
        };
        let path_frontend = match self.path_frontend {
            None => default.path_frontend,
            Some(value) => match value.get_ref() {
                Switchable::Flag(false) => None,
                Switchable::Flag(true) => Some(address("", value.span(), at, "path_frontend")?),
                Switchable::Address(text) if text.is_empty() => None,
                Switchable::Address(text) => {
                    Some(address(text, value.span(), at, "path_frontend")?)
                }
            },
        };
        let own = tls_files(
            self.path_tls_cert,
            self.path_tls_privkey,
            None,
            at,
            ["causeway.path_tls_cert", "causeway.path_tls_privkey"],
        )?;
        let period =
            |value, key: &str, default| seconds(value, at, &format!("causeway.{key}"), default);
        // Unlike a period they may be nothing.
        let or_none = |value: Option<Spanned<f64>>, key, default| match value {
            Some(time) if *time.get_ref() == 0.0 => Ok(Duration::ZERO),
            time => period(time, key, default),
        };
        let drain_time = or_none(self.drain_time, "drain_time", default.drain_time)?;
        let tcp_idle_timeout = or_none(
            self.tcp_idle_timeout,
            "tcp_idle_timeout",
            default.tcp_idle_timeout,
        )?;
        let origin = |text: Spanned<String>| match text.get_ref().as_str() {
            "*" => Ok(text.into_inner()),
            origin if is_origin(origin) => Ok(text.into_inner()),
            _ => Err(at.error(
                Some(text.span()),
                "causeway.tcp_websocket_origins: not an origin",
                Some("for example \"https://portal.example.org\", or \"*\" for all"),
            )),
        };
        let origins = self.tcp_websocket_origins.into_iter().map(origin);
        let tcp_websocket_origins = origins.collect::<Result<_, _>>()?;
        let policies = self.policies.into_iter().map(|policy| policy.validate(at));
        let policies = policies.collect::<Result<_, _>>()?;
        Ok(Causeway {
            management,
            path_frontend,
            path_tls: own.map(Certificates::Files).or_else(|| tls.listen.clone()),
            strip_prefix: self.strip_prefix.unwrap_or(default.strip_prefix),
            allow_unauthenticated: self.allow_unauthenticated,
            relist_period: period(self.relist_period, "relist_period", default.relist_period)?,
            traefik_poll_period: period(
                self.traefik_poll_period,
                "traefik_poll_period",
                default.traefik_poll_period,
            )?,
            coordinator_timeout: period(
                self.coordinator_timeout,
                "coordinator_timeout",
                default.coordinator_timeout,
            )?,
            usage_period: period(self.usage_period, "usage_period", default.usage_period)?,
            state_file: self.state_file,
            bus: self.bus.unwrap_or(default.bus),
            ports_at_start: self.ports_at_start.unwrap_or(default.ports_at_start),
            kernel_check_period: or_none(
                self.kernel_check_period,
                "kernel_check_period",
                default.kernel_check_period,
            )?,
            kernel_ejection: self.kernel_ejection.unwrap_or(default.kernel_ejection),
            dns_servers: dns_servers(&self.dns_servers, at)?,
            max_connections: self.max_connections.filter(|most| *most > 0),
            tcp_idle_timeout,
            tcp_log: self.tcp_log.unwrap_or(default.tcp_log),
            tcp_websocket_origins,
            drain_time,
            policies,
            acme: None,
        })
    }
}

/// What one name may wait for is shared among them.
const MAX_DNS_SERVERS: usize = 8;

fn dns_servers(
    servers: &[Spanned<String>],
    at: &Place<'_>,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let wrong = |server: &Spanned<String>, reason: &str| {
        at.error(
            Some(server.span()),
            format!("causeway.dns_servers: {reason}"),
            Some("at most 8 IP addresses, with a port (\"10.0.0.2:5353\") where it is not 53"),
        )
    };
    if let Some(server) = servers.get(MAX_DNS_SERVERS) {
        return Err(wrong(server, "too many"));
    }
    let read = |server: &Spanned<String>| {
        let text = server.get_ref();
        let plain = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)).ok();
        let found = plain
            .or_else(|| socket(text))
            .filter(|server| server.port() != 0);
        found.ok_or_else(|| wrong(server, "not an address"))
    };
    servers.iter().map(read).collect()
}

fn address(
    text: &str,
    span: Range<usize>,
    at: &Place<'_>,
    key: &str,
) -> Result<SocketAddr, ConfigError> {
    const HINT: &str = "write it as \"host:port\", the host being an IP address; port 0 lets the \
                        system choose";
    socket(text).ok_or_else(|| {
        let reason = format!("causeway.{key}: not an address");
        at.error(Some(span), reason, Some(HINT))
    })
}
