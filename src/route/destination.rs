//! Which cluster a request goes to, compiled.

use std::borrow::Cow;
use std::sync::Arc;

use causeway_xds::resource::route as model;
use http::header::HeaderValue;

use super::matcher::Headers;
use super::{HeaderEdits, PerRoute, RequestView};
use crate::runtime::layers::{Key, Layers};

#[derive(Debug)]
pub enum Destination {
    Cluster(ClusterName),
    Weighted(Weighted),
}

#[derive(Debug)]
pub enum ClusterName {
    Fixed(Arc<str>),
    Header(String),
}

#[derive(Debug)]
pub struct Weighted {
    clusters: Vec<WeightedCluster>,
    by_header: Option<String>,
}

/// One of several clusters, with what differs from the route.
#[derive(Debug)]
pub struct WeightedCluster {
    cluster: ClusterName,
    weight: u32,
    /// Overrides `weight`.
    key: Option<Key>,
    pub host: Option<HeaderValue>,
    /// With those of the route and what is around it.
    pub edits: HeaderEdits,
    pub filters: PerRoute,
}

impl ClusterName {
    pub fn compile(model: &model::ClusterName) -> Self {
        match model {
            model::ClusterName::Fixed(name) => Self::Fixed(Arc::from(name.as_str())),
            model::ClusterName::Header(name) => Self::Header(name.clone()),
        }
    }

    /// Empty when a request does not say.
    pub fn of<'n>(&'n self, headers: &'n impl Headers) -> Cow<'n, str> {
        let name = match self {
            Self::Fixed(name) => return Cow::Borrowed(name),
            Self::Header(name) => name,
        };
        headers
            .header(name)
            .map_or(Cow::Borrowed(""), String::from_utf8_lossy)
    }
}

impl Weighted {
    pub fn compile(
        model: &model::WeightedClusters,
        layers: &Layers,
        mut parts: impl FnMut(&model::WeightedCluster) -> (HeaderEdits, PerRoute),
    ) -> Self {
        let prefix = &model.runtime_key_prefix;
        let clusters = model.clusters.iter().map(|cluster| {
            let (edits, filters) = parts(cluster);
            let name = cluster.cluster.fixed().unwrap_or_default();
            let host = cluster.host.as_deref();
            WeightedCluster {
                cluster: ClusterName::compile(&cluster.cluster),
                weight: cluster.weight,
                key: (!prefix.is_empty()).then(|| layers.key(&format!("{prefix}.{name}"))),
                host: host.and_then(|host| HeaderValue::from_str(host).ok()),
                edits,
                filters,
            }
        });
        Self {
            clusters: clusters.collect(),
            by_header: match &model.selection {
                model::Selection::Random => None,
                model::Selection::Header(name) => Some(name.clone()),
            },
        }
    }

    /// The position of the cluster that the request's number falls on.
    fn choose(&self, request: &impl RequestView) -> usize {
        let weights = || self.clusters.iter().map(|c| u64::from(c.weight()));
        let total = weights().sum::<u64>().max(1);
        let number = self
            .by_header
            .as_ref()
            .and_then(|name| number(request.header(name)?))
            .unwrap_or_else(|| request.random());
        let mut left = number % total;
        let found = weights().position(|weight| match left.checked_sub(weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        // Weights may have changed between the two looks.
        found.unwrap_or(0)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl WeightedCluster {
    fn weight(&self) -> u32 {
        self.key
            .as_ref()
            .and_then(Key::number)
            .unwrap_or(self.weight)
    }
}

impl Destination {
    /// The cluster's name, and its position where there are several.
    pub fn choose<'n>(&'n self, request: &'n impl RequestView) -> (Cow<'n, str>, Option<usize>) {
        match self {
            Self::Cluster(name) => (name.of(request), None),
            Self::Weighted(weighted) => {
                let position = weighted.choose(request);
                let name = weighted.clusters[position].cluster.of(request);
                (name, Some(position))
            }
        }
    }

    pub fn weighted(&self, position: usize) -> Option<&WeightedCluster> {
        match self {
            Self::Cluster(_) => None,
            Self::Weighted(weighted) => weighted.clusters.get(position),
        }
    }
}
