//! File sources that resources in use refer to: one per file and type, shared, and stopped when
//! nothing refers to it any more.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use causeway_xds::ResourceType;
use causeway_xds::file::FileSource;
use causeway_xds::resource::config_source::Place;
use causeway_xds::resource::{Reference, Resource};
use causeway_xds::source::{Batches, Origin, Source};
use tracing::info;

use super::warming::Key;

/// What a file source is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    pub path: PathBuf,
    pub watched_directory: Option<PathBuf>,
    pub kind: ResourceType,
}

/// The files that `resource` refers to.
pub fn files_of(resource: &Resource) -> BTreeSet<FileKey> {
    let references = resource.references();
    let file = |reference: Reference| match reference.source.place {
        Place::File {
            path,
            watched_directory,
        } => Some(FileKey {
            path,
            watched_directory,
            kind: reference.kind,
        }),
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
                info!(path = %key.path.display(), kind = %key.kind, "file no longer followed");
                let shared = self
                    .running
                    .keys()
                    .any(|k| k.path == key.path && k.kind == key.kind);
                if !shared {
                    stopped.push((source(&key).origin(), key.kind));
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

fn source(key: &FileKey) -> FileSource {
    FileSource::new(key.path.clone(), key.watched_directory.clone(), key.kind)
}

fn start(key: &FileKey, batches: &Batches) -> Running {
    info!(path = %key.path.display(), kind = %key.kind, "file followed");
    let task = tokio::spawn(Box::new(source(key)).run(batches.clone()));
    Running {
        users: 0,
        task: task.abort_handle(),
    }
}
