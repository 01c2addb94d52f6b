//! The next version of a route configuration, of which most virtual hosts are as they were.
//!
//! A configuration is one resource however many virtual hosts it has, and every change of one of
//! them brings all. Those whose bytes did not change are not decoded again: they stay the same `Arc`,
//! by which whoever compiles them sees at a glance that there is nothing to do.

use std::collections::HashMap;
use std::sync::Arc;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{Action, Destination, Route, RouteConfiguration, VirtualHost, domains};
use crate::proto::{self, Message as _};
use crate::resource::context::Context;

/// The field `virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;

/// What notes of ignored fields are of, when they are not of a virtual host.
const OWN: &str = "RouteConfiguration.";

impl RouteConfiguration {
    /// Decodes `bytes`, with the virtual hosts of an earlier version where they are the same.
    ///
    /// `None` when that cannot be done, for example because of a fault: what is wrong, and where,
    /// is for the ordinary way to say.
    pub(in crate::resource) fn decode_again(
        bytes: &[u8],
        earlier: (&[u8], &Self, &[&'static str]),
        ctx: &Context<'_>,
    ) -> Option<Self> {
        let (earlier_bytes, earlier, ignored) = earlier;
        // Whose they were is not known.
        let of_hosts = ignored.iter().any(|field| !field.starts_with(OWN));
        if of_hosts || !earlier.filter_secrets.is_empty() {
            return None;
        }
        let (then, now) = (Parts::of(earlier_bytes)?, Parts::of(bytes)?);
        if then.hosts.len() != earlier.virtual_hosts.len() {
            return None;
        }
        let hosts = then.hosts.iter().zip(&earlier.virtual_hosts);
        let (front, back) = same_ends(&then.hosts, &now.hosts);
        let middle = front..then.hosts.len() - back;
        let known: HashMap<&[u8], &Arc<VirtualHost>> = hosts
            .take(middle.end)
            .skip(middle.start)
            .map(|(bytes, host)| (*bytes, host))
            .collect();
        let mut all = Vec::with_capacity(now.hosts.len());
        all.extend_from_slice(&earlier.virtual_hosts[..middle.start]);
        for bytes in &now.hosts[front..now.hosts.len() - back] {
            all.push(match known.get(bytes) {
                Some(same) => Arc::clone(same),
                None => {
                    let message = proto::route::VirtualHost::decode(*bytes).ok()?;
                    Arc::new(VirtualHost::decode(message, ctx).ok()?)
                }
            });
        }
        all.extend_from_slice(&earlier.virtual_hosts[middle.end..]);
        // As unique as they were.
        let same_domains = all.len() == earlier.virtual_hosts.len()
            && middle
                .clone()
                .all(|at| all[at].domains == earlier.virtual_hosts[at].domains);
        if !same_domains {
            domains::check_unique(&all).ok()?;
        }
        let around = proto::RouteConfiguration::decode(now.around.as_slice()).ok()?;
        Self::decode_around(around, ctx, |_| Ok(all)).ok()
    }

    /// The same, but for its virtual hosts.
    #[must_use]
    pub fn without_hosts(&self) -> Self {
        let Self {
            name,
            virtual_hosts: _,
            vhds,
            vhost_key,
            ignore_port_in_host_matching,
            edits,
            most_specific_edits_win,
            ignore_path_parameters,
            mirrors,
            filter_config,
            filter_secrets,
        } = self;
        Self {
            name: name.clone(),
            virtual_hosts: Vec::new(),
            vhds: vhds.clone(),
            vhost_key: vhost_key.clone(),
            ignore_port_in_host_matching: *ignore_port_in_host_matching,
            edits: edits.clone(),
            most_specific_edits_win: *most_specific_edits_win,
            ignore_path_parameters: *ignore_path_parameters,
            mirrors: mirrors.clone(),
            filter_config: filter_config.clone(),
            filter_secrets: filter_secrets.clone(),
        }
    }

    /// Whether two are the same but for their virtual hosts.
    pub fn is_same_around(&self, other: &Self) -> bool {
        let Self {
            name,
            virtual_hosts: _,
            vhds,
            vhost_key,
            ignore_port_in_host_matching,
            edits,
            most_specific_edits_win,
            ignore_path_parameters,
            mirrors,
            filter_config,
            filter_secrets,
        } = self;
        *name == other.name
            && *vhds == other.vhds
            && *vhost_key == other.vhost_key
            && *ignore_port_in_host_matching == other.ignore_port_in_host_matching
            && *edits == other.edits
            && *most_specific_edits_win == other.most_specific_edits_win
            && *ignore_path_parameters == other.ignore_path_parameters
            && *mirrors == other.mirrors
            && *filter_config == other.filter_config
            && *filter_secrets == other.filter_secrets
    }

    /// The virtual hosts of an earlier version that are not here as they were, and those of this one
    /// that were not there.
    pub fn hosts_since<'a>(
        &'a self,
        earlier: &'a Self,
    ) -> (Vec<&'a Arc<VirtualHost>>, Vec<&'a Arc<VirtualHost>>) {
        let (then, now) = (&earlier.virtual_hosts, &self.virtual_hosts);
        let address = |host: &Arc<VirtualHost>| Arc::as_ptr(host) as usize;
        let addresses = |hosts: &[Arc<VirtualHost>]| hosts.iter().map(address).collect::<Vec<_>>();
        let (front, back) = same_ends(&addresses(then), &addresses(now));
        let (then, now) = (
            &then[front..then.len() - back],
            &now[front..now.len() - back],
        );
        let sorted = |hosts: &[Arc<VirtualHost>]| {
            let mut sorted = addresses(hosts);
            sorted.sort_unstable();
            sorted
        };
        let without = |hosts: &'a [Arc<VirtualHost>], others: Vec<usize>| {
            let is_new = |host: &&Arc<VirtualHost>| others.binary_search(&address(host)).is_err();
            hosts.iter().filter(is_new).collect()
        };
        (without(then, sorted(now)), without(now, sorted(then)))
    }
}

