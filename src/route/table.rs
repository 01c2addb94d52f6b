//! From a host name to a virtual host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_xds::resource::route as model;
use imbl::shared_ptr::DefaultSharedPtr;

use super::Filters;
use super::VirtualHost;
use super::action::split_port;

type Map<V> = imbl::GenericHashMap<Box<str>, V, ahash::RandomState, DefaultSharedPtr>;

/// The virtual hosts of one route configuration.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub key: model::VirtualHostKey,
    ignore_port: bool,
    by_name: Map<Arc<VirtualHost>>,
    exact: Map<Arc<VirtualHost>>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<Arc<VirtualHost>>,
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
        if self.map.get(text).is_some_and(|h| h.name == host) {
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
    /// in with [`RouteTable::insert`].
    pub fn compile(config: &model::RouteConfiguration, registry: &dyn Filters) -> Self {
        let mut table = Self {
            name: Arc::from(config.name.as_str()),
            key: config.vhost_key.clone(),
            ignore_port: config.ignore_port_in_host_matching,
            by_name: Map::default(),
            exact: Map::default(),
            suffixes: Wildcards::default(),
            prefixes: Wildcards::default(),
            any: None,
        };
        for host in &config.virtual_hosts {
            table.insert(VirtualHost::compile(host, config, registry));
        }
        table
    }

    /// Adds a virtual host, or replaces the one of that name.
    pub fn insert(&mut self, host: Arc<VirtualHost>) {
        self.remove(&host.name);
        for domain in &host.domains {
            match Domain::parse(domain) {
                Domain::Any => self.any = Some(Arc::clone(&host)),
                Domain::Suffix(text) => self.suffixes.insert(text, &host),
                Domain::Prefix(text) => self.prefixes.insert(text, &host),
                Domain::Exact(text) => {
                    self.exact.insert(text.into(), Arc::clone(&host));
                }
            }
        }
        self.by_name.insert(host.name.as_str().into(), host);
    }

    pub fn remove(&mut self, name: &str) {
        let Some(host) = self.by_name.remove(name) else {
            return;
        };
        for domain in &host.domains {
            // A domain may have gone over to another virtual host meanwhile.
            match Domain::parse(domain) {
                Domain::Any => {
                    self.any.take_if(|h| h.name == name);
                }
                Domain::Suffix(text) => self.suffixes.remove(text, name),
                Domain::Prefix(text) => self.prefixes.remove(text, name),
                Domain::Exact(text) => {
                    if self.exact.get(text).is_some_and(|h| h.name == name) {
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

    /// Exact, then the longest suffix wildcard, then the longest prefix wildcard, then `*`.
    pub fn virtual_host(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        if self.by_name.len() == 1 && self.any.is_some() {
            // The table of a proxy with one site, which is common enough.
            return self.any.as_ref();
        }
        let host = if self.ignore_port {
            split_port(host).0
        } else {
            host
        };
        let host = lower(host);
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
        Arc::new(VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            routes: vec![],
            index: None,
            ignore_path_parameters: false,
            require_tls: model::RequireTls::None,
        })
    }

    fn table(hosts: &[(&str, &[&str])]) -> RouteTable {
        let config = model::RouteConfiguration {
            name: "r".into(),
            ..Default::default()
        };
        let mut table = RouteTable::compile(&config, &Deaf);
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
            assert_eq!(table.virtual_host(asked).unwrap().name, found, "{asked}");
        }
    }

    #[test]
    fn replacing_and_removing_a_host_leaves_the_others() {
        let mut table = table(&[("a", &["a.test", "*.a"]), ("b", &["b.test"])]);
        table.insert(host("a", &["a2.test"]));
        assert!(table.virtual_host("a.test").is_none() && table.virtual_host("x.a").is_none());
        assert_eq!(table.virtual_host("a2.test").unwrap().name, "a");
        let before = table.clone();
        table.remove("a");
        assert!(table.virtual_host("a2.test").is_none());
        assert_eq!(table.virtual_host("b.test").unwrap().name, "b");
        assert_eq!(
            before.virtual_host("a2.test").unwrap().name,
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
}
