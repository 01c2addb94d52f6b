//! From a host name to a virtual host.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use causeway_xds::resource::HostSource;
use causeway_xds::resource::route as model;
use imbl::shared_ptr::DefaultSharedPtr;

use super::action::split_port;
use super::{Common, Filters, VirtualHost};

type Set<K> = imbl::GenericHashSet<K, ahash::RandomState, DefaultSharedPtr>;
type Map<V> = imbl::GenericHashMap<Box<str>, V, ahash::RandomState, DefaultSharedPtr>;

/// The virtual hosts of one route configuration.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub key: model::VirtualHostKey,
    ignore_port: bool,
    /// What it was compiled from. Virtual hosts that arrive as resources of their own are not in it.
    model: Arc<model::RouteConfiguration>,
    common: Arc<Common>,
    by_name: Set<ByName>,
    exact: Map<Arc<VirtualHost>>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<Arc<VirtualHost>>,
}

/// A virtual host, found by its name.
#[derive(Clone, Debug)]
struct ByName(Arc<VirtualHost>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        self.0.name()
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

/// Wildcard domains of one direction, and how many there are of each length.
#[derive(Clone, Debug, Default)]
struct Wildcards {
    map: Map<Arc<VirtualHost>>,
    lengths: BTreeMap<usize, usize>,
}

enum Domain<'d> {
    Any,
    /// `*.example.org`, without the star.
    Suffix(&'d str),
    /// `www.*`, without the star.
    Prefix(&'d str),
    Exact(&'d str),
}

impl<'d> Domain<'d> {
    fn parse(text: &'d str) -> Self {
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(suffix), _) => Self::Suffix(suffix),
            (None, Some(prefix)) => Self::Prefix(prefix),
            (None, None) => Self::Exact(text),
        }
    }
}

impl Wildcards {
    fn insert(&mut self, text: &str, host: &Arc<VirtualHost>) {
        if self.map.insert(text.into(), Arc::clone(host)).is_none() {
            *self.lengths.entry(text.len()).or_default() += 1;
        }
    }

    fn remove(&mut self, text: &str, host: &str) {
        if self.map.get(text).is_some_and(|h| h.name() == host) {
            self.map.remove(text);
            if let Some(count) = self.lengths.get_mut(&text.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&text.len());
                }
            }
        }
    }

    /// Longest first. The star stands for at least one character.
    fn find<'h>(
        &self,
        host: &'h str,
        part: impl Fn(&'h str, usize) -> Option<&'h str>,
    ) -> Option<&Arc<VirtualHost>> {
        let shorter = self.lengths.range(..host.len()).rev();
        shorter
            .filter_map(|(length, _)| self.map.get(part(host, *length)?))
            .next()
    }
}

impl RouteTable {
    /// Compiles a route configuration. Virtual hosts that arrive as resources of their own are put
    /// in with [`RouteTable::put`].
    pub fn compile(config: &Arc<model::RouteConfiguration>, filters: &Arc<dyn Filters>) -> Self {
        let mut table = Self {
            common: Common::new(config, filters),
            name: Arc::from(config.name.as_str()),
            key: config.vhost_key.clone(),
            ignore_port: config.ignore_port_in_host_matching,
            model: Arc::clone(config),
            by_name: Set::default(),
            exact: Map::default(),
            suffixes: Wildcards::default(),
            prefixes: Wildcards::default(),
            any: None,
        };
        for host in &config.virtual_hosts {
            table.put(HostSource::Decoded(Arc::clone(host)));
        }
        table
    }

    /// Adds a virtual host, or replaces the one of that name.
    pub fn put(&mut self, host: HostSource) {
        self.insert(VirtualHost::compile(host, &self.common));
    }

