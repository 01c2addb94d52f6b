//! Filters of connection managers whose configuration is a resource of its own. It takes effect in the
//! chains that are in use, so that a change of it is none of their listeners.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use causeway_xds::ResourceType;
use causeway_xds::extension::TypedExtension;
use causeway_xds::reject::{Invalid, Rejected};
use causeway_xds::resource::Resource;
use causeway_xds::resource::filter_config::FilterDiscovery;
use causeway_xds::resource::parts;
use causeway_xds::resource::tls::SecretValue;

use super::{Compiled, Resources};
use crate::filter::registry::Registry;
use crate::filter::{HttpFilter, Slot};
use crate::telemetry::stats::Stats;

/// Bytes of a secret of a filter at most.
const MAX_SECRET: usize = 1 << 16;

/// Tells filters what they need of a secret they look up by themselves.
pub(super) fn pass_on(registry: &Registry, store: &dyn Resources, name: &str) {
    let value = match super::resource(store, ResourceType::Secret, name) {
        Some(Resource::Secret(secret)) => match &secret.value {
            SecretValue::Generic(source) => parts::source(source, MAX_SECRET)
                .inspect_err(|error| tracing::warn!(name, %error, "a secret that cannot be read"))
                .ok(),
            _ => None,
        },
        _ => None,
    };
    registry.context().secrets.set(name, value);
}

/// Who uses which configuration, by its name.
#[derive(Debug, Default)]
pub(super) struct FilterUsers(HashMap<String, Named>);

#[derive(Debug, Default)]
struct Named {
    /// What all who use it can use.
    given: Option<TypedExtension>,
    users: Vec<User>,
}

/// A filter of a listener in use. Those of a listener that is gone, or of an earlier version of it,
/// keep what they have while its connections end.
#[derive(Debug)]
pub(super) struct User {
    listener: String,
    /// Under which its chain counts, and where the chain stands.
    stat_prefix: String,
    place: String,
    discovery: FilterDiscovery,
    slot: Weak<Slot>,
}

/// What filters are made with.
pub(super) struct With<'c> {
    pub(super) store: &'c dyn Resources,
    pub(super) registry: &'c Registry,
    pub(super) stats: &'c Stats,
    /// Of the connection manager that is compiled; empty when none is.
    pub(super) stat_prefix: &'c str,
}

impl FilterUsers {
    /// A place in a chain for this filter, with what there is for it.
    pub(super) fn add(
        &mut self,
        listener: &str,
        discovery: &FilterDiscovery,
        with: &With<'_>,
        out: &mut Compiled,
    ) -> Result<Arc<Slot>, Invalid> {
        let name = &discovery.name;
        let With {
            store,
            registry,
            stats,
            stat_prefix,
        } = *with;
        let named = self.0.entry(name.clone()).or_default();
        let counts = stats.filter_config(name);
        let first = named.given.is_none();
        let mut given = None;
        if let Some(config) = named.given.clone().or_else(|| stored(store, name)) {
            match build(discovery, stat_prefix, &config, registry) {
                Ok(built) => {
                    given = Some(built);
                    if first {
                        named.given = Some(config);
                        counts.config_reload.inc();
                    }
                }
                Err(invalid) => {
                    counts.config_fail.inc();
                    out.rejected.push(refused(name, invalid));
                }
            }
        }
        let slot = Arc::new(Slot::default());
        slot.set(match given {
            Some(built) => Some(built),
            None => default(discovery, stat_prefix, registry)?,
        });
        named.users.push(User {
            listener: listener.to_owned(),
            stat_prefix: stat_prefix.to_owned(),
            place: registry.context().place.clone(),
            discovery: discovery.clone(),
            slot: Arc::downgrade(&slot),
        });
        Ok(slot)
    }

    /// Takes out the users of a listener, before it is compiled again or because it is gone.
    pub(super) fn release(&mut self, listener: &str) -> Vec<User> {
        let all = self.0.values_mut();
        all.flat_map(|named| named.users.extract_if(.., |user| user.listener == listener))
            .collect()
    }

    /// Puts them back, as the earlier version of their listener stays in use.
    pub(super) fn restore(&mut self, users: Vec<User>) {
        for user in users {
            let named = self.0.get_mut(&user.discovery.name);
            if let Some(named) = named {
                named.users.push(user);
            }
        }
    }

    /// A configuration came, changed, or is gone. What one of its users cannot take none of them gets.
    pub(super) fn changed(&mut self, name: &str, with: &With<'_>, out: &mut Compiled) {
        let With {
            store,
            registry,
            stats,
            ..
        } = *with;
        let Some(named) = self.0.get_mut(name) else {
            return;
        };
        named.users.retain(|user| user.slot.strong_count() > 0);
        if named.users.is_empty() {
            self.0.remove(name);
            return stats.forget_filter_config(name);
        }
        let counts = stats.filter_config(name);
        let given = stored(store, name);
        let built: Result<Vec<_>, _> = named
            .users
            .iter()
            .map(|user| {
                let registry = registry.at(user.place.clone());
                match &given {
                    Some(config) => {
                        build(&user.discovery, &user.stat_prefix, config, &registry).map(Some)
                    }
                    None => default(&user.discovery, &user.stat_prefix, &registry),
                }
            })
            .collect();
        match built {
            Ok(built) => {
                for (user, filter) in named.users.iter().zip(built) {
                    if let Some(slot) = user.slot.upgrade() {
                        slot.set(filter);
                    }
                }
                named.given = given;
                counts.config_reload.inc();
            }
            Err(invalid) => {
                counts.config_fail.inc();
                out.rejected.push(refused(name, invalid));
            }
        }
    }
}

fn stored(store: &dyn Resources, name: &str) -> Option<TypedExtension> {
    match store.resource(ResourceType::FilterConfig, name)? {
        Resource::FilterConfig(found) => Some(found.config.clone()),
        _ => None,
    }
}

fn build(
    discovery: &FilterDiscovery,
    stat_prefix: &str,
    config: &TypedExtension,
    registry: &Registry,
) -> Result<Arc<dyn HttpFilter>, Invalid> {
    discovery.check_type(config)?;
    registry.filter(stat_prefix, &discovery.name, config)
}

fn default(
    discovery: &FilterDiscovery,
    stat_prefix: &str,
    registry: &Registry,
) -> Result<Option<Arc<dyn HttpFilter>>, Invalid> {
    let config = discovery.default.as_ref();
    config
        .map(|config| registry.filter(stat_prefix, &discovery.name, config))
        .transpose()
}

fn refused(name: &str, invalid: Invalid) -> Rejected {
    let at = causeway_xds::FieldPath::root().field("typed_config");
    Rejected::new(ResourceType::FilterConfig, name, invalid.within(&at))
}
