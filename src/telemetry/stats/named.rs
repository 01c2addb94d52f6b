//! Statistics of filters, which bring their names along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Counter, Gauge, Value, Visitor};

/// What the filters of one scope count. Handles are taken when a filter is built.
#[derive(Debug, Default)]
pub struct Named(Mutex<BTreeMap<String, Stat>>);

#[derive(Clone, Debug)]
enum Stat {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
}

impl Named {
    /// The counter of this name. A name that is a gauge already gets one that is not shown.
    pub fn counter(&self, name: &str) -> Arc<Counter> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Stat::Counter(Arc::default());
        match all.entry(name.to_owned()).or_insert_with(made) {
            Stat::Counter(counter) => Arc::clone(counter),
            Stat::Gauge(_) => Arc::default(),
        }
    }

    /// As [`Named::counter`].
    pub fn gauge(&self, name: &str) -> Arc<Gauge> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Stat::Gauge(Arc::default());
        match all.entry(name.to_owned()).or_insert_with(made) {
            Stat::Gauge(gauge) => Arc::clone(gauge),
            Stat::Counter(_) => Arc::default(),
        }
    }

    pub fn visit(&self, f: &mut Visitor<'_>) {
        let all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (name, stat) in &all {
            match stat {
                Stat::Counter(counter) => f(name, Value::Counter(counter)),
                Stat::Gauge(gauge) => f(name, Value::Gauge(gauge)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_handle_and_of_one_kind() {
        let named = Named::default();
        named.counter("a.b").inc();
        named.counter("a.b").inc();
        named.gauge("a.b").inc();
        named.gauge("g").set(3);
        let mut seen = Vec::new();
        named.visit(&mut |name, value| {
            seen.push(match value {
                Value::Counter(counter) => (name.to_owned(), counter.value().cast_signed()),
                Value::Gauge(gauge) => (name.to_owned(), gauge.value()),
                Value::Histogram(_) => unreachable!("there are none"),
            });
        });
        assert_eq!(seen, [("a.b".to_owned(), 2), ("g".to_owned(), 3)]);
    }
}
