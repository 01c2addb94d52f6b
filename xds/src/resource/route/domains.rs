//! Domains of virtual hosts.

use std::collections::HashMap;
use std::sync::Arc;

use super::VirtualHost;
use crate::reject::Invalid;
use crate::resource::context::{At, fault};
use crate::resource::headers::header_value;

/// A domain in lower case.
pub(super) fn decode(domain: String) -> Result<String, Invalid> {
    header_value(&domain)?;
    let rest = match domain.strip_prefix('*') {
        Some(suffix) => suffix,
        None => domain.strip_suffix('*').unwrap_or(&domain),
    };
    if rest.contains('*') {
        return Err(fault(format!(
            "{domain:?} has a wildcard that is not at its start or end"
        )));
    }
    Ok(domain.to_ascii_lowercase())
}

/// A request goes to one virtual host, so no two may ask for the same domain.
pub(super) fn check_unique(hosts: &[Arc<VirtualHost>]) -> Result<(), Invalid> {
    let mut owners = HashMap::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        claim(host, &mut owners).at_index("virtual_hosts", index)?;
    }
    Ok(())
}

/// As [`check_unique`], for one that arrives by itself.
pub(super) fn check_unique_within(host: &VirtualHost) -> Result<(), Invalid> {
    claim(host, &mut HashMap::new())
}

fn claim<'a>(host: &'a VirtualHost, owners: &mut HashMap<&'a str, &'a str>) -> Result<(), Invalid> {
    for (index, domain) in host.domains.iter().enumerate() {
        if let Some(owner) = owners.insert(domain, &host.name) {
            let reason = format!("{domain:?} is a domain of virtual host {owner:?} already");
            return Err(fault(reason)).at_index("domains", index);
        }
    }
    Ok(())
}
