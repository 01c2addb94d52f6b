//! Which cluster a request goes to: message to typed.

use crate::extension::TypedExtension;
use crate::proto::core::Metadata;
use crate::proto::route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
use crate::proto::route::weighted_cluster::{ClusterWeight, RandomValueSpecifier};
use crate::proto::route::{self, route_action::ClusterSpecifier};
use crate::reject::Invalid;
use crate::resource::context::{
    At, Context, accept, each, fault, filter_config, not_empty, required,
};
use crate::resource::headers::{
    EditFields, HeaderEdits, header_name, header_or_pseudo_name, header_value,
};
use crate::resource::load_assignment::LB_METADATA;
use crate::resource::metadata::{Label, Labels};

/// `cluster`, `cluster_header` or `weighted_clusters`.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    Cluster(ClusterName),
    Weighted(WeightedClusters),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterName {
    Fixed(String),
    /// The value of this header; lower case, or a pseudo header.
    Header(String),
}

/// `envoy.config.route.v3.WeightedCluster`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedClusters {
    /// At least one, and at least one whose weight is not zero.
    pub clusters: Vec<WeightedCluster>,
    pub selection: Selection,
    /// Weights are looked up at `<prefix>.<cluster>` in the runtime; may be empty.
    pub runtime_key_prefix: String,
}

/// What the choice is made by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    #[default]
    Random,
    /// The number in this header; random when it has none. Lower case.
    Header(String),
}

/// `envoy.config.route.v3.WeightedCluster.ClusterWeight`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedCluster {
    /// What subsets of the cluster are asked for, with what the route does (`metadata_match`).
    pub labels: Labels,
    pub cluster: ClusterName,
    pub weight: u32,
    /// `host_rewrite_literal`, over the route's own rewrite.
    pub host: Option<String>,
    pub edits: HeaderEdits,
    /// By filter name, sorted.
    pub filter_config: Vec<(String, TypedExtension)>,
}

impl Destination {
    /// What the route asks for, each of several clusters asks for as well.
    pub(super) fn inherit(&mut self, labels: &Labels) {
        if let Self::Weighted(weighted) = self {
            for cluster in &mut weighted.clusters {
                cluster.labels = cluster.labels.or(labels);
            }
        }
    }

    pub(super) fn decode(
        message: Option<ClusterSpecifier>,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        let unsupported = |field| Err(Invalid::at(field, "not supported yet"));
        match required(message, "cluster_specifier")? {
            ClusterSpecifier::Cluster(name) => Ok(Self::Cluster(ClusterName::Fixed(not_empty(
                name, "cluster",
            )?))),
            ClusterSpecifier::ClusterHeader(name) => {
                let name = header_or_pseudo_name(&name).at("cluster_header")?;
                Ok(Self::Cluster(ClusterName::Header(name)))
            }
            ClusterSpecifier::WeightedClusters(clusters) => WeightedClusters::decode(clusters, ctx)
                .at("weighted_clusters")
                .map(Self::Weighted),
            ClusterSpecifier::ClusterSpecifierPlugin(_) => unsupported("cluster_specifier_plugin"),
            ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
                unsupported("inline_cluster_specifier_plugin")
            }
        }
    }

    /// The clusters that are named outright.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            Self::Cluster(name) => (Some(name), &[][..]),
            Self::Weighted(weighted) => (None, &weighted.clusters[..]),
        };
        let all = one.into_iter().chain(many.iter().map(|c| &c.cluster));
        all.filter_map(ClusterName::fixed)
    }
}

impl ClusterName {
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(name) => Some(name),
            Self::Header(_) => None,
        }
    }

    /// Exactly one of a pair of fields.
    pub(super) fn either(name: String, header: String, field: &str) -> Result<Self, Invalid> {
        match (name.is_empty(), header.is_empty()) {
            (false, true) => Ok(Self::Fixed(name)),
            (true, false) => header_or_pseudo_name(&header)
                .at("cluster_header")
                .map(Self::Header),
            (true, true) => Err(Invalid::at(field, "or cluster_header must be given")),
            (false, false) => Err(Invalid::at(
                "cluster_header",
                format!("is given together with {field}"),
            )),
        }
    }
}

impl WeightedClusters {
    fn decode(message: route::WeightedCluster, ctx: &Context<'_>) -> Result<Self, Invalid> {
        #[allow(deprecated, reason = "named so that nothing is skipped")]
        let route::WeightedCluster {
            clusters,
            total_weight,
            runtime_key_prefix,
            random_value_specifier,
        } = message;
        accept!(ctx, "WeightedCluster": total_weight);
        if clusters.is_empty() {
            return Err(Invalid::at("clusters", "must not be empty"));
        }
        let clusters = each("clusters", clusters, |c| WeightedCluster::decode(c, ctx))?;
        let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
        if total == 0 || total > u64::from(u32::MAX) {
            let reason = format!("weights sum up to {total}, not to 1 up to 4294967295");
            return Err(Invalid::at("clusters", reason));
        }
        Ok(Self {
            clusters,
            selection: match random_value_specifier {
                None => Selection::Random,
                Some(RandomValueSpecifier::HeaderName(name)) => {
                    Selection::Header(header_name(&name).at("header_name")?)
                }
                Some(RandomValueSpecifier::UseHashPolicy(flag)) if !flag.value => Selection::Random,
                Some(RandomValueSpecifier::UseHashPolicy(_)) => {
                    return Err(Invalid::at("use_hash_policy", "not supported yet"));
                }
            },
            runtime_key_prefix,
        })
    }
}

/// What endpoints are asked for (`metadata_match`). As in Envoy, only what balancers read of it.
pub(in crate::resource) fn labels(metadata_match: Option<Metadata>) -> Labels {
    let mut metadata = metadata_match.unwrap_or_default();
    Label::all(metadata.filter_metadata.remove(LB_METADATA))
}

impl WeightedCluster {
    fn decode(message: ClusterWeight, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = message;
        let host = match host_rewrite_specifier {
            None => None,
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                header_value(&host).at("host_rewrite_literal")?;
                (!host.is_empty()).then_some(host)
            }
        };
        Ok(Self {
            cluster: ClusterName::either(name, cluster_header, "name")?,
            weight: weight
                .ok_or_else(|| fault("must be given"))
                .at("weight")?
                .value,
            host,
            edits: HeaderEdits::decode(EditFields {
                request_headers_to_add,
                request_headers_to_remove,
                response_headers_to_add,
                response_headers_to_remove,
            })?,
            labels: labels(metadata_match),
            filter_config: filter_config(typed_per_filter_config, ctx)?,
        })
    }
}
