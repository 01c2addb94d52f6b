//! Heads as the matchers see them.

use std::cell::Cell;
use std::rc::Rc;

use causeway_xds::resource::metadata::MetadataValue;
use http::Method;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;

use crate::filter::StreamState;
use crate::route::RequestView;
use crate::route::matcher::{Headers, Values};
use crate::tls::Session;

/// The fields of a message.
pub struct Fields<'h>(pub &'h HeaderMap);

impl Headers for Fields<'_> {
    fn values<'v>(&'v self, name: &str) -> Values<'v> {
        Values::of(self.0, name)
    }
}

/// A request.
pub struct View<'r> {
    parts: &'r Parts,
    session: Option<&'r Session>,
    filters: Option<&'r StreamState>,
    /// Drawn when it is first asked for.
    random: Cell<Option<u64>>,
}

impl<'r> View<'r> {
    pub fn of(parts: &'r Parts) -> Self {
        Self {
            parts,
            session: None,
            filters: None,
            random: Cell::new(None),
        }
    }

    /// With what the TLS handshake told of the client.
    /// Knows what filters have set.
    pub fn after(self, filters: &'r StreamState) -> Self {
        Self {
            filters: Some(filters),
            ..self
        }
    }

    pub fn with(self, session: Option<&'r Session>) -> Self {
        Self { session, ..self }
    }
}

impl Headers for View<'_> {
    fn values<'v>(&'v self, name: &str) -> Values<'v> {
        let parts = self.parts;
        match name {
            ":method" => Values::One(Some(parts.method.as_str().as_bytes())),
            ":path" => Values::One(parts.uri.path_and_query().map(|p| p.as_str().as_bytes())),
            ":authority" => Values::One(parts.headers.get(HOST).map(HeaderValue::as_bytes)),
            _ => Values::of(&parts.headers, name),
        }
    }
}

impl RequestView for View<'_> {
    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    fn is_connect(&self) -> bool {
        self.parts.method == Method::CONNECT
    }

    fn certificate(&self) -> Option<bool> {
        Some(self.session?.peer.as_ref()?.validated)
    }

    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        self.filters?.metadata(namespace)
    }

    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        self.filters?.value(key)
    }

    fn random(&self) -> u64 {
        let random = self.random.get().unwrap_or_else(|| fastrand::u64(..));
        self.random.set(Some(random));
        random
    }
}
