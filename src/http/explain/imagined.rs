//! What a request that nobody sent knows of itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_xds::resource::format::{Fact, Holder, Point};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::HOST;
use http::request::Parts;

use crate::formatter::{Facts, Key, Value};
use crate::http::forwarded::X_FORWARDED_PROTO;
use crate::http::request::Observer;
use crate::route::Route;

/// A request before it is forwarded: nothing of an endpoint or an answer.
pub struct Imagined {
    pub client: IpAddr,
    pub route: Option<Arc<Route>>,
    pub cluster: String,
    /// As [`Question::clusters`](super::Question::clusters).
    pub known: Vec<String>,
}

/// With its head.
struct WithHead<'o>(&'o Imagined, &'o Parts);

impl Observer for Imagined {
    fn observe<'o>(&'o self, request: &'o Parts) -> impl Facts + 'o {
        WithHead(self, request)
    }
}

impl Facts for WithHead<'_> {
    fn request(&self, key: &Key) -> Value<'_> {
        let Parts {
            method,
            uri,
            headers,
            ..
        } = self.1;
        match key {
            Key::Method => Value::text(Some(method.as_str())),
            Key::Path => Value::text(uri.path_and_query().map(|path| path.as_str())),
            Key::Authority => Value::header(headers.get(HOST)),
            Key::Scheme => Value::header(headers.get(&X_FORWARDED_PROTO)),
            Key::Status => Value::Missing,
            Key::Field(name) => Value::header(headers.get(name)),
        }
    }

    fn fact(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::Protocol => Value::word("HTTP/1.1"),
            Fact::DownstreamRemoteAddressWithoutPort
            | Fact::DownstreamDirectRemoteAddressWithoutPort => Value::shown(Some(self.0.client)),
            Fact::RouteName => Value::text(self.0.route.as_ref().map(|route| route.name.as_str())),
            Fact::UpstreamCluster | Fact::UpstreamClusterRaw => Value::text(Some(&self.0.cluster)),
            _ => Value::Missing,
        }
    }

    fn start(&self) -> SystemTime {
        SystemTime::now()
    }

    fn point(&self, _: Point) -> Option<Duration> {
        None
    }

    fn metadata(&self, of: Holder, namespace: &str, path: &[String]) -> Option<MetadataValue> {
        match of {
            Holder::Route => {
                let route = self.0.route.as_ref()?;
                route.metadata(namespace)?.get(path).cloned()
            }
            // Nobody is asked.
            Holder::Cluster | Holder::Endpoint => None,
        }
    }
}
