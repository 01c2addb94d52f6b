//! What a request looks like to routes.

use std::rc::Rc;

use causeway_xds::resource::metadata::MetadataValue;

use super::matcher::Headers;
use crate::matching::headers::RequestHead;

/// What a request looks like to the matchers.
pub trait RequestView: Headers {
    /// Path without the query.
    fn path(&self) -> &str;
    /// What follows the first `?`; empty when nothing does.
    fn query(&self) -> &str;
    /// Whether it asks for a tunnel, and so has no path.
    fn is_connect(&self) -> bool {
        false
    }
    /// Whether the client has shown a certificate, and whether somebody trusted vouches for it.
    fn certificate(&self) -> Option<bool> {
        None
    }
    /// What filters have set in a namespace.
    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let _ = namespace;
        None
    }
    /// What filters have set under a key.
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        let _ = key;
        None
    }
    /// A number that is the same whenever this request is looked at.
    fn random(&self) -> u64;
}

impl RequestView for RequestHead<'_> {
    fn path(&self) -> &str {
        self.0.uri.path()
    }
    fn query(&self) -> &str {
        self.0.uri.query().unwrap_or_default()
    }
    fn is_connect(&self) -> bool {
        self.0.method == http::Method::CONNECT
    }
    /// Drawn anew each time.
    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}
