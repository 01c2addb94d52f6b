//! What a worker with a Coordinator runs beside the proxy: event bus, link, marks of use, service
//! discovery, health of Redis.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use causeway_xds::store::is_reserved;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::metrics;
use crate::config::{
    Causeway, Certificates, CoordinatorConfig, FrontendMode, HostPort, RedisServer, TlsFiles,
    Traefik, TraefikFrontend, Traffic, WorkerConfig, WorkerProtocol,
};
use crate::control::{Readiness, State};
use crate::coordinator::bus::Bus;
use crate::coordinator::client::{AppFilter, ClientConfig, CoordinatorClient, Registration};
use crate::coordinator::discovery::Discovery;
use crate::coordinator::inference_metrics::InferenceMetrics;
use crate::coordinator::link::{self, LinkConfig, LinkStatus};
use crate::coordinator::marker;
use crate::coordinator::model::{self, AppMode, Protocol};
use crate::coordinator::redis::{Address, RedisConfig, RedisHealth, Server};
use crate::coordinator::usage::UsageWriter;
use crate::coordinator::{Circuits, api, translate};
use crate::snapshot::{Publisher, Snapshot};
use crate::telemetry::activity::Activities;
use crate::telemetry::stats::Stats;
use crate::tls::Automatic;
use crate::upstream::endpoint::{Availability, Finding};

/// Notices and replies that may wait. More than a burst of launches; a full queue holds up the bus
/// and loses nothing.
const QUEUE: usize = 1024;
/// How long the end waits for what has to be said and written.
const FAREWELL: Duration = Duration::from_secs(3);

/// Everything that runs, and what others may know of it.
pub struct Link {
    pub status: LinkStatus,
    pub redis: Arc<RedisHealth>,
    pub client: CoordinatorClient,
    stop: watch::Sender<bool>,
    link: JoinHandle<()>,
    usage: JoinHandle<()>,
}

/// Starts all of it. Neither the Coordinator nor Redis has to be there.
///
/// # Errors
/// The configuration of the client cannot be used (TLS roots).
pub fn start(
    worker: &WorkerConfig,
    config: &CoordinatorConfig,
    circuits: &Arc<Circuits>,
    activities: Arc<Activities>,
) -> Result<Link> {
    let client = client(worker, config)?;
    let redis = redis(config);
    let (stop, stopped) = watch::channel(false);
    let traefik = matches!(config.frontend_mode, FrontendMode::Traefik(_));
    let bus = worker.causeway.bus.then(|| {
        let (heard, notices) = mpsc::channel(QUEUE);
        let (replies, said) = mpsc::channel(QUEUE);
        let bus = Bus::new(redis.clone(), config.authority.clone());
        tokio::spawn(bus.run(heard, said, stopped.clone()));
        link::Bus { notices, replies }
    });
    let poll = worker.causeway.traefik_poll_period;
    let link_config = LinkConfig {
        registration: registration(worker, config),
        heartbeat_period: config.heartbeat_period,
        // A Coordinator that is set up for Traefik says nothing on the bus of such a worker; one that
        // is not waits there for an answer. Both are served.
        relist_period: if traefik {
            poll
        } else {
            worker.causeway.relist_period
        },
        poll_period: bus.is_none().then_some(poll),
        authority: config.authority.clone(),
        state_file: worker.causeway.state_file.clone(),
    };
    if let FrontendMode::Traefik(Traefik {
        frontend:
            TraefikFrontend::Wildcard {
                tls_advertised: true,
                advertised_port,
                ..
            },
        ..
    }) = &config.frontend_mode
        && worker.tls.listen.is_none()
    {
        tracing::warn!(
            port = advertised_port,
            "tls_advertised is set and tls_listen is not: this port speaks plain text here, where \
             Traefik may have ended TLS; set tls_listen with a certificate, or put a balancer in front"
        );
    }
    if traefik {
        tracing::info!(
            every = ?poll,
            "frontend_mode traefik: changes are also learned by listing, with this delay; neither \
             Traefik nor etcd is used"
        );
    }
    let (status, link) = link::start(
        link_config,
        client.clone(),
        Arc::clone(circuits),
        bus,
        stopped.clone(),
    );
    if let FrontendMode::Traefik(traefik) = &config.frontend_mode {
        let path = marker_socket(traefik);
        match marker::start(&path, redis.clone(), stopped.clone()) {
            Ok(run) => drop(tokio::spawn(run)),
            // Only the plugin would miss it.
            Err(error) => tracing::warn!(path = %path.display(), %error, "no marker socket"),
        }
    }
    let usage = UsageWriter::new(redis.clone(), activities, worker.causeway.usage_period);
    let usage = tokio::spawn(usage.run(stopped.clone()));
    tokio::spawn(discovery(config).run(redis.clone(), stopped.clone()));
    let health = RedisHealth::new();
    tokio::spawn(Arc::clone(&health).run(redis.clone(), stopped.clone()));
    let metrics = InferenceMetrics::new(
        redis,
        Arc::clone(circuits),
        config.inference_metric_collection_interval,
    );
    tokio::spawn(metrics.run(stopped));
    Ok(Link {
        status,
        redis: health,
        client,
        stop,
        link,
        usage,
    })
}

