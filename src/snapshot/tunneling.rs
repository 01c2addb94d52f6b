//! The requests that open tunnels to endpoints (`TcpProxy.tunneling_config`).

use causeway_xds::resource::listener::{self as model, RequestId};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Request};

use crate::filter::StreamState;
use crate::formatter::{Facts, Template};
use crate::route::edits::Level;

/// Where the number of a tunnel is left.
const NAMESPACE: &str = "envoy.filters.network.tcp_proxy";

/// Compiled.
#[derive(Debug)]
pub struct Tunneling {
    hostname: Template,
    headers: Level,
    request_id: Option<(HeaderName, String)>,
}

impl Tunneling {
    pub fn compile(model: &model::Tunneling) -> Self {
        let request_id = model.request_id.as_ref().and_then(|place| {
            let RequestId {
                header,
                metadata_key,
            } = place;
            Some((header.parse().ok()?, metadata_key.clone()))
        });
        Self {
            hostname: Template::compile(&model.hostname, "-"),
            headers: Level::compile(&model.headers, &[]),
            request_id,
        }
    }

    /// The head of a request, in the form of HTTP/1. Leaves the tunnel's number in `state`.
    ///
    /// # Errors
    /// What the format of the host came to, which is no authority.
    pub fn request(&self, facts: &dyn Facts, state: &StreamState) -> Result<Parts, String> {
        let host = self.hostname.render(facts);
        let wrong = || String::from_utf8_lossy(&host).into_owned();
        let authority = Authority::try_from(&*host).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(&host).map_err(|_| wrong())?;
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::CONNECT;
        let mut uri = http::uri::Parts::default();
        uri.authority = Some(authority);
        head.uri = uri.try_into().map_err(|_| wrong())?;
        if let Some((header, key)) = &self.request_id {
            let random = fastrand::u128(..).to_ne_bytes();
            let id = uuid::Builder::from_random_bytes(random).into_uuid();
            let text = id.to_string();
            if let Ok(value) = HeaderValue::from_str(&text) {
                head.headers.insert(header, value);
            }
            state.set_metadata(NAMESPACE, key, MetadataValue::Text(text));
        }
        if !self.headers.apply_plain(&mut head.headers) {
            let changes = self.headers.evaluate(&head.headers, facts);
            changes.apply(&mut head.headers);
        }
        // Last: nothing that is added says where to.
        head.headers.insert(HOST, value);
        Ok(head)
    }
}
