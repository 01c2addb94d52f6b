//! What routes say to filters (`typed_per_filter_config`), level by level.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use causeway_xds::extension::TypedExtension;
use causeway_xds::resource::route::{ClusterName, Route, VirtualHost};

use crate::formatter::Wants;
use crate::runtime::layers::Layers;

/// Who knows what the messages for filters mean.
pub trait Filters: fmt::Debug + Send + Sync {
    /// What one route says to filters, from the most general level to the most specific.
    fn per_route(&self, words: &mut dyn Iterator<Item = Word<'_>>) -> PerRoute;

    /// What overrides configuration.
    fn layers(&self) -> &Layers;

    /// Whether a virtual host can be compiled at any time, in no time.
    fn is_light(&self, host: &VirtualHost) -> bool;
}

/// What one level says to one filter, and whose word it is: by that, what a filter has counted is
/// found again when the table is replaced.
#[derive(Clone, Copy)]
pub struct Word<'w> {
    pub said: &'w (String, TypedExtension),
    /// The route configuration.
    pub config: &'w str,
    /// `None`: it is the configuration's.
    pub host: Option<&'w str>,
    /// `None`: it is the virtual host's.
    pub route: Option<&'w Route>,
    /// One of the weighted clusters of the route.
    pub cluster: Option<&'w ClusterName>,
}

/// A word without a table.
#[cfg(test)]
impl<'w> From<&'w (String, TypedExtension)> for Word<'w> {
    fn from(said: &'w (String, TypedExtension)) -> Self {
        Self {
            said,
            config: "",
            host: None,
            route: None,
            cluster: None,
        }
    }
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            said: (filter, _),
            config,
            host,
            route,
            cluster,
        } = self;
        write!(f, "{filter}/{config}/{host:?}/{cluster:?}/")?;
        match route {
            None => Ok(()),
            // Routes need no name, and what comes before them may change.
            Some(route) => write!(f, "{}/{:?}", route.name, route.matcher),
        }
    }
}

/// The name of a filter in its chain, for which routes speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct FilterName {
    /// Comes first, so that names that differ are told apart by one comparison.
    hash: u64,
    name: Arc<str>,
}

impl FilterName {
    pub fn new(name: &str) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self {
            hash: HASHER.hash_one(name),
            name: shared(name),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }
}

/// One text for all who have the same name: every route of many names the same few filters, and to
/// compare what is one text nothing of it has to be read.
fn shared(name: &str) -> Arc<str> {
    /// Names that nobody has any more are dropped when there are this many.
    const MANY: usize = 64;
    static NAMES: LazyLock<Mutex<HashMap<Box<str>, Weak<str>>>> = LazyLock::new(Mutex::default);
    let mut all = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(name).and_then(Weak::upgrade) {
        return known;
    }
    if all.len() == all.capacity() && all.len() >= MANY {
        // Where few are dropped it grows, and the next time is twice as far away.
        all.retain(|_, name| name.strong_count() > 0);
    }
    let new: Arc<str> = Arc::from(name);
    all.insert(name.into(), Arc::downgrade(&new));
    new
}

impl fmt::Debug for FilterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// What one level says to one filter, compiled.
#[derive(Clone)]
pub struct RouteConfig {
    value: Arc<dyn Any + Send + Sync>,
    /// What its templates ask of a request.
    wants: Wants,
}

impl fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RouteConfig")
    }
}

impl RouteConfig {
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self {
            value: Arc::new(value),
            wants: Wants::default(),
        }
    }

    pub fn get<T: Any>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }

    #[must_use]
    pub fn wanting(mut self, wants: Wants) -> Self {
        self.wants = wants;
        self
    }
}

/// What all levels say to one filter.
#[derive(Clone)]
pub struct Said {
    name: FilterName,
    /// The most specific word on it.
    disabled: bool,
    /// From the most general one.
    levels: Vec<RouteConfig>,
}

impl Said {
    /// Of the most specific level that has any.
    pub fn config<T: Any>(&self) -> Option<&T> {
        self.configs().next_back()
    }

    /// From the most general level to the most specific.
    pub fn configs<T: Any>(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.levels.iter().filter_map(RouteConfig::get)
    }
}

/// What one route says to filters.
#[derive(Clone, Default)]
pub struct PerRoute {
    said: Vec<Said>,
    /// Something in it cannot be used. What it would have refused is not known, so nothing passes.
    broken: bool,
    /// What all of it asks of a request.
    pub wants: Wants,
}

impl PerRoute {
    /// Of a request that has no route.
    pub const NONE: &'static Self = &Self {
        said: Vec::new(),
        broken: false,
        wants: Wants::NONE,
    };

    pub fn broken() -> Self {
        Self {
            broken: true,
            ..Self::default()
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// One more level, more specific than those before. Without a configuration it only switches
    /// the filter on or off.
    pub fn say(&mut self, name: &str, disabled: bool, config: Option<RouteConfig>) {
        if let Some(config) = &config {
            self.wants.merge(&config.wants);
        }
        let name = FilterName::new(name);
        match self.said.iter_mut().find(|said| said.name == name) {
            Some(said) => {
                said.disabled = disabled;
                said.levels.extend(config);
            }
            None => {
                // One by one: every route has such a list, and few have many.
                self.said.reserve_exact(1);
                self.said.push(Said {
                    name,
                    disabled,
                    levels: config.into_iter().collect(),
                });
            }
        }
    }

    /// What is said to this filter.
    pub fn of(&self, filter: &FilterName) -> Option<&Said> {
        // A few entries: a search is cheaper than a map.
        self.said.iter().find(|said| said.name == *filter)
    }
}

impl Said {
    /// Whether the filter stays out.
    pub fn disables(&self) -> bool {
        self.disabled
    }
}

impl fmt::Debug for PerRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.said.iter().map(|s| &s.name))
            .finish()
    }
}

/// Says nothing to any filter.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Deaf;

#[cfg(test)]
impl Deaf {
    pub fn shared() -> Arc<dyn Filters> {
        Arc::new(Self)
    }
}

#[cfg(test)]
impl Filters for Deaf {
    fn per_route(&self, _: &mut dyn Iterator<Item = Word<'_>>) -> PerRoute {
        PerRoute::default()
    }

    fn layers(&self) -> &Layers {
        static NONE: LazyLock<Layers> = LazyLock::new(Layers::default);
        &NONE
    }

    fn is_light(&self, host: &VirtualHost) -> bool {
        host.is_light(&causeway_xds::extension::Unchecked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_level_decides_and_the_others_stay_visible() {
        let mut route = PerRoute::default();
        route.say("a", true, None);
        assert!(route.of(&FilterName::new("a")).unwrap().disables());
        route.say("a", false, Some(RouteConfig::new(1_u32)));
        route.say("a", false, Some(RouteConfig::new(2_u32)));
        route.say("b", true, Some(RouteConfig::new("x")));
        let a = route.of(&FilterName::new("a")).unwrap();
        assert!(!a.disables());
        assert_eq!(a.config::<u32>(), Some(&2));
        assert_eq!(a.configs::<u32>().collect::<Vec<_>>(), [&1, &2]);
        let b = route.of(&FilterName::new("b")).unwrap();
        assert!(b.disables() && b.config::<u32>().is_none());
        assert!(route.of(&FilterName::new("c")).is_none());
    }
}
