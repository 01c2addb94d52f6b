//! What the event bus says and is told, free of its encodings.
//!
//! Circuits stay in their JSON form here: a reply hands back what was received, and one circuit
//! that cannot be read must not take its neighbours with it.

use serde_json::Value;

/// An event of the Coordinator that is meant for this worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Install, or bring up to date, each circuit; then [`Reply::Added`] is due within 15 s.
    Created {
        circuits: Vec<Value>,
    },
    /// `routes` counts, not the routes inside `circuit`.
    RoutesUpdated {
        circuit: Value,
        routes: Vec<Value>,
    },
    Removed {
        circuits: Vec<Value>,
    },
}

/// What the bus tells the worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The subscription stands, for the first time or again. Events before it may be lost, so a
    /// listing is due.
    Subscribed,
    Event(Event),
    /// The connection is gone; the bus tries again by itself.
    Lost {
        reason: String,
    },
}

/// What the worker says on the bus.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The circuits of a [`Event::Created`] are live.
    Added { circuits: Vec<Value> },
}
