//! A request as the matchers of routes see it.

use std::cell::Cell;

use http::Method;
use http::header::{HOST, HeaderValue};
use http::request::Parts;

use crate::route::RequestView;
use crate::route::matcher::{Headers, Values};

pub struct View<'r> {
    parts: &'r Parts,
    /// Drawn when it is first asked for.
    random: Cell<Option<u64>>,
}

impl<'r> View<'r> {
    pub fn of(parts: &'r Parts) -> Self {
        Self {
            parts,
            random: Cell::new(None),
        }
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

    fn random(&self) -> u64 {
        let random = self.random.get().unwrap_or_else(|| fastrand::u64(..));
        self.random.set(Some(random));
        random
    }
}