impl VirtualHost {
    /// Whether it says anything to filters, at any level.
    pub fn speaks_to_filters(&self) -> bool {
        let of_clusters = |route: &Route| match &route.action {
            Action::Forward(forward) => match &forward.destination {
                Destination::Weighted(weighted) => {
                    let mut clusters = weighted.clusters.iter();
                    clusters.any(|cluster| !cluster.filter_config.is_empty())
                }
                Destination::Cluster(_) => false,
            },
            Action::Redirect(_) | Action::Direct(_) => false,
        };
        let of_route = |route: &Route| !route.filter_config.is_empty() || of_clusters(route);
        !self.filter_config.is_empty() || self.routes.iter().any(of_route)
    }
}

/// Manual, as virtual hosts that are one and the same need not be looked at.
impl PartialEq for RouteConfiguration {
    fn eq(&self, other: &Self) -> bool {
        let hosts = || self.virtual_hosts.iter().zip(&other.virtual_hosts);
        self.virtual_hosts.len() == other.virtual_hosts.len()
            && self.is_same_around(other)
            && hosts().all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

/// How many are the same at the beginning, and of the rest at the end.
fn same_ends<T: PartialEq>(a: &[T], b: &[T]) -> (usize, usize) {
    let front = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let rest = (a[front..].iter().rev()).zip(b[front..].iter().rev());
    (front, rest.take_while(|(a, b)| a == b).count())
}

/// The bytes of a route configuration, taken apart.
struct Parts<'b> {
    hosts: Vec<&'b [u8]>,
    /// All other fields.
    around: Vec<u8>,
}

impl<'b> Parts<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let (mut hosts, mut around) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let field = rest;
            let (number, wire_type) = decode_key(&mut rest).ok()?;
            if number == VIRTUAL_HOSTS && wire_type == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                hosts.push(rest.get(..length)?);
                rest = rest.get(length..)?;
            } else {
                skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
                around.extend_from_slice(&field[..field.len() - rest.len()]);
            }
        }
        Some(Self { hosts, around })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::testing::{Known, forward, host, routes, to};
    use crate::resource::{Raw, Resource, decode_again, decode_noting};
    use crate::type_url::{ResourceType, pack};

    fn named(name: &str, domain: &str) -> proto::route::VirtualHost {
        proto::route::VirtualHost {
            name: name.into(),
            domains: vec![domain.into()],
            ..host(to(forward()))
        }
    }

    fn of(hosts: &[(&str, &str)]) -> proto::RouteConfiguration {
        proto::RouteConfiguration {
            virtual_hosts: hosts.iter().map(|(n, d)| named(n, d)).collect(),
            ..routes(host(to(forward())))
        }
    }

    fn typed(resource: &Resource) -> &Arc<RouteConfiguration> {
        match resource {
            Resource::RouteConfiguration(routes) => routes,
            other => panic!("{other:?}"),
        }
    }

    /// What becomes of `then` when `now` follows, which must be what `now` is by itself, and how many
    /// virtual hosts are still the same.
    fn follow(then: &proto::RouteConfiguration, now: &proto::RouteConfiguration) -> usize {
        let (then, now) = (pack(then), pack(now));
        let earlier = decode_noting(&then, None, &Known).unwrap();
        let alone = decode_noting(&now, None, &Known);
        let then = Raw::new(ResourceType::RouteConfiguration, then);
        let again = decode_again(&now, (&then, &earlier.resource, &earlier.ignored), &Known);
        assert_eq!(again, alone);
        let Ok(again) = again else { return 0 };
        let (earlier, again) = (typed(&earlier.resource), typed(&again.resource));
        let (gone, new) = again.hosts_since(earlier);
        assert_eq!(
            again.virtual_hosts.len() - new.len(),
            earlier.virtual_hosts.len() - gone.len()
        );
        again.virtual_hosts.len() - new.len()
    }

    #[test]
    fn virtual_hosts_with_the_same_bytes_stay_the_same() {
        let three = of(&[("a", "a"), ("b", "b"), ("c", "c")]);
        assert_eq!(follow(&three, &three), 3);
        assert_eq!(
            follow(&three, &of(&[("a", "a"), ("b", "x"), ("c", "c")])),
            2
        );
        assert_eq!(
            follow(&three, &of(&[("c", "c"), ("a", "a"), ("d", "d")])),
            2
        );
        assert_eq!(
            follow(
                &three,
                &of(&[("x", "x"), ("a", "a"), ("b", "b"), ("c", "c")])
            ),
            3
        );
        assert_eq!(follow(&three, &of(&[])), 0);
        assert_eq!(follow(&of(&[]), &three), 0);
        let renamed = proto::RouteConfiguration {
            ignore_port_in_host_matching: true,
            ..three.clone()
        };
        assert_eq!(
            follow(&three, &renamed),
            3,
            "what is around them is another matter"
        );
    }

    #[test]
    fn faults_are_those_of_the_whole() {
        let two = of(&[("a", "a"), ("b", "b")]);
        assert_eq!(follow(&two, &of(&[("a", "a"), ("b", "a")])), 0);
        assert_eq!(follow(&two, &of(&[("a", "a"), ("b", "b*b")])), 0);
        assert_eq!(follow(&two, &of(&[("a", "a"), ("b", "b"), ("c", "b")])), 0);
    }

    #[test]
    fn notes_of_ignored_fields_are_never_stale() {
        let mut noted = of(&[("a", "a"), ("b", "b")]);
        noted.virtual_hosts[1].metadata = Some(proto::core::Metadata {
            filter_metadata: [("x".to_owned(), proto::Struct::default())].into(),
            ..Default::default()
        });
        follow(&noted, &of(&[("a", "a"), ("b", "b")]));
        follow(&of(&[("a", "a"), ("b", "b")]), &noted);
        let around = proto::RouteConfiguration {
            validate_clusters: Some(proto::BoolValue { value: false }),
            ..of(&[("a", "a"), ("b", "b")])
        };
        assert_eq!(follow(&around, &around), 2);
        assert_eq!(follow(&around, &of(&[("a", "a"), ("b", "b")])), 2);
    }
}
