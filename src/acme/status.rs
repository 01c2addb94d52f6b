//! What is to be seen of it from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::util::time::timestamp;

/// The state of each name, shared.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<BTreeMap<String, Seen>>>);

/// What happens with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Waits for the next attempt, without a certificate.
    Waiting,
    /// An order is under way.
    Ordering,
    /// A certificate is in force.
    Serving,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) doing: Doing,
    /// Asked for by a client, and not by the file.
    pub(super) on_demand: bool,
    pub(super) challenge: &'static str,
    pub(super) expires: Option<SystemTime>,
    /// Of the next order, if nothing else happens.
    pub(super) next: SystemTime,
    pub(super) orders: u64,
    pub(super) failures: u64,
    /// Of the last attempt; none when that went well.
    pub(super) error: Option<String>,
}

impl Status {
    pub(super) fn note(&self, name: &str, seen: Seen) {
        self.all().insert(name.to_owned(), seen);
    }

    pub(super) fn forget(&self, name: &str) {
        self.all().remove(name);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the management port: a list, by name.
    pub fn shown(&self) -> Value {
        let list: Vec<Value> = self.all().iter().map(shown).collect();
        Value::Array(list)
    }
}

fn shown((name, seen): (&String, &Seen)) -> Value {
    json!({
        "name": name,
        "state": match (seen.doing, seen.expires) {
            (Doing::Waiting, _) => "waiting",
            (Doing::Ordering, None) => "ordering",
            (Doing::Ordering, Some(_)) => "renewing",
            (Doing::Serving, _) => "serving",
        },
        "on_demand": seen.on_demand,
        "challenge": seen.challenge,
        "expires": seen.expires.map(timestamp),
        "next_order": timestamp(seen.next),
        "orders": seen.orders,
        "failures": seen.failures,
        "last_error": seen.error,
    })
}
