//! Endpoints that are where clients wanted to go: known once somebody asks for them, forgotten when
//! nobody uses them any more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::OriginalDst as Model;
use causeway_xds::resource::load_assignment as model;
use http::header::HeaderMap;

use crate::telemetry::stats::{ClusterStats, Counter};
use crate::upstream::Endpoint;
use crate::upstream::endpoint::Attributes;

/// Endpoints of one cluster at one time. Where fields of requests name them, clients could make any
/// number.
const MAX_ENDPOINTS: usize = 10_000;

/// The endpoints of one cluster. Shared by the snapshots that show the same configuration.
#[derive(Debug)]
pub struct OriginalDst {
    cluster: Arc<str>,
    pub model: Model,
    endpoints: RwLock<HashMap<SocketAddr, Known>>,
}

#[derive(Debug)]
struct Known {
    endpoint: Arc<Endpoint>,
    /// Since the last [`OriginalDst::sweep`].
    used: AtomicBool,
}

impl OriginalDst {
    pub fn new(cluster: Arc<str>, model: Model) -> Self {
        Self {
            cluster,
            model,
            endpoints: RwLock::default(),
        }
    }

    /// Knows of the same endpoints, which are connected to in another way.
    pub fn reconnected(&self, model: Model) -> Self {
        let known = self
            .endpoints
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let known = known.iter().map(|(address, known)| {
            let endpoint = &known.endpoint;
            let known = Known {
                endpoint: Arc::new(endpoint.reconnected(endpoint.attributes.clone())),
                used: AtomicBool::new(true),
            };
            (*address, known)
        });
        Self {
            cluster: Arc::clone(&self.cluster),
            model,
            endpoints: RwLock::new(known.collect()),
        }
    }

    /// Where a request or a connection is to go: as its field says, or where it was bound for.
    /// `invalid` counts fields that hold no address.
    pub fn destination(
        &self,
        headers: Option<&HeaderMap>,
        restored: Option<SocketAddr>,
        invalid: &Counter,
    ) -> Option<SocketAddr> {
        let header = self.model.header.as_deref();
        let told = header
            .and_then(|name| headers?.get(name))
            .and_then(|value| {
                let address = value.to_str().ok().and_then(|text| text.parse().ok());
                if address.is_none() {
                    invalid.inc();
                }
                address
            });
        let mut address: SocketAddr = told.or(restored)?;
        if let Some(port) = self.model.port {
            address.set_port(port);
        }
        Some(address)
    }

    /// The endpoint with this address; `None` when there are too many.
    pub fn endpoint(&self, address: SocketAddr, stats: &ClusterStats) -> Option<Arc<Endpoint>> {
        let known = self
            .endpoints
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&address) {
            if !known.used.load(Relaxed) {
                known.used.store(true, Relaxed);
            }
            return Some(Arc::clone(&known.endpoint));
        }
        drop(known);
        let mut known = self
            .endpoints
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ENDPOINTS && !known.contains_key(&address) {
            return None;
        }
        let known = known.entry(address).or_insert_with(|| {
            stats.membership_total.inc();
            stats.membership_healthy.inc();
            Known {
                endpoint: Arc::new(self.make(address)),
                used: AtomicBool::new(true),
            }
        });
        Some(Arc::clone(&known.endpoint))
    }

    fn make(&self, address: SocketAddr) -> Endpoint {
        Endpoint::new(Attributes::plain(model::Endpoint {
            // As in Envoy.
            hostname: format!("{}{address}", self.cluster),
            ..model::Endpoint::at(Address::Socket(address))
        }))
    }

    /// Forgets the endpoints that nobody asked for since the last time, and that have no
    /// connections. Returns whether there were any.
    pub fn sweep(&self) -> bool {
        let mut known = self
            .endpoints
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        known.retain(|_, known| {
            let stats = &known.endpoint.stats;
            let used = known.used.swap(false, Relaxed)
                || stats.cx_active.value() > 0
                || stats.rq_active.value() > 0;
            if !used {
                known.endpoint.retire(false);
            }
            used
        });
        known.len() < before
    }

    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        let known = self
            .endpoints
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let all = known.values().map(|known| Arc::clone(&known.endpoint));
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn cluster(header: Option<&str>, port: Option<u16>) -> OriginalDst {
        let model = Model {
            header: header.map(str::to_owned),
            port,
            cleanup: std::time::Duration::from_secs(5),
        };
        OriginalDst::new("c".into(), model)
    }

    fn headers(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(http::HeaderName::from_static("x-to"), value)])
    }

    #[test]
    fn a_field_says_where_to_go_before_the_connection_does() {
        let invalid = Counter::default();
        let bound: Option<SocketAddr> = Some("10.0.0.1:80".parse().unwrap());
        let by_field = cluster(Some("x-to"), None);
        let told = headers("127.0.0.1:8080");
        let of = |cluster: &OriginalDst, headers: &HeaderMap, bound| {
            let found = cluster.destination(Some(headers), bound, &invalid);
            found.map(|address| address.to_string())
        };
        assert_eq!(
            of(&by_field, &told, bound).as_deref(),
            Some("127.0.0.1:8080")
        );
        let plain = cluster(None, None);
        assert_eq!(of(&plain, &told, bound).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(of(&plain, &told, None), None);
        assert_eq!(invalid.value(), 0);
        let other_port = cluster(Some("x-to"), Some(99));
        assert_eq!(
            of(&other_port, &told, None).as_deref(),
            Some("127.0.0.1:99")
        );
        assert_eq!(
            of(&other_port, &HeaderMap::new(), bound).as_deref(),
            Some("10.0.0.1:99")
        );
        for wrong in ["127.0.0.1", "name:80", "1.2.3.4:80,1.2.3.5:80"] {
            assert_eq!(of(&by_field, &headers(wrong), None), None);
        }
        assert_eq!(invalid.value(), 3);
    }

    #[test]
    fn an_endpoint_is_kept_while_it_is_used() {
        let (cluster, stats) = (cluster(None, None), ClusterStats::default());
        let address = "10.0.0.1:80".parse().unwrap();
        let first = cluster.endpoint(address, &stats).unwrap();
        assert_eq!(cluster.endpoint(address, &stats).unwrap().uid, first.uid);
        cluster.sweep();
        first.stats.cx_active.inc();
        cluster.sweep();
        assert_eq!(cluster.endpoint(address, &stats).unwrap().uid, first.uid);
        first.stats.cx_active.dec();
        cluster.sweep();
        assert!(!first.is_retired());
        cluster.sweep();
        assert!(first.is_retired() && cluster.all().is_empty());
        assert_ne!(cluster.endpoint(address, &stats).unwrap().uid, first.uid);
    }

    #[test]
    fn clients_cannot_make_any_number_of_endpoints() {
        let (cluster, stats) = (cluster(None, None), ClusterStats::default());
        let address = |n: usize| {
            let port = u16::try_from(n % 60_000).unwrap();
            SocketAddr::from(([10, 0, 0, 1], port))
        };
        assert!((0..MAX_ENDPOINTS).all(|n| cluster.endpoint(address(n), &stats).is_some()));
        assert!(cluster.endpoint(address(MAX_ENDPOINTS), &stats).is_none());
        assert!(cluster.endpoint(address(0), &stats).is_some());
    }
}
