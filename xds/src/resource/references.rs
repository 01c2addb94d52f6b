//! What a resource refers to by name.

use std::sync::Arc;

use super::cluster::{Cluster, Discovery};
use super::config_source::{ConfigSource, DEFAULT_FETCH_TIMEOUT, Place};
use super::http_manager::{HttpFilterConfig, HttpManager, RouteSource};
use super::listener::{FilterChain, Listener, NetworkFilter};
use super::route::RouteConfiguration;
use super::tls::{CertificateRef, DownstreamTls, SecretRef, TicketKeysRef};
use super::{Resource, VirtualHost};
use crate::type_url::ResourceType;

/// A resource that another one needs, and where it is to come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub kind: ResourceType,
    /// For a virtual host this is the prefix of the names to ask for, slash included:
    /// `<route configuration>/`.
    pub name: String,
    /// [`Place::Static`] for a secret without a source: it is among the static ones.
    pub source: ConfigSource,
    /// Whether there is something to go on with as long as it is not there.
    pub optional: bool,
}

impl Resource {
    /// The named resources this one cannot do its work without: load assignments, route
    /// configurations, secrets, virtual hosts, configurations of filters. Clusters that routes name are not among them: a
    /// missing one is answered when a request asks for it.
    pub fn references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        match self {
            Self::Listener(listener) => of_listener(listener, &mut found),
            Self::RouteConfiguration(routes) => of_routes(routes, &mut found),
            Self::Cluster(cluster) => of_cluster(cluster, &mut found),
            Self::VirtualHost { .. } | Self::LoadAssignment(_) | Self::Secret(_) => {}
            Self::FilterConfig(config) => of_filters(&config.secrets, &mut found),
        }
        found
    }
}

impl VirtualHost {
    /// The resource name of a virtual host of `route_configuration`.
    pub fn resource_name(route_configuration: &str, virtual_host: &str) -> String {
        format!("{route_configuration}/{virtual_host}")
    }
}

fn of_listener(listener: &Listener, found: &mut Vec<Reference>) {
    for chain in listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain)
    {
        of_chain(chain, found);
    }
    of_filters(&listener.filter_secrets, found);
}

fn of_chain(chain: &FilterChain, found: &mut Vec<Reference>) {
    if let Some(DownstreamTls {
        certificates,
        validation_secret,
        ticket_keys,
        ..
    }) = &chain.tls
    {
        certificates.iter().for_each(|c| of_certificate(c, found));
        if let Some(SecretRef { name, source }) = validation_secret {
            of_secret(name, source.as_ref(), found);
        }
        if let Some(TicketKeysRef::Secret(SecretRef { name, source })) = ticket_keys {
            of_secret(name, source.as_ref(), found);
        }
    }
    if let NetworkFilter::Http(manager) = &chain.filter {
        of_manager(manager, found);
    }
}

fn of_manager(manager: &HttpManager, found: &mut Vec<Reference>) {
    match &manager.routes {
        RouteSource::Inline(routes) => of_routes(routes, found),
        RouteSource::Rds { name, source } => found.push(Reference {
            kind: ResourceType::RouteConfiguration,
            name: name.clone(),
            source: source.clone(),
            optional: false,
        }),
    }
    let enabled = manager.filters.iter().filter(|filter| !filter.disabled);
    for filter in enabled {
        if let HttpFilterConfig::Discovered(discovery) = &filter.config {
            found.push(Reference {
                kind: ResourceType::FilterConfig,
                name: discovery.name.clone(),
                source: discovery.source.clone(),
                optional: discovery.without_warming,
            });
        }
    }
}

/// As those of TLS they are waited for; without them filters let nobody in.
fn of_filters(secrets: &[SecretRef], found: &mut Vec<Reference>) {
    for SecretRef { name, source } in secrets {
        of_secret(name, source.as_ref(), found);
    }
}

fn of_routes(routes: &RouteConfiguration, found: &mut Vec<Reference>) {
    of_filters(&routes.filter_secrets, found);
    if let Some(source) = &routes.vhds {
        found.push(Reference {
            kind: ResourceType::VirtualHost,
            name: format!("{}/", routes.name),
            source: source.clone(),
            optional: true,
        });
    }
}

fn of_cluster(cluster: &Cluster, found: &mut Vec<Reference>) {
    match &cluster.discovery {
        Discovery::Static(_) | Discovery::OriginalDst(_) => {}
        Discovery::Eds {
            service_name,
            source,
        } => found.push(Reference {
            kind: ResourceType::LoadAssignment,
            name: service_name.clone(),
            source: source.clone(),
            optional: false,
        }),
        Discovery::Dns(dns) => found.push(Reference {
            kind: ResourceType::LoadAssignment,
            name: dns.resource.clone(),
            source: ConfigSource {
                place: Place::Dns(Arc::clone(dns)),
                initial_fetch_timeout: DEFAULT_FETCH_TIMEOUT,
            },
            optional: false,
        }),
    }
    for tls in cluster.tls_contexts() {
        if let Some(certificate) = &tls.client_certificate {
            of_certificate(certificate, found);
        }
        if let Some(SecretRef { name, source }) = &tls.validation_secret {
            of_secret(name, source.as_ref(), found);
        }
    }
}

fn of_certificate(certificate: &CertificateRef, found: &mut Vec<Reference>) {
    if let CertificateRef::Secret { name, source } = certificate {
        of_secret(name, source.as_ref(), found);
    }
}

fn of_secret(name: &str, source: Option<&ConfigSource>, found: &mut Vec<Reference>) {
    found.push(Reference {
        kind: ResourceType::Secret,
        name: name.to_owned(),
        source: source.cloned().unwrap_or(ConfigSource {
            place: Place::Static,
            initial_fetch_timeout: DEFAULT_FETCH_TIMEOUT,
        }),
        optional: false,
    });
}
