//! The requests that open tunnels to endpoints (`TcpProxy.tunneling_config`).

use causeway_xds::resource::listener::{self as model, RequestId};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, StatusCode};

use crate::filter::StreamState;
use crate::formatter::{Facts, Template};
use crate::route::edits::Level;

/// Where the head of an endpoint's answer is left in the filter state, and its trailers.
pub const RESPONSE_HEADERS: &str = "envoy.tcp_proxy.propagate_response_headers";
pub const RESPONSE_TRAILERS: &str = "envoy.tcp_proxy.propagate_response_trailers";

/// Where the number of a tunnel is left.
const NAMESPACE: &str = "envoy.filters.network.tcp_proxy";

/// Compiled.
#[derive(Debug)]
pub struct Tunneling {
    hostname: Template,
    /// Of a POST; `None` for a CONNECT.
    post_path: Option<PathAndQuery>,
    pub keeps_headers: bool,
    pub keeps_trailers: bool,
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
            // Checked when the resource was decoded; the root is a path in any case.
            post_path: model.post_path.as_ref().map(|path| {
                let path = path.parse();
                path.unwrap_or_else(|_| PathAndQuery::from_static("/"))
            }),
            keeps_headers: model.keeps_headers,
            keeps_trailers: model.keeps_trailers,
            headers: Level::compile(&model.headers, &[]),
            request_id,
        }
    }

    /// The bytes are the bodies of a POST and of its answer.
    pub fn is_post(&self) -> bool {
        self.post_path.is_some()
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
        let mut uri = http::uri::Parts::default();
        match &self.post_path {
            Some(path) => {
                head.method = Method::POST;
                uri.path_and_query = Some(path.clone());
            }
            None => {
                head.method = Method::CONNECT;
                uri.authority = Some(authority);
            }
        }
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

/// The fields of a message as they are left in the filter state, in the form of
/// `envoy.config.core.v3.HeaderMap`.
pub fn fields(status: Option<StatusCode>, fields: &HeaderMap) -> MetadataValue {
    let field = |key: &str, value: &[u8]| {
        let text = String::from_utf8_lossy(value).into_owned();
        MetadataValue::Object(vec![
            ("key".to_owned(), MetadataValue::Text(key.to_owned())),
            ("value".to_owned(), MetadataValue::Text(text)),
        ])
    };
    let status = status.map(|status| field(":status", status.as_str().as_bytes()));
    let others = fields
        .iter()
        .map(|(name, value)| field(name.as_str(), value.as_bytes()));
    let all = status.into_iter().chain(others).collect();
    MetadataValue::Object(vec![("headers".to_owned(), MetadataValue::List(all))])
}
