//! When the cache is read and written. Pure: time is passed in, files are the caller's.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use causeway_xds::ResourceType;
use causeway_xds::resource::resource_name;
use causeway_xds::source::{Origin, Update};

use super::cache::Cache;
use super::warming::Key;

/// How long the start waits for a management server before it serves what is cached.
pub const READ_AFTER: Duration = Duration::from_secs(3);
/// From a change to its being written, so that a burst is written once.
const WRITE_AFTER: Duration = Duration::from_secs(1);
/// From the first word of a server to the end of what is cached and was not sent again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);

/// What has to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Read,
    Write,
    /// Take away what is [stale](Keeper::take_stale).
    Forget,
}

#[derive(Debug)]
pub struct Keeper {
    pub cache: Cache,
    read_at: Option<Instant>,
    write_at: Option<Instant>,
    forget_at: Option<Instant>,
    /// Cached, and not confirmed by a server.
    stale: HashSet<(Origin, Key)>,
}

impl Keeper {
    pub fn new(cache: Cache) -> Self {
        Self {
            cache,
            read_at: None,
            write_at: None,
            forget_at: None,
            stale: HashSet::new(),
        }
    }

    /// Management servers are asked from now on.
    pub fn start(&mut self, now: Instant) {
        self.read_at = Some(now + READ_AFTER);
    }

    /// What came from the cache is in use.
    pub fn serving(&mut self, updates: &[Update]) {
        for update in updates {
            let names = update.upserts.iter().filter_map(resource_name);
            let keys = names.map(|name| (update.origin.clone(), (update.kind, name)));
            self.stale.extend(keys);
        }
    }

    /// A server has spoken.
    pub fn heard(&mut self, updates: &[Update], now: Instant) {
        let mut servers = updates
            .iter()
            .filter(|u| matches!(u.origin, Origin::Xds(_)))
            .peekable();
        if servers.peek().is_none() {
            return;
        }
        self.read_at = None;
        self.write_at.get_or_insert(now + WRITE_AFTER);
        if self.stale.is_empty() {
            return;
        }
        self.forget_at.get_or_insert(now + CONFIRM_WITHIN);
        for update in servers {
            for name in update.upserts.iter().filter_map(resource_name) {
                let key = (update.origin.clone(), (update.kind, name));
                self.stale.remove(&key);
            }
        }
    }

    /// What is due, one at a time.
    pub fn due(&mut self, now: Instant) -> Option<Task> {
        let all = [
            (&mut self.read_at, Task::Read),
            (&mut self.write_at, Task::Write),
            (&mut self.forget_at, Task::Forget),
        ];
        all.into_iter()
            .find_map(|(at, task)| at.take_if(|at| *at <= now).map(|_| task))
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let all = [self.read_at, self.write_at, self.forget_at];
        all.into_iter().flatten().min()
    }

    /// Clusters and listeners that were cached and that their server has not sent again. What they
    /// refer to goes with them.
    pub fn take_stale(&mut self) -> Vec<(Origin, Key)> {
        let stale = std::mem::take(&mut self.stale);
        let roots = [ResourceType::Cluster, ResourceType::Listener];
        let mut gone: Vec<_> = stale
            .into_iter()
            .filter(|(_, (kind, _))| roots.contains(kind))
            .collect();
        gone.sort_by(|a, b| a.1.cmp(&b.1));
        gone
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::{Any, Message as _};
    use causeway_xds::source::Extent;

    use super::*;

    fn update(names: &[&str]) -> Update {
        let cluster = |name: &&str| Any {
            type_url: ResourceType::Cluster.type_url(),
            value: causeway_xds::proto::Cluster {
                name: (*name).to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
        };
        Update {
            origin: Origin::Xds("ads".into()),
            kind: ResourceType::Cluster,
            version: String::new(),
            extent: Extent::Incremental,
            upserts: names.iter().map(cluster).collect(),
            listing: None,
            removals: Vec::new(),
        }
    }

    fn keeper() -> Keeper {
        Keeper::new(Cache {
            directory: "/nowhere".into(),
            secrets: false,
        })
    }

    #[test]
    fn the_cache_is_read_only_when_nobody_speaks() {
        let now = Instant::now();
        let mut keeper = keeper();
        keeper.start(now);
        assert_eq!(keeper.due(now), None);
        assert_eq!(keeper.due(now + READ_AFTER), Some(Task::Read));
        assert_eq!(keeper.due(now + READ_AFTER), None);
        keeper.start(now);
        keeper.heard(&[update(&["a"])], now);
        assert_eq!(keeper.next_deadline(), Some(now + WRITE_AFTER));
        assert_eq!(keeper.due(now + READ_AFTER), Some(Task::Write));
        assert_eq!(keeper.due(now + READ_AFTER), None);
    }

    #[test]
    fn what_is_not_sent_again_is_forgotten() {
        let now = Instant::now();
        let mut keeper = keeper();
        keeper.serving(&[update(&["a", "b"])]);
        keeper.heard(&[update(&["a"])], now);
        assert_eq!(keeper.due(now + WRITE_AFTER), Some(Task::Write));
        assert_eq!(keeper.due(now + CONFIRM_WITHIN), Some(Task::Forget));
        let gone = keeper.take_stale();
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].1, (ResourceType::Cluster, "b".to_owned()));
    }
}