/// How the kernels of all circuits are, by what is served from.
fn kernels(snapshot: &Snapshot) -> api::Kernels {
    let mut kernels = api::Kernels::default();
    let circuits = snapshot.clusters.values();
    for cluster in circuits.filter(|cluster| is_reserved(&cluster.name)) {
        for kernel in cluster.endpoints.all() {
            kernels.total += 1;
            kernels.healthy += usize::from(kernel.availability() == Availability::Healthy);
            kernels.failed_checks += usize::from(kernel.is_found(Finding::FailedActive));
            kernels.ejected += usize::from(kernel.is_found(Finding::FailedOutlier));
        }
    }
    kernels
}

/// The worker's own interface, on `api_bind_addr`.
///
/// # Errors
/// The address is in use, or the certificate cannot be used.
pub fn serve_api(
    (worker, config, automatic): (&WorkerConfig, &CoordinatorConfig, Option<&Arc<Automatic>>),
    circuits: &Arc<Circuits>,
    link: &Link,
    (stats, publisher): (&Arc<Stats>, Publisher),
    readiness: Readiness,
    stop: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let access = worker
        .access
        .as_ref()
        .map(translate::Access::from)
        .context("secrets.jwt_secret and [permit_hash] are required with a Coordinator")?;
    let own = Arc::clone(stats);
    let version = env!("CAUSEWAY_VERSION");
    let router = api::router(api::Parts {
        identity: api::Identity::of(config, version),
        health: Arc::new(api::WorkerHealth {
            ready: Arc::new(move || readiness.state() == State::Live),
            redis: Arc::clone(&link.redis),
            kernels: Arc::new(move || kernels(&publisher.current())),
        }),
        slots: Arc::clone(circuits) as _,
        setup: api::SetupConfig {
            jwt_secret: access.jwt_secret,
            permits: access.permits,
            addresses: api::PublicAddresses::of(worker, config),
            circuits: Arc::clone(circuits) as _,
            coordinator: Some(Arc::new(link.client.clone())),
            live_wait: api::LIVE_WAIT,
        },
        metrics: api::MetricsConfig {
            allowed: vec![config.metric_access_allowed_hosts.into()],
            counts: Arc::new(api::FromStats::new(
                Arc::clone(stats),
                Arc::clone(circuits),
                Some(link.status.clone()),
            )),
            own: Some(Arc::new(move || metrics::text(&own).unwrap_or_default())),
        },
    });
    let tls = match &worker.tls.listen {
        None => None,
        Some(Certificates::Automatic) => {
            let automatic = automatic.context("[causeway.acme] is missing")?;
            Some(automatic.server_config().context("[causeway.acme]")?)
        }
        Some(Certificates::Files(TlsFiles {
            certificate,
            private_key,
        })) => {
            let config = crate::tls::server::from_files(certificate, private_key);
            Some(config.context("proxy_worker.tls_cert")?)
        }
    };
    let server = api::Server::bind(config.api_bind_addr, tls)
        .with_context(|| format!("cannot bind the worker's API {}", config.api_bind_addr))?;
    let address = server.local_addr()?;
    tokio::spawn(server.run(router, stop));
    Ok(address)
}

