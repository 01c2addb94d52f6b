//! Finding the first route that matches without asking every one of many.

use std::collections::HashMap;

use causeway_xds::resource::route::{PathMatch, RouteMatch};

use super::RequestView;
use super::matcher::RouteMatcher;

/// Fewer routes than this are asked one after the other.
const FEW: usize = 16;

/// Positions of routes, in order.
type Positions = Vec<u32>;
type Map = HashMap<Box<str>, Positions, ahash::RandomState>;

/// Routes by what their path must be or begin with.
#[derive(Debug, Default)]
pub struct Index {
    exact: Map,
    prefixes: Map,
    /// Lengths of the prefixes that there are, ascending.
    lengths: Vec<usize>,
    /// Regular expressions, templates, and everything that ignores case.
    others: Positions,
}

impl Index {
    /// `None` where it would not be worth it.
    pub fn of<'m>(routes: impl ExactSizeIterator<Item = &'m RouteMatch>) -> Option<Self> {
        if routes.len() < FEW {
            return None;
        }
        let mut index = Self::default();
        for (position, route) in routes.enumerate() {
            let position = u32::try_from(position).ok()?;
            let (map, text) = match &route.path {
                PathMatch::Exact(text) if route.case_sensitive => (&mut index.exact, text),
                PathMatch::Prefix(text) | PathMatch::SeparatedPrefix(text)
                    if route.case_sensitive =>
                {
                    (&mut index.prefixes, text)
                }
                _ => {
                    index.others.push(position);
                    continue;
                }
            };
            map.entry(text.as_str().into()).or_default().push(position);
        }
        index.lengths = index.prefixes.keys().map(|text| text.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        Some(index)
    }

    /// The position of the first route that matches: of every list of candidates its first match,
    /// and of those the first.
    pub fn find<'r>(
        &self,
        request: &impl RequestView,
        matcher: impl Fn(usize) -> &'r RouteMatcher,
    ) -> Option<usize> {
        let path = request.path();
        let mut best = None;
        let mut look = |candidates: &[u32]| {
            for position in candidates {
                if best.is_some_and(|best| best <= *position) {
                    return;
                }
                if matcher(*position as usize).matches(request) {
                    best = Some(*position);
                    return;
                }
            }
        };
        if let Some(candidates) = self.exact.get(path) {
            look(candidates);
        }
        for length in self.lengths.iter().take_while(|l| **l <= path.len()) {
            let prefix = path.get(..*length);
            if let Some(candidates) = prefix.and_then(|p| self.prefixes.get(p)) {
                look(candidates);
            }
        }
        look(&self.others);
        best.map(|position| position as usize)
    }
}
