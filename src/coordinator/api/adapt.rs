//! The parts of a real worker behind the traits of this interface, and what its file says for it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::{
    AskCoordinator, AskError, Component, Health, HostPort, Identity, Kernels, PathAddress,
    PublicAddresses, WildcardAddress,
};
use crate::config::{CoordinatorConfig, FrontendMode, TraefikFrontend, WorkerConfig};
use crate::coordinator::client::CoordinatorClient;
use crate::coordinator::redis::RedisHealth;

impl AskCoordinator for CoordinatorClient {
    fn circuit(&self, id: Uuid) -> BoxFuture<'_, Result<Value, AskError>> {
        Box::pin(async move {
            Self::circuit(self, id).await.map_err(|error| {
                if error.is_not_found() {
                    AskError::NotFound
                } else {
                    AskError::Unreachable(error.to_string())
                }
            })
        })
    }
}

/// The health of a worker: whether traffic is served, and whether Redis answers.
pub struct WorkerHealth {
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    pub redis: Arc<RedisHealth>,
    pub kernels: Arc<dyn Fn() -> Kernels + Send + Sync>,
}

impl Health for WorkerHealth {
    fn ready(&self) -> bool {
        (self.ready)()
    }

    fn kernels(&self) -> Kernels {
        (self.kernels)()
    }

    fn components(&self) -> Vec<Component> {
        let checks = self.redis.checks();
        checks
            .iter()
            .map(|check| Component {
                service_group: "redis",
                component_id: check.component,
                healthy: check.healthy,
                checked_at: check.checked_at,
                error: check.error.clone(),
            })
            .collect()
    }
}

impl Identity {
    pub fn of(config: &CoordinatorConfig, version: &str) -> Self {
        let mode = match &config.frontend_mode {
            FrontendMode::Port { .. } => "port",
            FrontendMode::Wildcard => "wildcard",
            FrontendMode::Traefik(traefik) => match traefik.frontend {
                TraefikFrontend::Port { .. } => "port",
                TraefikFrontend::Wildcard { .. } => "wildcard",
            },
        };
        Self {
            version: version.to_owned(),
            authority: config.authority.clone(),
            frontend_mode: mode.to_owned(),
            protocol: config.protocol.as_str().to_owned(),
        }
    }
}

impl PublicAddresses {
    pub fn of(worker: &WorkerConfig, config: &CoordinatorConfig) -> Self {
        let host = &config.api_public_addr.host;
        let mut addresses = Self {
            https: worker.tls.is_https(),
            // Ports beside the mode that is registered have no public name of their own.
            port_host: worker.port_proxy.is_some().then(|| host.clone()),
            wildcard: worker.wildcard_domain.as_ref().map(|w| WildcardAddress {
                domain: w.domain.clone(),
                port: w.advertised_port.unwrap_or(w.bind_addr.port()),
            }),
            path: worker.causeway.path_frontend.map(|at| PathAddress {
                https: worker.causeway.path_tls.is_some() || worker.tls.advertised,
                at: HostPort {
                    host: host.clone(),
                    port: at.port(),
                },
            }),
        };
        match &config.frontend_mode {
            FrontendMode::Port { public_host } => addresses.port_host = Some(public_host.clone()),
            FrontendMode::Wildcard => {}
            FrontendMode::Traefik(traefik) => match &traefik.frontend {
                TraefikFrontend::Port {
                    advertised_host, ..
                } => addresses.port_host = Some(advertised_host.clone()),
                TraefikFrontend::Wildcard {
                    domain,
                    advertised_port,
                    tls_advertised,
                } => {
                    addresses.https |= tls_advertised;
                    addresses.wildcard = Some(WildcardAddress {
                        domain: domain.clone(),
                        port: *advertised_port,
                    });
                }
            },
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn addresses(mode: &str, more: &str) -> (Identity, PublicAddresses) {
        let text = format!(
            r#"
[redis]
addr = {{ host = "127.0.0.1", port = 6379 }}
[proxy_worker]
coordinator_endpoint = "http://127.0.0.1:10200"
authority = "worker-1"
frontend_mode = "{mode}"
protocol = "http"
accepted_traffics = ["interactive"]
api_advertised_addr = {{ host = "apps.test", port = 10201 }}
{more}
[secrets]
api_secret = "a"
jwt_secret = "b"
[permit_hash]
secret = "c"
[logging]
level = "INFO"
drivers = ["console"]
[causeway]
path_frontend = "0.0.0.0:5050"
"#
        );
        let worker = WorkerConfig::parse(&text, Path::new("w.toml")).unwrap();
        let config = worker.coordinator.as_ref().unwrap();
        let identity = Identity::of(config, "1");
        (identity, PublicAddresses::of(&worker, config))
    }

    #[test]
    fn users_are_sent_to_advertised_addresses() {
        let (identity, ports) = addresses(
            "port",
            "tls_advertised = true\n[proxy_worker.port_proxy]\nbind_host = \"127.0.0.1\"\n\
             advertised_host = \"ports.test\"\nbind_port_range = [10300, 10301]",
        );
        assert_eq!(identity.frontend_mode, "port");
        assert_eq!(identity.protocol, "http");
        assert!(ports.https && ports.wildcard.is_none());
        assert_eq!(ports.port_host.as_deref(), Some("ports.test"));
        let path = ports.path.unwrap();
        assert_eq!(
            (path.https, path.at.to_string().as_str()),
            (true, "apps.test:5050")
        );

        let (_, wildcard) = addresses(
            "wildcard",
            "[proxy_worker.wildcard_domain]\ndomain = \".apps.test\"\n\
             bind_addr = { host = \"127.0.0.1\", port = 10205 }\nadvertised_port = 80",
        );
        assert!(!wildcard.https && wildcard.port_host.is_none());
        let at = wildcard.wildcard.unwrap();
        assert_eq!((at.domain.as_str(), at.port), (".apps.test", 80));

        let (identity, traefik) = addresses(
            "traefik",
            "[proxy_worker.traefik]\napi_port = 8080\nfrontend_mode = \"wildcard\"\n\
             last_used_time_marker_directory = \"/tmp\"\n\
             [proxy_worker.traefik.wildcard_domain]\ndomain = \".t.test\"\n\
             advertised_port = 443\ntls_advertised = true",
        );
        assert_eq!(identity.frontend_mode, "wildcard");
        assert!(traefik.https);
        assert_eq!(traefik.wildcard.unwrap().domain, ".t.test");
    }
}
