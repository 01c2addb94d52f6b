//! What accepted resources refer to elsewhere: files, host names, and names of management servers.
//! Pure: who fetches them is [`sources`](super::sources).

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::resource::api_source::ApiSource;
use causeway_xds::resource::cluster::{Cluster, Dns};
use causeway_xds::resource::config_source::Place;
use causeway_xds::resource::{Reference, Resource, WatchedFiles};
use causeway_xds::source::Origin;

use super::load::{Recipient, Report};
use super::warming::Key;

/// The name of the aggregated stream's origin.
pub const ADS: &str = "ads";

/// A source of its own for what is wanted, which tells all it knows without being asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
        kind: ResourceType,
    },
    /// Host names that are looked up.
    Dns(Arc<Dns>),
    /// Files that are read where they are named.
    Files(WatchedFiles),
}

/// A client of management servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerKey {
    /// The aggregated stream of the bootstrap.
    Ads,
    /// A stream, or a poll, for one type.
    Api(ResourceType, ApiSource),
}

/// A name that a management server is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    pub server: ServerKey,
    pub kind: ResourceType,
    pub name: String,
}

/// Something that has to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    Local(Local),
    Named(Named),
    /// Not fetched, but sent.
    Report(Report),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Start(Signal),
    Stop(Signal),
    /// The resource that refers to it is a new one.
    Refresh(Named),
}

/// Who refers to what.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_owner: HashMap<Key, HashSet<Signal>>,
    users: HashMap<Signal, usize>,
    /// How many of what is wanted bear a name, whoever is asked for it.
    names: HashMap<Key, usize>,
    /// What changed hands since [`Subscriptions::take`], and whether it was wanted before.
    touched: HashMap<Signal, bool>,
    /// In the order of first touch: names are asked for in the order of their clusters.
    order: Vec<Signal>,
    refresh: Vec<Named>,
}

impl Subscriptions {
    /// `owner` now refers to these and no others.
    pub fn set(&mut self, owner: &Key, wanted: HashSet<Signal>) {
        let before = self.by_owner.remove(owner).unwrap_or_default();
        for new in wanted.difference(&before) {
            self.touch(new);
            *self.users.entry(new.clone()).or_default() += 1;
            if let Signal::Named(named) = new {
                *self.names.entry(key(named)).or_default() += 1;
            }
        }
        for old in before.difference(&wanted) {
            self.touch(old);
            drop_one(&mut self.users, old);
            if let Signal::Named(named) = old {
                drop_one(&mut self.names, &key(named));
            }
        }
        if !wanted.is_empty() {
            self.by_owner.insert(owner.clone(), wanted);
        }
    }

    /// `owner` is a new version of itself.
    pub fn renewed(&mut self, owner: &Key) {
        let wanted = self.by_owner.get(owner).into_iter().flatten();
        let endpoints = wanted.filter_map(|wanted| match wanted {
            Signal::Named(named) if named.kind == ResourceType::LoadAssignment => Some(named),
            _ => None,
        });
        self.refresh.extend(endpoints.cloned());
    }

    /// Who names these files.
    pub fn owners<'s>(&'s self, files: &WatchedFiles) -> impl Iterator<Item = &'s Key> {
        let wanted = Signal::Local(Local::Files(files.clone()));
        let owners = self.by_owner.iter();
        owners.filter_map(move |(key, all)| all.contains(&wanted).then_some(key))
    }

    /// Whether a management server is asked for this name.
    pub fn wants(&self, kind: ResourceType, name: &str) -> bool {
        !self.names.is_empty() && self.names.contains_key(&(kind, name.to_owned()))
    }

    /// The names of a kind that management servers are asked for, in no particular order.
    pub fn names(&self, kind: ResourceType) -> impl Iterator<Item = &str> {
        let of_kind = self.names.keys().filter(move |key| key.0 == kind);
        of_kind.map(|key| key.1.as_str())
    }

    /// The net changes since the last call: what went from one owner to another is none.
    pub fn take(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for named in std::mem::take(&mut self.refresh) {
            let wanted = Signal::Named(named.clone());
            // What is asked for only now is not asked for twice.
            let known = self.touched.get(&wanted).is_none_or(|before| *before);
            if known && self.users.contains_key(&wanted) {
                changes.push(Change::Refresh(named));
            }
        }
        for wanted in std::mem::take(&mut self.order) {
            let before = self.touched.remove(&wanted);
            match (before, self.users.contains_key(&wanted)) {
                (Some(false), true) => changes.push(Change::Start(wanted)),
                (Some(true), false) => changes.push(Change::Stop(wanted)),
                _ => {}
            }
        }
        changes
    }

    fn touch(&mut self, wanted: &Signal) {
        if !self.touched.contains_key(wanted) {
            let before = self.users.contains_key(wanted);
            self.touched.insert(wanted.clone(), before);
            self.order.push(wanted.clone());
        }
    }
}