/// Several workers of one machine, each with a file that the legacy worker read, all have the
/// ports that only this program opens. The first gets them; for the others a port that nobody asked
/// for is no reason not to start.
pub fn step_aside(causeway: &mut Causeway) {
    let default = Causeway::default();
    let taken = |at: SocketAddr| {
        std::net::TcpListener::bind(at)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    if causeway.management == default.management && taken(causeway.management) {
        let at = causeway.management;
        tracing::warn!(%at, "default management port is in use, the system chooses another");
        causeway.management.set_port(0);
    }
    if causeway.path_frontend == default.path_frontend
        && let Some(at) = causeway.path_frontend.filter(|at| taken(*at))
    {
        tracing::warn!(%at, "default port of the path frontend is in use, it stays closed");
        causeway.path_frontend = None;
    }
}

impl Link {
    /// Says goodbye to the Coordinator, so that no new circuit is placed here. Marks of use go on.
    pub async fn leave(&mut self) {
        self.stop.send(true).ok();
        if tokio::time::timeout(FAREWELL, &mut self.link)
            .await
            .is_err()
        {
            tracing::warn!(limit = ?FAREWELL, "farewell to the Coordinator: deadline fired");
        }
        if tokio::time::timeout(FAREWELL, &mut self.usage)
            .await
            .is_err()
        {
            tracing::warn!(limit = ?FAREWELL, "last marks of use: deadline fired");
        }
    }
}

fn marker_socket(traefik: &Traefik) -> PathBuf {
    traefik
        .marker_directory
        .join("last-used-time-marker.socket")
}

fn address(at: &HostPort) -> Address {
    Address::new(at.host.clone(), at.port)
}

/// # Errors
/// The certificates that the system trusts cannot be read.
pub fn client(worker: &WorkerConfig, config: &CoordinatorConfig) -> Result<CoordinatorClient> {
    let mut client = ClientConfig::new(config.endpoint.clone(), worker.api_secret.clone());
    client.verify_tls = config.verify_certificate;
    client.connect_timeout = worker.causeway.coordinator_timeout;
    client.answer_timeout = worker.causeway.coordinator_timeout;
    CoordinatorClient::new(client).context("proxy_worker.coordinator_endpoint")
}

pub fn redis(config: &CoordinatorConfig) -> RedisConfig {
    let server = match &config.redis.server {
        RedisServer::Single(at) => Server::StandAlone(address(at)),
        RedisServer::Sentinel {
            sentinels,
            service_name,
        } => Server::Sentinel {
            sentinels: sentinels.iter().map(address).collect(),
            service_name: service_name.clone(),
            sentinel_password: config.redis.sentinel_password.clone(),
        },
    };
    let mut redis = RedisConfig::new(server);
    redis.password.clone_from(&config.redis.password);
    redis
}

fn discovery(config: &CoordinatorConfig) -> Discovery {
    let mut discovery = Discovery::new(&config.authority, address(&config.announce_addr));
    if let Some(name) = &config.service_discovery.display_name {
        discovery.display_name.clone_from(name);
    }
    let labels = config.service_discovery.extra_labels.clone();
    discovery.labels.extend(labels);
    discovery
}

fn registration(worker: &WorkerConfig, config: &CoordinatorConfig) -> Registration {
    let mut marker = None;
    let mut port_range = None;
    let mut wildcard = None;
    let mut tls_advertised = worker.tls.advertised;
    let frontend_mode = match &config.frontend_mode {
        FrontendMode::Port { .. } => {
            port_range = worker.port_proxy.as_ref().and_then(advertised);
            model::FrontendMode::Port
        }
        FrontendMode::Wildcard => {
            wildcard = worker.wildcard_domain.as_ref().map(|w| {
                let port = w.advertised_port.unwrap_or(w.bind_addr.port());
                (w.domain.clone(), port)
            });
            model::FrontendMode::Wildcard
        }
        FrontendMode::Traefik(traefik) => {
            let socket = traefik
                .marker_directory
                .join("last-used-time-marker.socket");
            marker = Some(socket.display().to_string());
            match &traefik.frontend {
                TraefikFrontend::Port {
                    port_range: range, ..
                } => {
                    port_range = Some(*range);
                    model::FrontendMode::Port
                }
                TraefikFrontend::Wildcard {
                    domain,
                    advertised_port,
                    tls_advertised: tls,
                } => {
                    wildcard = Some((domain.clone(), *advertised_port));
                    tls_advertised |= tls;
                    model::FrontendMode::Wildcard
                }
            }
        }
    };
    let (wildcard_domain, wildcard_traffic_port) = wildcard.unzip();
    Registration {
        authority: config.authority.clone(),
        frontend_mode,
        protocol: match config.protocol {
            WorkerProtocol::Http => Protocol::Http,
            WorkerProtocol::H2 => Protocol::H2,
            WorkerProtocol::Tcp => Protocol::Tcp,
            WorkerProtocol::Preopen => Protocol::Preopen,
            WorkerProtocol::Vnc => Protocol::Vnc,
            WorkerProtocol::Rdp => Protocol::Rdp,
        },
        hostname: config.api_public_addr.host.clone(),
        tls_listen: worker.tls.listen.is_some(),
        tls_advertised,
        api_port: config.api_public_addr.port,
        accepted_traffics: config
            .accepted_traffics
            .iter()
            .map(|traffic| match traffic {
                Traffic::Interactive => AppMode::Interactive,
                Traffic::Inference => AppMode::Inference,
            })
            .collect(),
        filtered_apps_only: config.filtered_apps_only,
        app_filters: config
            .app_filters
            .iter()
            .map(|filter| AppFilter {
                key: filter.key.clone(),
                value: filter.value.clone(),
            })
            .collect(),
        traefik_last_used_marker_path: marker,
        port_range,
        wildcard_domain,
        wildcard_traffic_port,
    }
}

/// First and last port that circuits may name.
fn advertised(ports: &crate::config::PortProxy) -> Option<(u16, u16)> {
    let length = u16::try_from(ports.bind_ports.len()).ok()?.checked_sub(1)?;
    let first = ports
        .advertised_from
        .or_else(|| ports.bind_ports.first().copied())?;
    Some((first, first.checked_add(length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_nobody_asked_for_step_aside() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = held.local_addr().unwrap();
        let mut asked = Causeway {
            management: at,
            path_frontend: Some(at),
            ..Causeway::default()
        };
        step_aside(&mut asked);
        assert_eq!((asked.management, asked.path_frontend), (at, Some(at)));
    }
}
