//! Compiling one route, with what it inherits from its virtual host and the configuration.

use std::sync::Arc;

use causeway_xds::resource::route as model;

use super::action::{self, Action, Around, Forward};
use super::destination::{ClusterName, Destination, Weighted};
use super::edits::HeaderEdits;
use super::matcher::RouteMatcher;
use super::per_filter::{Filters, PerRoute, Word};
use super::rate_limits::{Limit, RateLimits};
use super::redirect::Redirect;
use super::retry::Retry;
use super::{BUFFER_LIMIT, Route, Told};
use crate::formatter::BodyFormat;

/// What the routes of a virtual host share while they are compiled.
pub(super) struct Level<'a> {
    pub(super) host: &'a model::VirtualHost,
    pub(super) config: &'a model::RouteConfiguration,
    pub(super) registry: &'a dyn Filters,
    pub(super) retry: Option<Arc<Retry>>,
    pub(super) rate_limits: Arc<[Limit]>,
}

impl Level<'_> {
    pub(super) fn route(&self, route: &model::Route) -> Route {
        let Self { host, config, .. } = *self;
        let action = self.action(route);
        let mut edits = HeaderEdits::compile(
            [&route.edits, &host.edits, &config.edits].into_iter(),
            config.most_specific_edits_win,
        );
        if let Action::Direct {
            format: Some(format),
            ..
        } = &action
        {
            format.text.note(&mut edits.wants);
        }
        Route {
            name: route.name.clone(),
            metadata: route.metadata.clone(),
            matcher: RouteMatcher::compile(&route.matcher, self.layers()),
            action,
            edits,
            filters: self.filters(route, None),
            told: Told {
                attempt: host.include_request_attempt_count,
                attempts: host.include_attempt_count_in_response,
                timeout_retry: host.include_is_timeout_retry_header,
            },
            rate_limits: match &route.action {
                model::Action::Forward(forward) => RateLimits::compile(
                    &forward.rate_limits,
                    forward.include_host_rate_limits,
                    &self.rate_limits,
                    self.layers(),
                ),
                // Requests that go nowhere are not counted.
                _ => None,
            },
        }
    }

    fn layers(&self) -> &crate::runtime::layers::Layers {
        self.registry.layers()
    }

    /// What all levels say to filters, a weighted cluster included.
    fn filters(&self, route: &model::Route, cluster: Option<&model::WeightedCluster>) -> PerRoute {
        let Self { host, config, .. } = *self;
        let name = (Some(host.name.as_str()), Some(route));
        let of_cluster = cluster.map_or(&[][..], |cluster| &cluster.filter_config);
        let levels = [
            (&config.filter_config[..], (None, None)),
            (&host.filter_config[..], (name.0, None)),
            (&route.filter_config[..], name),
            (of_cluster, name),
        ];
        let last = levels.len() - 1;
        let words = levels.into_iter().enumerate();
        let mut words = words.flat_map(|(level, (said, (host, route)))| {
            said.iter().map(move |said| Word {
                said,
                config: &config.name,
                host,
                route,
                cluster: cluster.filter(|_| level == last).map(|c| &c.cluster),
            })
        });
        self.registry.per_route(&mut words)
    }

    fn action(&self, route: &model::Route) -> Action {
        match &route.action {
            model::Action::Forward(forward) => {
                let destination = self.destination(route, &forward.destination);
                let limit = route.buffer_limit.or(self.host.buffer_limit);
                let around = Around {
                    retry: self.retry.as_ref(),
                    mirrors: match self.host.mirrors.is_empty() {
                        true => &self.config.mirrors,
                        false => &self.host.mirrors,
                    },
                    buffer_limit: limit.unwrap_or(BUFFER_LIMIT),
                    layers: self.layers(),
                };
                let forward = Forward::compile(forward, &route.matcher, destination, &around);
                Action::Forward(Box::new(forward))
            }
            model::Action::Redirect(redirect) => {
                Action::Redirect(Box::new(Redirect::compile(redirect, &route.matcher)))
            }
            model::Action::Direct(direct) => Action::Direct {
                status: action::status(direct.status),
                body: direct.body.clone(),
                format: direct
                    .format
                    .as_ref()
                    .map(|format| Box::new(BodyFormat::compile(format))),
            },
        }
    }

    fn destination(&self, route: &model::Route, model: &model::Destination) -> Destination {
        let Self { host, config, .. } = *self;
        match model {
            model::Destination::Cluster(name) => Destination::Cluster(ClusterName::compile(name)),
            model::Destination::Weighted(weighted) => {
                Destination::Weighted(Weighted::compile(weighted, self.layers(), |cluster| {
                    let edits = HeaderEdits::compile(
                        [&cluster.edits, &route.edits, &host.edits, &config.edits].into_iter(),
                        config.most_specific_edits_win,
                    );
                    (edits, self.filters(route, Some(cluster)))
                }))
            }
        }
    }
}