fn key(named: &Named) -> Key {
    (named.kind, named.name.clone())
}

fn drop_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What `resource`, delivered by `origin`, refers to elsewhere.
pub fn wanted_by(resource: &Resource, origin: &Origin) -> HashSet<Signal> {
    let from = |reference: Reference| {
        let Reference {
            kind, name, source, ..
        } = reference;
        let server = match source.place {
            Place::File {
                path,
                watched_directory,
            } => {
                return Some(Signal::Local(Local::File {
                    path,
                    watched_directory,
                    kind,
                }));
            }
            Place::Dns(dns) => return Some(Signal::Local(Local::Dns(dns))),
            Place::Ads => ServerKey::Ads,
            Place::SameOrigin if is_ads(origin) => ServerKey::Ads,
            Place::Api(source) => ServerKey::Api(kind, source),
            Place::SameOrigin | Place::Static => return None,
        };
        Some(Signal::Named(Named { server, kind, name }))
    };
    let reports = match resource {
        Resource::Cluster(cluster) => report(cluster, origin),
        _ => None,
    };
    let fetched = resource.references().into_iter().filter_map(from);
    let watched = resource.watched_files().into_iter();
    let watched = watched.map(|files| Signal::Local(Local::Files(files)));
    let all = fetched.chain(reports.map(Signal::Report));
    all.chain(watched).collect()
}

/// Whom a cluster wants to be reported to.
fn report(cluster: &Cluster, origin: &Origin) -> Option<Report> {
    let to = match cluster.load_reports.as_ref()? {
        Place::SameOrigin => Recipient::Giver(origin.clone()),
        Place::Ads => Recipient::Giver(Origin::Xds(ADS.into())),
        Place::Api(source) => Recipient::Api(source.clone()),
        // Refused where the cluster is read.
        Place::File { .. } | Place::Dns(_) | Place::Static => return None,
    };
    Some(Report {
        to,
        cluster: cluster.name.clone(),
    })
}

fn is_ads(origin: &Origin) -> bool {
    matches!(origin, Origin::Xds(name) if &**name == ADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(name: &str) -> Signal {
        Signal::Named(Named {
            server: ServerKey::Ads,
            kind: ResourceType::LoadAssignment,
            name: name.to_owned(),
        })
    }

    fn cluster(name: &str) -> Key {
        (ResourceType::Cluster, name.to_owned())
    }

    #[test]
    fn what_two_refer_to_is_fetched_once_and_until_the_last_is_gone() {
        let mut all = Subscriptions::default();
        all.set(&cluster("a"), [endpoints("s")].into());
        all.set(&cluster("b"), [endpoints("s")].into());
        assert_eq!(all.take(), [Change::Start(endpoints("s"))]);
        assert!(all.wants(ResourceType::LoadAssignment, "s"));
        all.set(&cluster("a"), HashSet::new());
        assert_eq!(all.take(), []);
        all.set(&cluster("b"), HashSet::new());
        assert_eq!(all.take(), [Change::Stop(endpoints("s"))]);
        assert!(!all.wants(ResourceType::LoadAssignment, "s"));
        assert_eq!(all.take(), []);
    }

    #[test]
    fn what_changes_hands_is_not_fetched_anew() {
        let mut all = Subscriptions::default();
        all.set(&cluster("a"), [endpoints("s")].into());
        all.take();
        all.set(&cluster("a"), HashSet::new());
        all.set(&cluster("b"), [endpoints("s")].into());
        assert_eq!(all.take(), []);
        assert!(all.wants(ResourceType::LoadAssignment, "s"));
    }

    #[test]
    fn a_renewed_owner_asks_again_for_what_it_had() {
        let mut all = Subscriptions::default();
        all.set(&cluster("a"), [endpoints("s")].into());
        all.renewed(&cluster("a"));
        assert_eq!(all.take(), [Change::Start(endpoints("s"))]);
        all.renewed(&cluster("a"));
        let Signal::Named(named) = endpoints("s") else {
            unreachable!("a name")
        };
        assert_eq!(all.take(), [Change::Refresh(named)]);
        all.renewed(&cluster("a"));
        all.set(&cluster("a"), HashSet::new());
        assert_eq!(all.take(), [Change::Stop(endpoints("s"))]);
    }
}
