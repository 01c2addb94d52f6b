//! Clusters that their management server removed while routes still lead to them. A control plane
//! that takes away a route and its cluster in one step sends the cluster's end first, and the
//! route's a moment later; requests in between would be answered by 503. So the cluster stays in use
//! until no route in use names it, and for at most [`LINGER`]: a route that really stays is to fail
//! at once.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use causeway_xds::resource::http_manager::RouteSource;
use causeway_xds::resource::listener::NetworkFilter;
use causeway_xds::resource::route::Action;
use causeway_xds::resource::{Resource, RouteConfiguration, VirtualHost};

/// What a control plane needs to send the second half of a step.
pub const LINGER: Duration = Duration::from_millis(50);

/// The clusters, each with the end of its time.
#[derive(Debug, Default)]
pub struct Lingering(BTreeMap<String, Instant>);

impl Lingering {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn add(&mut self, name: &str, now: Instant) {
        self.0.entry(name.to_owned()).or_insert(now + LINGER);
    }

    /// It was sent again.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Takes out those whose time is over, and those that are not `referred` to.
    pub fn end(&mut self, referred: &HashSet<&str>, now: Instant) -> Vec<String> {
        let over = |name: &str, end: Instant| end <= now || !referred.contains(name);
        let ended = self.0.extract_if(.., |name, end| over(name, *end));
        ended.map(|(name, _)| name).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

/// Which of `names` are the target of a route or a TCP proxy of these resources.
pub fn referred<'n, 'r>(
    names: impl Iterator<Item = &'n str>,
    resources: impl Iterator<Item = &'r Resource>,
) -> HashSet<&'n str> {
    let names: HashSet<&str> = names.collect();
    let mut found = HashSet::new();
    let mut see = |cluster: &str| {
        if let Some(name) = names.get(cluster) {
            found.insert(*name);
        }
    };
    for resource in resources {
        match resource {
            Resource::RouteConfiguration(routes) => of_routes(routes, &mut see),
            Resource::VirtualHost { host, .. } => of_host(&host.decoded(), &mut see),
            Resource::Listener(listener) => {
                let chains = listener.filter_chains.iter();
                for chain in chains.chain(&listener.default_filter_chain) {
                    match &chain.filter {
                        NetworkFilter::Tcp(proxy) => {
                            proxy.clusters.iter().for_each(|c| see(&c.name));
                        }
                        NetworkFilter::Http(manager) => {
                            if let RouteSource::Inline(routes) = &manager.routes {
                                of_routes(routes, &mut see);
                            }
                        }
                        NetworkFilter::Echo | NetworkFilter::Direct(_) => {}
                    }
                }
            }
            Resource::Cluster(_)
            | Resource::LoadAssignment(_)
            | Resource::Secret(_)
            | Resource::FilterConfig(_) => {}
        }
    }
    found
}

fn of_routes(routes: &RouteConfiguration, see: &mut impl FnMut(&str)) {
    for host in &routes.virtual_hosts {
        of_host(host, see);
    }
}

fn of_host(host: &VirtualHost, see: &mut impl FnMut(&str)) {
    for route in &host.routes {
        if let Action::Forward(forward) = &route.action {
            forward.destination.names().for_each(&mut *see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_goes_with_its_last_route_or_when_its_time_is_over() {
        let now = Instant::now();
        let mut all = Lingering::default();
        all.add("a", now);
        all.add("b", now + LINGER / 2);
        assert_eq!(all.next_deadline(), Some(now + LINGER));
        assert_eq!(all.end(&["b"].into(), now), ["a"]);
        assert_eq!(all.end(&["b"].into(), now + LINGER), [""; 0]);
        all.add("b", now + LINGER);
        let end = now + LINGER * 2;
        assert_eq!(all.end(&["b"].into(), end), ["b"]);
        assert!(all.is_empty());
    }
}
