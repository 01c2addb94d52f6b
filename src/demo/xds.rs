//! A management server on show: two origins, and their traffic moved from one to the other by what
//! a proxy is told over xDS.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | the service |
//! | [`subscription`] | what a client is sent next, without a connection |

pub mod server;
pub mod subscription;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use causeway_xds::ResourceType;
use causeway_xds::text::{self, TextError};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::interval;

use server::{ManagementServer, Said};
use subscription::Versioned;

/// The listener that the proxy is told to open.
pub const LISTENER: &str = "demo";
/// How much of the traffic the first origin gets, in percent, one step after the other.
pub const STEPS: [u32; 5] = [100, 75, 50, 25, 0];

const CLUSTER: &str = "app";
const ROUTES: &str = "demo-routes";

/// Origins, management server, and what it tells.
#[derive(Debug)]
pub struct Scene {
    server: ManagementServer,
    blue: SocketAddr,
    green: SocketAddr,
    _origins: JoinSet<()>,
}

impl Scene {
    /// Starts everything on loopback. Proxies are told to listen on `traffic`; what they say goes to
    /// `said`. Where a port is 0 the system chooses one.
    ///
    /// # Errors
    /// A port is not free.
    pub async fn start(
        port: u16,
        traffic: u16,
        said: mpsc::UnboundedSender<Said>,
    ) -> io::Result<Self> {
        let mut origins = JoinSet::new();
        let blue = origin("blue\n", &mut origins).await?;
        let green = origin("green\n", &mut origins).await?;
        let scene = Self {
            server: ManagementServer::start(port, said).await?,
            blue,
            green,
            _origins: origins,
        };
        let told = [
            (ResourceType::Cluster, CLUSTER, cluster()),
            (ResourceType::Listener, LISTENER, listener(traffic)),
            (ResourceType::RouteConfiguration, ROUTES, routes()),
        ];
        for (kind, name, resource) in told {
            scene.tell(kind, name, &resource)?;
        }
        scene.split(STEPS[0])?;
        Ok(scene)
    }

    /// Where the management server listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// From now on so many percent of the traffic go to the first origin, the rest to the second.
    ///
    /// # Errors
    /// None that is expected; it is that of [`text::any_from_value`].
    pub fn split(&self, percent: u32) -> io::Result<()> {
        let endpoints = [
            (self.blue, percent),
            (self.green, 100_u32.saturating_sub(percent)),
        ];
        self.tell(
            ResourceType::LoadAssignment,
            CLUSTER,
            &assignment(&endpoints),
        )
    }

    /// Publishes one resource; the others keep their versions.
    fn tell(&self, kind: ResourceType, name: &str, resource: &Value) -> io::Result<()> {
        let any = text::any_from_value(resource).map_err(|e: TextError| io::Error::other(e))?;
        self.server.tell(|world| {
            world.version += 1;
            let versioned = Versioned {
                version: world.version,
                any,
            };
            let of_kind = world.resources.entry(kind).or_default();
            of_kind.insert(name.to_owned(), versioned);
        });
        Ok(())
    }

    /// Says what clients say, and moves the traffic from one origin to the other and back, a step at
    /// a time, once there is a client to see it from the beginning. Ends when clients can say no more.
    ///
    /// # Errors
    /// As [`Scene::split`].
    pub async fn play(
        &self,
        said: &mut mpsc::UnboundedReceiver<Said>,
        step: Duration,
        mut say: impl FnMut(&str),
    ) -> io::Result<()> {
        let there = STEPS.iter().skip(1);
        let back = STEPS.iter().rev().skip(1);
        let mut steps = there.chain(back).cycle();
        let mut watched = false;
        let mut clock = interval(step);
        loop {
            tokio::select! {
                what = said.recv() => {
                    let Some(what) = what else { return Ok(()) };
                    say(&what.to_string());
                    if !watched && matches!(what, Said::Connected { .. }) {
                        watched = true;
                        clock.reset();
                    }
                }
                _ = clock.tick(), if watched => {
                    let percent = steps.next().copied().unwrap_or(STEPS[0]);
                    say(&format!("blue {percent} %, green {} %", 100 - percent));
                    self.split(percent)?;
                }
            }
        }
    }

    /// What a proxy is started with to follow this server.
    pub fn bootstrap(&self, incremental: bool, admin: u16) -> String {
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let bootstrap = json!({
            "node": {"id": "demo-proxy", "cluster": "demo"},
            "admin": address(SocketAddr::from((Ipv4Addr::LOCALHOST, admin))),
            "dynamic_resources": {
                "ads_config": {
                    "api_type": if incremental { "DELTA_GRPC" } else { "GRPC" },
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "management"}}],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {"clusters": [{
                "name": "management",
                "type": "STATIC",
                "connect_timeout": "1s",
                // gRPC is HTTP/2.
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "management",
                    "endpoints": [{"lb_endpoints": [{"endpoint": address(self.address())}]}],
                },
            }]},
        });
        format!("{bootstrap:#}\n")
    }
}

async fn origin(answer: &'static str, running: &mut JoinSet<()>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    running.spawn(async move {
        let app = Router::new().fallback(move || async move { answer });
        // Accept errors are retried inside; this ends with the task.
        let _ = axum::serve(listener, app).await;
    });
    Ok(address)
}

fn address(at: SocketAddr) -> Value {
    json!({"address": {"socket_address": {"address": at.ip(), "port_value": at.port()}}})
}

fn cluster() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": CLUSTER,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
    })
}

/// An origin without a share is left out: the smallest weight that can be said is 1.
fn assignment(endpoints: &[(SocketAddr, u32)]) -> Value {
    let weighted = endpoints.iter().filter(|(_, weight)| *weight > 0);
    let endpoints: Vec<_> = weighted
        .map(|(at, weight)| json!({"endpoint": address(*at), "load_balancing_weight": weight}))
        .collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": CLUSTER,
        "endpoints": [{"lb_endpoints": endpoints}],
    })
}

fn routes() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}],
        }],
    })
}

fn listener(port: u16) -> Value {
    let mut listener = address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    listener["name"] = json!(LISTENER);
    listener["filter_chains"] = json!([{"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": LISTENER,
            "rds": {
                "route_config_name": ROUTES,
                "config_source": {"ads": {}, "resource_api_version": "V3"},
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    }]}]);
    listener
}

/// What the demo says about itself.
pub fn banner(management_server: SocketAddr, traffic: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "
Causeway demo: a management server moves traffic from one origin to another

  management server        {management_server}
  traffic                  http://{traffic}/
  management               http://{admin}/config_dump   /stats   /clusters

  watch it                 while sleep 0.2; do curl -s http://{traffic}/; done

Ctrl-C drains and stops.

"
    )
}
