//! Route configurations, and virtual hosts that are resources of their own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::resource::{self as model, Resource};

use super::{Compiled, Compiler, Resources, resource};
use crate::filter::Registry;
use crate::route::{RouteTable, VirtualHost};

impl Compiler {
    pub(super) fn routes(
        &mut self,
        store: &dyn Resources,
        configs: BTreeSet<&str>,
        hosts: &BTreeSet<&str>,
        out: &mut Compiled,
    ) {
        let mut by_config: HashMap<&str, Vec<&str>> = HashMap::new();
        for name in hosts {
            let Some((config, _)) = name.rsplit_once('/') else {
                continue;
            };
            let known = self.virtual_hosts.entry(config.to_owned()).or_default();
            if store.resource(ResourceType::VirtualHost, name).is_some() {
                known.insert((*name).to_owned());
            } else {
                known.remove(*name);
            }
            if !configs.contains(config) {
                by_config.entry(config).or_default().push(name);
            }
        }
        for name in configs {
            let Some(Resource::RouteConfiguration(config)) =
                resource(store, ResourceType::RouteConfiguration, name)
            else {
                out.snapshot.routes.remove(name);
                continue;
            };
            let mut table = match out.snapshot.routes.get(name) {
                Some(before) => before.recompile(config, &self.registry),
                None => RouteTable::compile(config, &self.registry),
            };
            if config.vhds.is_some() {
                for host in self.virtual_hosts.get(name).into_iter().flatten() {
                    apply_host(store, &mut table, config, &self.registry, host);
                }
            }
            out.snapshot
                .routes
                .insert(Arc::clone(&table.name), Arc::new(table));
        }
        for (config_name, hosts) in by_config {
            let (Some(Resource::RouteConfiguration(config)), Some(table)) = (
                resource(store, ResourceType::RouteConfiguration, config_name),
                out.snapshot.routes.get(config_name),
            ) else {
                continue;
            };
            if config.vhds.is_none() {
                continue;
            }
            let mut table = RouteTable::clone(table);
            for host in hosts {
                apply_host(store, &mut table, config, &self.registry, host);
            }
            out.snapshot
                .routes
                .insert(Arc::clone(&table.name), Arc::new(table));
        }
    }
}

fn apply_host(
    store: &dyn Resources,
    table: &mut RouteTable,
    config: &model::RouteConfiguration,
    registry: &Registry,
    name: &str,
) {
    match resource(store, ResourceType::VirtualHost, name) {
        Some(Resource::VirtualHost { host, .. }) => {
            table.insert(VirtualHost::compile(host, config, registry));
        }
        _ => table.remove(name),
    }
}
