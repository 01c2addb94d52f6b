//! Values by name in as little memory as they take.

use std::ops::Index;
use std::sync::Arc;

/// A map that is made once and shared from then on. A tree of the standard library would set room for
/// eleven entries aside for the one that is usual where there are many maps, and copy it all when it
/// is cloned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sorted<V>(Arc<[(String, V)]>);

impl<V> Sorted<V> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&V> {
        let found = self
            .0
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        found.ok().map(|at| &self.0[at].1)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }
}

impl<V: Clone> Sorted<V> {
    /// The same with one entry more, or another value in it.
    #[must_use]
    pub fn with(&self, name: &str, value: V) -> Self {
        let more = std::iter::once((name.to_owned(), value));
        self.0.iter().cloned().chain(more).collect()
    }

    /// These, and what of the others has names that are not here.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        if others.is_empty() {
            return self.clone();
        }
        others.0.iter().chain(&*self.0).cloned().collect()
    }
}

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Of entries with the same name the last one counts.
impl<V> FromIterator<(String, V)> for Sorted<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(entries: I) -> Self {
        let mut entries: Vec<(String, V)> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
        if entries.is_empty() {
            return Self::default();
        }
        Self(entries.into())
    }
}

impl<V, const N: usize> From<[(String, V); N]> for Sorted<V> {
    fn from(entries: [(String, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// # Panics
///
/// When there is no such name.
impl<V> Index<&str> for Sorted<V> {
    type Output = V;

    fn index(&self, name: &str) -> &V {
        self.get(name).expect("a name that is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts() {
        let entry = |name: &str, value: u32| (name.to_owned(), value);
        let map = Sorted::from([entry("b", 1), entry("a", 2), entry("b", 3)]);
        assert_eq!((map["a"], map["b"], map.get("c")), (2, 3, None));
        assert_eq!(map.keys().collect::<Vec<_>>(), ["a", "b"]);
        let more = map.with("b", 4).with("c", 5);
        assert_eq!((more["b"], more["c"], map["b"]), (4, 5, 3));
        let both = map.or(&Sorted::from([entry("c", 6), entry("a", 7)]));
        assert_eq!((both["a"], both["b"], both["c"]), (2, 3, 6));
        assert_eq!(Sorted::<u32>::new(), [].into_iter().collect());
        assert_eq!(Sorted::from([entry("a", 2), entry("b", 3)]), map);
    }
}
