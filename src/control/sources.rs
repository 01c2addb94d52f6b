//! File and name sources that resources in use refer to: one per file and type, or per set of names;
//! shared, and stopped when nothing refers to it any more.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use causeway_xds::ResourceType;
use causeway_xds::file::FileSource;
use causeway_xds::resource::cluster::Dns;
use causeway_xds::resource::config_source::Place;
use causeway_xds::resource::{Reference, Resource};
use causeway_xds::source::{Batches, Origin, Source};
use tracing::info;

use super::dns::{self, DnsSource};
use super::warming::Key;

/// What a source is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKey {
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
        kind: ResourceType,
    },
    Dns(Arc<Dns>),
}

impl FileKey {
    fn kind(&self) -> ResourceType {
        match self {
            Self::File { kind, .. } => *kind,
            Self::Dns(_) => ResourceType::LoadAssignment,
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Self::File { .. } => self.source().origin(),
            Self::Dns(dns) => dns::origin(dns),
        }
    }

    fn source(&self) -> Box<dyn Source> {
        match self {
            Self::File {
                path,
                watched_directory,
                kind,
            } => Box::new(FileSource::new(
                path.clone(),
                watched_directory.clone(),
                *kind,
            )),
            Self::Dns(dns) => Box::new(DnsSource::new(Arc::clone(dns))),
        }
    }
}

/// The files and names that `resource` refers to.
pub fn files_of(resource: &Resource) -> BTreeSet<FileKey> {
    let references = resource.references();
    let file = |reference: Reference| match reference.source.place {
        Place::File {
            path,
            watched_directory,
        } => Some(FileKey::File {
            path,
            watched_directory,
            kind: reference.kind,
        }),
        Place::Dns(dns) => Some(FileKey::Dns(dns)),
        Place::SameOrigin | Place::Static | Place::Ads | Place::Api(_) => None,
    };
    references.into_iter().filter_map(file).collect()
}

#[derive(Debug, Default)]
pub struct FileSources {
    running: HashMap<FileKey, Running>,
    by_owner: HashMap<Key, BTreeSet<FileKey>>,
}

#[derive(Debug)]
struct Running {
    users: usize,
    task: tokio::task::AbortHandle,
}

impl FileSources {
    /// These owners now refer to these files and no others. Starts what is new; returns the origins
    /// whose source was stopped.
    pub fn set(
        &mut self,
        changes: Vec<(Key, BTreeSet<FileKey>)>,
        batches: &Batches,
    ) -> Vec<(Origin, ResourceType)> {
        let mut given_up = Vec::new();
        // All additions come first: a file that goes from one owner to another is never let go.
        for (owner, wanted) in changes {
            let before = self.by_owner.remove(&owner).unwrap_or_default();
            for key in wanted.difference(&before) {
                self.running
                    .entry(key.clone())
                    .or_insert_with(|| start(key, batches))
                    .users += 1;
            }
            given_up.extend(before.difference(&wanted).cloned());
            if !wanted.is_empty() {
                self.by_owner.insert(owner, wanted);
            }
        }
        let mut stopped = Vec::new();
        for key in given_up {
            let Some(running) = self.running.get_mut(&key) else {
                continue;
            };
            running.users -= 1;
            if running.users == 0 {
                running.task.abort();
                self.running.remove(&key);
                let (origin, kind) = (key.origin(), key.kind());
                info!(%origin, %kind, "no longer followed");
                let mut others = self.running.keys().filter(|k| k.kind() == kind);
                if !others.any(|k| k.origin() == origin) {
                    stopped.push((origin, kind));
                }
            }
        }
        stopped
    }

    pub fn stop_all(&mut self) {
        self.running.values().for_each(|r| r.task.abort());
        self.running.clear();
        self.by_owner.clear();
    }
}

fn start(key: &FileKey, batches: &Batches) -> Running {
    let source = key.source();
    info!(origin = %source.origin(), kind = %key.kind(), "followed");
    let task = tokio::spawn(source.run(batches.clone()));
    Running {
        users: 0,
        task: task.abort_handle(),
    }
}
