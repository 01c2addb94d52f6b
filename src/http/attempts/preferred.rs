//! Endpoints that were chosen before the balancer: by a filter, or by what the request says itself.

use std::collections::VecDeque;
use std::net::SocketAddr;

use causeway_xds::resource::cluster::{HostSource, OverrideHost};
use causeway_xds::resource::metadata::MetadataValue;
use http::HeaderMap;

use crate::cluster::{Cluster, PickError, Picked};
use crate::filter::StreamState;

/// What is left of them for the attempts to come.
#[derive(Default)]
pub struct Preferred {
    /// Of the request; nothing until it is asked for.
    named: Option<VecDeque<SocketAddr>>,
    /// For an attempt that is made again as it was.
    last: Option<SocketAddr>,
}

impl Preferred {
    /// The endpoint for the next attempt, if it is not up to the balancer. `again`: it is the same
    /// attempt, on another connection.
    ///
    /// # Errors
    /// [`PickError`]: a filter wants an endpoint and no other, and it may not be chosen.
    pub fn next<'c>(
        &mut self,
        cluster: &'c Cluster,
        (headers, state): (Option<&HeaderMap>, &StreamState),
        (first, again): (bool, bool),
    ) -> Result<Option<Picked<'c>>, PickError> {
        let allowed = &cluster.model.balancing.named_status;
        if allowed.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        if let Some(wanted) = state.wanted_endpoint()
            && first
        {
            match cluster.at(wanted.address) {
                Some(endpoint) => return Ok(Some(Picked::Of(endpoint))),
                None if wanted.strict => return Err(PickError::NoneEligible(0)),
                None => {}
            }
        }
        let Some(rules) = cluster.override_host() else {
            return Ok(None);
        };
        let named = self
            .named
            .get_or_insert_with(|| named(&rules.sources, headers, state));
        if let Some(last) = self.last.filter(|_| again) {
            named.push_front(last);
        }
        self.last = None;
        // One that is not there, or not well, is passed over.
        while let Some(address) = named.pop_front() {
            if let Some(endpoint) = cluster.at(address) {
                self.last = Some(address);
                return Ok(Some(Picked::Of(endpoint)));
            }
        }
        Ok(None)
    }
}

/// All that the sources say, one after the other. What is no address names nobody.
fn named(
    sources: &[HostSource],
    headers: Option<&HeaderMap>,
    state: &StreamState,
) -> VecDeque<SocketAddr> {
    let mut all = VecDeque::new();
    let mut add = |text: &str| {
        all.extend(
            text.split(',')
                .filter_map(|one| one.trim().parse::<SocketAddr>().ok()),
        )
    };
    for source in sources {
        match source {
            HostSource::Header(name) => {
                if let Some(text) = headers.and_then(|headers| headers.get(name)?.to_str().ok()) {
                    add(text);
                }
            }
            HostSource::Metadata(key) => {
                let value = state.metadata(&key.namespace);
                if let Some(MetadataValue::Text(text)) =
                    value.as_ref().and_then(|v| v.get(&key.path))
                {
                    add(text);
                }
            }
        }
    }
    all
}

/// Tells filters of the answer which endpoint it was.
pub fn tell(rules: &OverrideHost, address: Option<SocketAddr>, state: &StreamState) {
    if let (Some(told), Some(address)) = (&rules.told, address)
        && let [key] = told.path.as_slice()
    {
        let value = MetadataValue::Text(address.to_string());
        state.set_metadata(&told.namespace, key, value);
    }
}
