//! What the tests of both machines use.

use std::time::{Duration, Instant};

use super::machine::{Answered, Machine, Outgoing, Received};
use crate::proto::core::Node;
use crate::proto::envoy::service::discovery::v3::Resource;
use crate::proto::{Any, Cluster, ClusterLoadAssignment, RouteConfiguration};
use crate::reject::{Invalid, Rejected};
use crate::source::{Interest, Origin, Outcome, Update};
use crate::type_url::{ResourceType, pack};

pub(super) fn origin() -> Origin {
    Origin::Xds("ads".into())
}

pub(super) fn node() -> Node {
    Node {
        id: "n1".to_owned(),
        ..Node::default()
    }
}

pub(super) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

pub(super) fn subscribe(kind: ResourceType, of: &[&str]) -> Interest {
    Interest::Subscribe(kind, names(of))
}

pub(super) fn unsubscribe(kind: ResourceType, of: &[&str]) -> Interest {
    Interest::Unsubscribe(kind, names(of))
}

/// A resource of one of the types that the tests use.
pub(super) fn resource(kind: ResourceType, name: &str) -> Any {
    let name = name.to_owned();
    match kind {
        ResourceType::Cluster => pack(&Cluster {
            name,
            ..Cluster::default()
        }),
        ResourceType::LoadAssignment => pack(&ClusterLoadAssignment {
            cluster_name: name,
            ..ClusterLoadAssignment::default()
        }),
        _ => pack(&RouteConfiguration {
            name,
            ..RouteConfiguration::default()
        }),
    }
}

/// With a name, a version and perhaps a time to live around it; a heartbeat without a resource.
pub(super) fn wrapper(name: &str, resource: Option<Any>, ttl: Option<i64>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "w".to_owned(),
        resource,
        ttl: ttl.map(|seconds| crate::proto::Duration { seconds, nanos: 0 }),
        ..Resource::default()
    }
}

pub(super) fn accepted() -> Outcome {
    Outcome::default()
}

pub(super) fn refused(kind: ResourceType, of: &[&str]) -> Outcome {
    let fault = |name: &&str| Rejected::new(kind, *name, Invalid::at("field", "is wrong"));
    Outcome {
        rejected: of.iter().map(fault).collect(),
        ..Outcome::default()
    }
}

pub(super) fn delivered(received: Received) -> Update {
    match received {
        Received::Deliver(update) => update,
        other => panic!("not delivered: {other:?}"),
    }
}

pub(super) fn answered(received: Received) -> Answered {
    match received {
        Received::Answered(answered) => answered,
        other => panic!("not answered: {other:?}"),
    }
}

/// All requests that are due.
pub(super) fn drain<M: Machine>(machine: &mut M) -> Vec<M::Request> {
    std::iter::from_fn(|| machine.next())
        .map(|Outgoing { message, .. }| message)
        .collect()
}

pub(super) fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// Tells the seed of a failure.
pub(super) struct Told(pub(super) u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("seed {}", self.0);
    }
}
