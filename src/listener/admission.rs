//! How many connections clients may have with the whole process.

use crate::runtime::layers::{Key, Layers};
use crate::upstream::limits::{Limit, Permit};

/// Shared by all data threads.
#[derive(Debug)]
pub struct Admission {
    open: Limit,
    /// Of the file; the runtime has no say then.
    configured: Option<u32>,
    /// `overload.global_downstream_max_connections`
    key: Key,
}

impl Admission {
    /// `configured`: the most there may be; `None` is as the runtime says, or else without limit.
    pub fn new(configured: Option<u32>, layers: &Layers) -> Self {
        Self {
            open: Limit::default(),
            configured,
            key: layers.key("overload.global_downstream_max_connections"),
        }
    }

    /// A place for one connection, for as long as it is held; `None`: there are as many as may be.
    pub fn admit(&self) -> Option<Permit> {
        self.open.acquire_of(self.most())
    }

    fn most(&self) -> u32 {
        let configured = self.configured.or_else(|| self.key.number());
        configured.unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bootstrap::{Runtime, RuntimeLayer};

    fn layers() -> Layers {
        Layers::new(Runtime {
            layers: vec![RuntimeLayer {
                name: "admin".into(),
                admin: true,
                values: Default::default(),
            }],
        })
    }

    #[test]
    fn places_are_given_back_and_the_file_wins_over_the_runtime() {
        let layers = layers();
        let set = |value: &str| {
            let name = "overload.global_downstream_max_connections".to_owned();
            layers.modify([(name, value.to_owned())]).unwrap();
        };
        let (file, free) = (
            Admission::new(Some(2), &layers),
            Admission::new(None, &layers),
        );
        set("1");
        let held = (file.admit().unwrap(), file.admit().unwrap());
        assert!(file.admit().is_none());
        drop(held.0);
        assert!(file.admit().is_some());
        let held = free.admit().unwrap();
        assert!(free.admit().is_none());
        // A limit that comes later counts those that are there.
        set("2");
        let second = free.admit().unwrap();
        assert!(free.admit().is_none());
        drop((held, second));
        assert!(free.admit().is_some());
    }
}
