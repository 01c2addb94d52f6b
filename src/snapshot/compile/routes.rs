//! Route configurations, and virtual hosts that are resources of their own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::resource::Resource;

use super::{Compiled, Compiler, Resources, resource};
use crate::route::{Filters, RouteTable};

impl Compiler {
    pub(super) fn routes(
        &mut self,
        store: &dyn Resources,
        configs: BTreeSet<&str>,
        hosts: &BTreeSet<&str>,
        out: &mut Compiled,
    ) {
        let mut by_config: HashMap<&str, Vec<&str>> = HashMap::new();
        let filters: Arc<dyn Filters> = Arc::new(self.registry.at("routes".to_owned()));
        for name in hosts {
            let Some((config, _)) = name.rsplit_once('/') else {
                continue;
            };
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
                Some(before) => before.recompile(config, &filters),
                None => RouteTable::compile(config, &filters),
            };
            if config.vhds.is_some() {
                // In an order, as domains may be claimed twice.
                let mut hosts: Vec<&str> = store
                    .all(ResourceType::VirtualHost)
                    .map(Resource::name)
                    .filter(|host| host.rsplit_once('/').is_some_and(|(of, _)| of == name))
                    .collect();
                hosts.sort_unstable();
                for host in hosts {
                    apply_host(store, &mut table, host);
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
                apply_host(store, &mut table, host);
            }
            out.snapshot
                .routes
                .insert(Arc::clone(&table.name), Arc::new(table));
        }
    }
}

fn apply_host(store: &dyn Resources, table: &mut RouteTable, name: &str) {
    match resource(store, ResourceType::VirtualHost, name) {
        Some(Resource::VirtualHost { host, .. }) => table.put(host.clone()),
        _ => table.remove(name),
    }
}
