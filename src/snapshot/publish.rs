//! One publisher, one reader per data thread.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::Snapshot;

/// Makes snapshots visible, one pointer swap each.
#[derive(Clone, Debug, Default)]
pub struct Publisher(Arc<ArcSwap<Snapshot>>);

/// Reads the newest snapshot without waiting; belongs to one thread.
#[derive(Clone, Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Publisher {
    /// Returns the snapshot that was current until now, so that the caller drops it: taking a
    /// large snapshot apart is no work for a data thread.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.0.swap(snapshot)
    }

    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.0)))
    }
}

impl Reader {
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}