    /// What [`RouteTable::compile`] makes of the next version of the same route configuration: a virtual
    /// host whose model is the very same is not compiled again, and nothing is done for it.
    #[must_use]
    pub fn recompile(
        &self,
        config: &Arc<model::RouteConfiguration>,
        filters: &Arc<dyn Filters>,
    ) -> Self {
        let before = &self.model;
        // What is said to filters may name files, which may have changed. With virtual hosts of the
        // same name, or others beside those of the model, names do not tell which are there.
        let is_plain = before.is_same_around(config)
            && config.filter_config.is_empty()
            && config.vhds.is_none()
            && self.len() == before.virtual_hosts.len();
        if !is_plain {
            return Self::compile(config, filters);
        }
        let (gone, new) = config.hosts_since(before);
        let mut table = Self {
            model: Arc::clone(config),
            ..self.clone()
        };
        for host in gone {
            table.remove(&host.name);
        }
        let outspoken = config
            .virtual_hosts
            .iter()
            .filter(|h| h.speaks_to_filters());
        for host in new.into_iter().chain(outspoken) {
            table.put(HostSource::Decoded(Arc::clone(host)));
        }
        match table.len() == config.virtual_hosts.len() {
            true => table,
            false => Self::compile(config, filters),
        }
    }

    fn insert(&mut self, host: Arc<VirtualHost>) {
        self.remove(host.name());
        for domain in host.domains() {
            match Domain::parse(domain) {
                Domain::Any => self.any = Some(Arc::clone(&host)),
                Domain::Suffix(text) => self.suffixes.insert(text, &host),
                Domain::Prefix(text) => self.prefixes.insert(text, &host),
                Domain::Exact(text) => {
                    self.exact.insert(text.into(), Arc::clone(&host));
                }
            }
        }
        self.by_name.insert(ByName(host));
    }

