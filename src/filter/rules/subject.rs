//! Who is judged: what rules may ask of a connection and of a request.

use std::net::{IpAddr, SocketAddr};

use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HOST, HeaderValue};
use http::request::Parts;

use crate::matching::headers::{Headers, Values};
use crate::tls::Session;

/// Values by namespace that others have left.
pub trait Metadata {
    /// What filters have noted.
    fn dynamic(&self, namespace: &str) -> Option<&MetadataValue>;
    /// What the route carries.
    fn of_route(&self, namespace: &str) -> Option<&MetadataValue>;
    /// An object of the filter state, as text.
    fn state(&self, key: &str) -> Option<&str>;
}

/// Nothing was left.
impl Metadata for () {
    fn dynamic(&self, _: &str) -> Option<&MetadataValue> {
        None
    }
    fn of_route(&self, _: &str) -> Option<&MetadataValue> {
        None
    }
    fn state(&self, _: &str) -> Option<&str> {
        None
    }
}

#[derive(Clone, Copy)]
pub struct Subject<'s> {
    /// `None` for a connection.
    pub request: Option<&'s Parts>,
    /// The address that the connection came in on.
    pub local: Option<SocketAddr>,
    /// The address at the other end of the connection.
    pub peer: Option<IpAddr>,
    /// The client, as forwarded headers tell it.
    pub client: Option<IpAddr>,
    pub tls: Option<&'s Session>,
    /// SNI; empty where there is none.
    pub server_name: &'s str,
    pub metadata: &'s dyn Metadata,
}

impl Subject<'_> {
    /// Without the query; `None` without a request, or for one that has no path.
    pub fn path(&self) -> Option<&str> {
        let uri = self.request.map(|request| &request.uri)?;
        // `CONNECT` has an authority only.
        uri.path_and_query().map(|_| uri.path())
    }
}

impl Headers for Subject<'_> {
    fn values<'h>(&'h self, name: &str) -> Values<'h> {
        let Some(request) = self.request else {
            return Values::One(None);
        };
        match name {
            ":method" => Values::One(Some(request.method.as_str().as_bytes())),
            ":path" => Values::One(request.uri.path_and_query().map(|p| p.as_str().as_bytes())),
            ":scheme" => Values::One(Some(if self.tls.is_some() {
                b"https"
            } else {
                b"http"
            })),
            ":authority" | "host" => {
                Values::One(request.headers.get(HOST).map(HeaderValue::as_bytes))
            }
            _ => Values::of(&request.headers, name),
        }
    }
}
