//! What requests are counted by, compiled: from the facts of a request to descriptors.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_xds::resource::address::contain;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::rate_limit::{
    self as model, Action, MetadataKey, MetadataOf, Override, Unit,
};
use ipnet::IpNet;

use super::RequestView;
use super::matcher::{CompiledQuery, HeaderCondition, query_value};
use crate::runtime::layers::{Key, Layers};

/// The rate limits of a route and of what is around it.
#[derive(Debug)]
pub struct RateLimits {
    route: Vec<Limit>,
    host: Arc<[Limit]>,
    /// Those of the virtual host always count (`include_vh_rate_limits`).
    include_host: bool,
}

/// When the rate limits of the virtual host count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostLimits {
    /// Where the route has none.
    #[default]
    Override,
    Include,
    Ignore,
}

/// One entry of `rate_limits`.
#[derive(Debug)]
pub struct Limit {
    stage: u32,
    /// The share of requests that it counts for, as the runtime says.
    enabled: Option<Key>,
    actions: Vec<Compiled>,
    limit: Option<Override>,
    hits: Option<u64>,
    /// See [`model::RateLimit::headers`].
    pub headers: Option<bool>,
}

#[derive(Debug)]
enum Compiled {
    HeaderMatch {
        key: String,
        value: String,
        expect: bool,
        headers: Vec<HeaderCondition>,
    },
    QueryMatch {
        key: String,
        value: String,
        expect: bool,
        parameters: Vec<CompiledQuery>,
    },
    Other(Action),
}

/// What one request is counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Key and value, in order; never empty.
    pub entries: Vec<(String, String)>,
    /// Instead of the limit that the service has: so many requests in a unit of time.
    pub limit: Option<(u32, Unit)>,
    /// How much the request counts, if not 1.
    pub hits: Option<u64>,
}

/// What is known of the request that is counted.
pub struct Counted<'r, R> {
    pub request: &'r R,
    pub client: IpAddr,
    /// `node.cluster` of this program.
    pub own_cluster: &'r str,
    /// The cluster that the route chooses.
    pub cluster: &'r str,
    pub dynamic_metadata: &'r dyn Fn(&str) -> Option<MetadataValue>,
    pub route_metadata: &'r [(String, MetadataValue)],
}

impl RateLimits {
    /// Nothing when neither has any.
    pub fn compile(
        route: &[model::RateLimit],
        include_host: bool,
        host: &Arc<[Limit]>,
        layers: &Layers,
    ) -> Option<Box<Self>> {
        (!route.is_empty() || !host.is_empty()).then(|| {
            Box::new(Self {
                route: Limit::compile_all(route, layers),
                host: host.clone(),
                include_host,
            })
        })
    }

    /// Those that count for filters of a stage.
    pub fn of(&self, stage: u32, host: HostLimits) -> impl Iterator<Item = &Limit> {
        let with_host = match host {
            _ if self.include_host => true,
            HostLimits::Include => true,
            HostLimits::Override => self.at(stage).next().is_none(),
            HostLimits::Ignore => false,
        };
        let host = self.host.iter().filter(move |limit| limit.stage == stage);
        self.at(stage).chain(host.filter(move |_| with_host))
    }

    fn at(&self, stage: u32) -> impl Iterator<Item = &Limit> {
        self.route.iter().filter(move |limit| limit.stage == stage)
    }
}

impl Limit {
    pub fn compile(model: &model::RateLimit, layers: &Layers) -> Self {
        let key = &model.disable_key;
        Self {
            stage: model.stage,
            enabled: (!key.is_empty())
                .then(|| layers.key(&format!("ratelimit.{key}.http_filter_enabled"))),
            actions: model.actions.iter().map(Compiled::compile).collect(),
            limit: model.limit.clone(),
            hits: model.hits,
            headers: model.headers,
        }
    }

    pub fn compile_all(models: &[model::RateLimit], layers: &Layers) -> Vec<Self> {
        let compile = |model| Self::compile(model, layers);
        models.iter().map(compile).collect()
    }

    /// Nothing when one of the actions has no entry to add.
    pub fn descriptor<R: RequestView>(&self, of: &Counted<'_, R>) -> Option<Descriptor> {
        let share = self.enabled.as_ref().and_then(Key::fraction);
        if share.is_some_and(|share| !share.takes(of.request.random())) {
            return None;
        }
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(of) {
                Entry::Add(key, value) => entries.push((key.to_owned(), value)),
                Entry::Skip => {}
                Entry::None => return None,
            }
        }
        (!entries.is_empty()).then(|| Descriptor {
            entries,
            limit: self.limit.as_ref().and_then(|limit| told(limit, of)),
            hits: self.hits,
        })
    }
}