    pub fn remove(&mut self, name: &str) {
        let Some(ByName(host)) = self.by_name.remove(name) else {
            return;
        };
        for domain in host.domains() {
            // A domain may have gone over to another virtual host meanwhile.
            match Domain::parse(domain) {
                Domain::Any => {
                    self.any.take_if(|h| h.name() == name);
                }
                Domain::Suffix(text) => self.suffixes.remove(text, name),
                Domain::Prefix(text) => self.prefixes.remove(text, name),
                Domain::Exact(text) => {
                    if self.exact.get(text).is_some_and(|h| h.name() == name) {
                        self.exact.remove(text);
                    }
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// A host in the form in which domains are.
    pub(super) fn compared<'h>(&self, host: &'h str) -> Cow<'h, str> {
        lower(match self.ignore_port {
            true => split_port(host).0,
            false => host,
        })
    }

    /// Exact, then the longest suffix wildcard, then the longest prefix wildcard, then `*`.
    pub fn virtual_host(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        if self.by_name.len() == 1 && self.any.is_some() {
            // The table of a proxy with one site, which is common enough.
            return self.any.as_ref();
        }
        let host = self.compared(host);
        let host = host.as_ref();
        self.exact
            .get(host)
            .or_else(|| self.suffixes.find(host, |h, n| h.get(h.len() - n..)))
            .or_else(|| self.prefixes.find(host, |h, n| h.get(..n)))
            .or(self.any.as_ref())
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// What selects the virtual host of a request, by the table's [`model::VirtualHostKey`].
pub fn host_key<'r>(table: &RouteTable, host: &'r str, path: &'r str) -> &'r str {
    match table.key {
        model::VirtualHostKey::Host => host,
        model::VirtualHostKey::FirstPathSegment => {
            path.trim_start_matches('/').split('/').next().unwrap_or("")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::per_filter::Deaf;
    use super::*;

    fn host(name: &str, domains: &[&str]) -> Arc<VirtualHost> {
        let common = Common::new(&config(&[]), &Deaf::shared());
        VirtualHost::compile(HostSource::Decoded(host_model(name, domains)), &common)
    }

    fn host_model(name: &str, domains: &[&str]) -> Arc<model::VirtualHost> {
        Arc::new(model::VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            ..Default::default()
        })
    }

    fn config(hosts: &[&Arc<model::VirtualHost>]) -> Arc<model::RouteConfiguration> {
        Arc::new(model::RouteConfiguration {
            name: "r".into(),
            virtual_hosts: hosts.iter().map(|host| Arc::clone(host)).collect(),
            ..Default::default()
        })
    }

    fn table(hosts: &[(&str, &[&str])]) -> RouteTable {
        let mut table = RouteTable::compile(&config(&[]), &Deaf::shared());
        hosts
            .iter()
            .for_each(|(name, domains)| table.insert(host(name, domains)));
        table
    }

    #[test]
    fn search_order_is_exact_suffix_prefix_any() {
        let table = table(&[
            ("any", &["*"]),
            ("pre", &["www.*"]),
            ("pre2", &["www.foo.*"]),
            ("suf", &["*.com"]),
            ("suf2", &["*.foo.com", "*-x.foo.com"]),
            ("exact", &["www.foo.com"]),
        ]);
        for (asked, found) in [
            ("WWW.foo.com", "exact"),
            ("a.foo.com", "suf2"),
            ("b-x.foo.com", "suf2"),
            ("bar.com", "suf"),
            (".foo.com", "suf"),
            ("foo.com", "suf"),
            ("www.foo.net", "pre2"),
            ("www.zzz", "pre"),
            ("www.foo.com:80", "pre2"),
            ("nothing", "any"),
        ] {
            assert_eq!(table.virtual_host(asked).unwrap().name(), found, "{asked}");
        }
    }

    #[test]
    fn replacing_and_removing_a_host_leaves_the_others() {
        let mut table = table(&[("a", &["a.test", "*.a"]), ("b", &["b.test"])]);
        table.insert(host("a", &["a2.test"]));
        assert!(table.virtual_host("a.test").is_none() && table.virtual_host("x.a").is_none());
        assert_eq!(table.virtual_host("a2.test").unwrap().name(), "a");
        let before = table.clone();
        table.remove("a");
        assert!(table.virtual_host("a2.test").is_none());
        assert_eq!(table.virtual_host("b.test").unwrap().name(), "b");
        assert_eq!(
            before.virtual_host("a2.test").unwrap().name(),
            "a",
            "a table never changes"
        );
    }

    #[test]
    fn the_first_path_segment_can_select() {
        let mut table = table(&[("s", &["7ac8"])]);
        table.key = model::VirtualHostKey::FirstPathSegment;
        assert_eq!(host_key(&table, "h", "/7ac8/jupyter/x"), "7ac8");
        assert_eq!(host_key(&table, "h", "/"), "");
    }

    #[test]
    fn virtual_hosts_that_stay_are_compiled_once() {
        let [a, b, c] = ["a", "b", "c"].map(|name| host_model(name, &[name]));
        let before = RouteTable::compile(&config(&[&a, &b, &c]), &Deaf::shared());
        // Another model of the same name, one that is gone, one that moved.
        let [a2, d] = ["a", "d"].map(|name| host_model(name, &[&format!("{name}.test")]));
        let after = before.recompile(&config(&[&c, &a2, &d]), &Deaf::shared());
        assert_eq!(after.len(), 3);
        let same = |domain: &str| {
            let of = |table: &RouteTable| table.virtual_host(domain).cloned();
            matches!((of(&before), of(&after)), (Some(x), Some(y)) if Arc::ptr_eq(&x, &y))
        };
        assert!(same("c"));
        assert!(after.virtual_host("a").is_none() && after.virtual_host("b").is_none());
        assert_eq!(after.virtual_host("a.test").unwrap().name(), "a");
        assert_eq!(after.virtual_host("d.test").unwrap().name(), "d");
        assert_eq!(before.virtual_host("b").unwrap().name(), "b");

        let other = Arc::new(model::RouteConfiguration {
            ignore_path_parameters: true,
            ..(*config(&[&a, &b, &c])).clone()
        });
        let around = before.recompile(&other, &Deaf::shared());
        assert!(
            around
                .virtual_host("a")
                .unwrap()
                .plan()
                .ignore_path_parameters
        );
    }

    #[test]
    fn of_virtual_hosts_of_one_name_the_last_counts_however_it_came() {
        let [one, two] = ["one", "two"].map(|domain| host_model("same", &[domain]));
        let other = host_model("other", &["other"]);
        let both = config(&[&one, &two]);
        let first = RouteTable::compile(&config(&[&one, &other]), &Deaf::shared());
        for table in [
            first.recompile(&both, &Deaf::shared()),
            RouteTable::compile(&both, &Deaf::shared()).recompile(&both, &Deaf::shared()),
        ] {
            assert!(table.virtual_host("one").is_none());
            assert_eq!(table.virtual_host("two").unwrap().name(), "same");
        }
        let back = RouteTable::compile(&both, &Deaf::shared())
            .recompile(&config(&[&one, &other]), &Deaf::shared());
        assert_eq!(back.virtual_host("one").unwrap().name(), "same");
    }
}
