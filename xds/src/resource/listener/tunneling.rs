//! TcpProxy.TunnelingConfig: message to typed.

use super::{RequestId, Tunneling};
use crate::proto::tcp_proxy::tcp_proxy::TunnelingConfig;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, fault, not_empty, refuse};
use crate::resource::format::Format;
use crate::resource::headers::{additions, header_name};
use crate::resource::http_manager::check_request_id;

impl Tunneling {
    pub(super) fn decode(message: TunnelingConfig, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            propagate_response_headers,
            post_path,
            propagate_response_trailers,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = message;
        refuse!(formatters);
        let request_id = request_id_extension.map(|extension| {
            check_request_id(extension, ctx).at("request_id_extension")?;
            let given = |text: String, default: &str| match text.is_empty() {
                true => default.to_owned(),
                false => text,
            };
            Ok(RequestId {
                header: header_name(&given(request_id_header, "x-request-id"))
                    .at("request_id_header")?,
                metadata_key: given(request_id_metadata_key, "tunnel_request_id"),
            })
        });
        let hostname = not_empty(hostname, "hostname")?;
        Ok(Self {
            hostname: Format::parse(&hostname).at("hostname")?,
            post_path: path(use_post, post_path).at("post_path")?,
            keeps_headers: propagate_response_headers,
            keeps_trailers: propagate_response_trailers,
            headers: additions(headers_to_add, "headers_to_add")?,
            request_id: request_id.transpose()?,
        })
    }
}

/// The path of a POST, if that is what opens a tunnel.
fn path(use_post: bool, path: String) -> Result<Option<String>, Invalid> {
    match (use_post, path.is_empty()) {
        (false, true) => Ok(None),
        (false, false) => Err(fault("is for POST, which is not used")),
        (true, true) => Ok(Some("/".to_owned())),
        (true, false) => {
            let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            match path.starts_with('/') && plain {
                true => Ok(Some(path)),
                false => Err(fault("is no path")),
            }
        }
    }
}
