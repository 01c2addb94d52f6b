//! What is asked of endpoints, and what may come of it.

use std::net::SocketAddr;

use http::Response;
use http::request::Parts;

use crate::error::Failure;
use crate::http::failures;
use crate::http::head::UpgradeRequest;
use crate::http::mirror::Copies;
use crate::http::retry::{Reset, Retries};
use crate::http::timeouts::Timeouts;
use crate::net::Incoming;
use crate::route::Chosen;
use crate::route::action::Forward;
use crate::upstream::body::{ClientBody, Kept, Piece, RequestBody};
use crate::upstream::pool::Lease;

/// What every attempt sends.
pub struct Ask<'a> {
    pub parts: &'a mut Option<Parts>,
    pub body: ClientBody,
    pub chosen: &'a Chosen,
    pub forward: &'a Forward,
    pub retries: Option<Box<Retries>>,
    pub copies: Option<Box<Copies>>,
    pub upgrade: Option<&'a UpgradeRequest>,
    /// Of the request, where the cluster's policy hashes.
    pub hash: Option<u64>,
    /// Where to go, where the cluster leaves that to requests.
    pub destination: Option<SocketAddr>,
    pub timeouts: &'a Timeouts,
    /// Whether the upstream is told `x-envoy-*`.
    pub tell: bool,
}

/// The answer of an endpoint, and the connection that it comes on. Boxed, because it is handed from
/// one to the next a dozen times.
pub type Answer = (Lease, Box<Response<Incoming>>);

/// What came of asking.
pub struct Asked {
    pub answer: Result<Answer, Failure>,
    pub attempts: u32,
    /// What was sent; only where the answer may lead elsewhere, and all of it is still there.
    pub sent: Option<Box<Sent>>,
}

/// A request as it went up, before an endpoint was chosen.
pub struct Sent {
    pub parts: Parts,
    pub body: Vec<Piece>,
}

/// An attempt that got no answer.
pub struct Lost {
    pub failure: Failure,
    pub reset: Reset,
    pub timed_out: bool,
}

impl Lost {
    pub fn of(failure: Failure, reset: Reset) -> Self {
        Self {
            failure,
            reset,
            timed_out: false,
        }
    }

    /// Of the attempt or of the route.
    pub fn is_timeout(&self) -> bool {
        self.timed_out || self.failure.details == failures::ROUTE_TIMEOUT
    }

    /// Nothing that another attempt could mend.
    pub fn finally(failure: Failure) -> Self {
        Self::of(failure, Reset::Final)
    }
}

/// The body that attempts send.
pub enum Sending {
    Once(Option<RequestBody>),
    Kept(Kept),
}

impl Sending {
    pub fn next(&mut self) -> RequestBody {
        match self {
            Self::Once(body) => body.take().unwrap_or_else(RequestBody::empty),
            Self::Kept(kept) => kept.read(),
        }
    }

    /// All of it, if it is there.
    pub fn all(&self) -> Option<Vec<Piece>> {
        match self {
            Self::Once(_) => Some(Vec::new()),
            Self::Kept(kept) => kept.all(),
        }
    }

    pub fn is_given_up(&self) -> bool {
        matches!(self, Self::Kept(kept) if kept.is_given_up())
    }
}