fn told<R>(limit: &Override, of: &Counted<'_, R>) -> Option<(u32, Unit)> {
    match limit {
        Override::Limit { requests, unit } => Some((*requests, *unit)),
        Override::DynamicMetadata(at) => {
            let value = (of.dynamic_metadata)(&at.namespace)?;
            let field = |name: &str| {
                let path: Vec<String> = at.path.iter().cloned().chain([name.into()]).collect();
                value.get(&path)
            };
            let (Some(MetadataValue::Number(requests)), Some(MetadataValue::Text(unit))) =
                (field("requests_per_unit"), field("unit"))
            else {
                return None;
            };
            let whole = (0.0..=f64::from(u32::MAX)).contains(requests);
            Some((whole.then_some(*requests as u32)?, Unit::named(unit)?))
        }
    }
}

/// What one action has to say.
enum Entry<'a> {
    Add(&'a str, String),
    Skip,
    None,
}

impl<'a> Entry<'a> {
    fn of(key: &'a str, value: Option<String>, skip_if_absent: bool) -> Self {
        match value {
            Some(value) => Self::Add(key, value),
            None if skip_if_absent => Self::Skip,
            None => Self::None,
        }
    }

    fn if_true(matches: bool, key: &'a str, value: &str) -> Self {
        match matches {
            true => Self::Add(key, value.to_owned()),
            false => Self::None,
        }
    }
}

impl Compiled {
    fn compile(model: &Action) -> Self {
        match model.clone() {
            Action::HeaderMatch {
                key,
                value,
                expect,
                headers,
            } => Self::HeaderMatch {
                key,
                value,
                expect,
                headers: headers.iter().map(HeaderCondition::compile).collect(),
            },
            Action::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => Self::QueryMatch {
                key,
                value,
                expect,
                parameters: parameters.iter().map(CompiledQuery::compile).collect(),
            },
            other => Self::Other(other),
        }
    }

    fn entry<R: RequestView>(&self, of: &Counted<'_, R>) -> Entry<'_> {
        match self {
            Self::HeaderMatch {
                key,
                value,
                expect,
                headers,
            } => {
                let matches = headers.iter().all(|h| h.matches(of.request));
                Entry::if_true(matches == *expect, key, value)
            }
            Self::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => {
                let query = of.request.query();
                let matches = parameters.iter().all(|p| p.matches(query));
                Entry::if_true(matches == *expect, key, value)
            }
            Self::Other(action) => simple(action, of),
        }
    }
}

fn simple<'a, R: RequestView>(action: &'a Action, of: &Counted<'_, R>) -> Entry<'a> {
    match action {
        Action::SourceCluster => Entry::Add("source_cluster", of.own_cluster.to_owned()),
        Action::DestinationCluster => Entry::Add("destination_cluster", of.cluster.to_owned()),
        Action::RemoteAddress => Entry::Add("remote_address", of.client.to_string()),
        Action::MaskedRemoteAddress { v4, v6 } => {
            let length = match of.client {
                IpAddr::V4(_) => *v4,
                IpAddr::V6(_) => *v6,
            };
            let network = IpNet::new(of.client, length).map(|net| net.trunc().to_string());
            Entry::of("masked_remote_address", network.ok(), false)
        }
        Action::GenericKey { key, value } => Entry::Add(key, value.clone()),
        Action::RequestHeader {
            header,
            key,
            skip_if_absent,
        } => {
            let value = of.request.header(header);
            let text = value.map(|v| String::from_utf8_lossy(v).into_owned());
            Entry::of(key, text, *skip_if_absent)
        }
        Action::QueryParameter {
            parameter,
            key,
            skip_if_absent,
        } => {
            let value = query_value(of.request.query(), parameter);
            Entry::of(key, value.map(percent_decoded), *skip_if_absent)
        }
        Action::AddressMatch {
            key,
            value,
            invert,
            ranges,
        } => Entry::if_true(contain(ranges, of.client) != *invert, key, value),
        Action::Metadata {
            key,
            at,
            from,
            default,
            skip_if_absent,
        } => {
            let found = match from {
                MetadataOf::Request => {
                    (of.dynamic_metadata)(&at.namespace).and_then(|value| text_at(&value, at))
                }
                MetadataOf::Route => of
                    .route_metadata
                    .iter()
                    .find(|(namespace, _)| *namespace == at.namespace)
                    .and_then(|(_, value)| text_at(value, at)),
            };
            let default = Some(default.clone()).filter(|text| !text.is_empty());
            Entry::of(key, found.or(default), *skip_if_absent)
        }
        // Compiled to forms of their own.
        Action::HeaderMatch { .. } | Action::QueryMatch { .. } => Entry::None,
    }
}

/// A text that is not empty.
fn text_at(value: &MetadataValue, at: &MetadataKey) -> Option<String> {
    match value.get(&at.path)? {
        MetadataValue::Text(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// As URLs write bytes; what is no such writing stays.
fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, more @ ..] = rest {
        let digits = more
            .get(..2)
            .filter(|d| *first == b'%' && d.iter().all(u8::is_ascii_hexdigit));
        let byte = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
