//! What is left of a cluster's limits: `cluster.<name>.circuit_breakers.`
//!
//! Nobody counts for these; whoever holds the limits is asked when somebody looks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Gauge, Value, Visitor};

/// Whoever holds limits.
pub trait Room: fmt::Debug + Send + Sync {
    /// Every gauge with its name: `<priority>.<name>`.
    fn gauges(&self, f: &mut dyn FnMut(&str, i64));
}

#[derive(Debug, Default)]
pub struct CircuitBreakers(Mutex<Option<Weak<dyn Room>>>);

impl CircuitBreakers {
    /// From now on this one is asked.
    pub fn ask<R: Room + 'static>(&self, room: &Arc<R>) {
        let weak = Arc::downgrade(room);
        let weak: Weak<dyn Room> = weak;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(weak);
    }

    pub fn visit(&self, f: &mut Visitor<'_>) {
        let room = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(room) = room.as_ref().and_then(Weak::upgrade) else {
            return;
        };
        room.gauges(&mut |name, value| {
            let gauge = Gauge::default();
            gauge.set(value);
            f(&format!("circuit_breakers.{name}"), Value::Gauge(&gauge));
        });
    }
}
