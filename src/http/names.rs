//! Which of the fields that need a look a request head has.

use http::header::HeaderMap;

/// Found in one pass over the names: most heads have few of these fields, and each separate
/// lookup would hash a name. A field that is set here may be gone by the time it is looked at
/// (`Connection` can name it); one that is not set is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names {
    /// `x-forwarded-client-cert`.
    pub client_cert: bool,
    pub connection: bool,
    pub content_length: bool,
    pub cookie: bool,
    pub expect: bool,
    pub forwarded_for: bool,
    pub forwarded_proto: bool,
    /// Fixed fields that describe a connection, not a message (RFC 9110 section 7.6.1).
    pub hop_by_hop: bool,
    /// `x-envoy-*`.
    pub internal: bool,
    pub request_id: bool,
    pub te: bool,
    pub transfer_encoding: bool,
    pub upgrade: bool,
}

/// The fixed fields of [`Names::hop_by_hop`].
pub const HOP_BY_HOP: [&str; 4] = [
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
];

impl Names {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            match name.len() {
                2 => found.te |= name == "te",
                6 => {
                    found.cookie |= name == "cookie";
                    found.expect |= name == "expect";
                }
                7 => found.upgrade |= name == "upgrade",
                10 => {
                    found.connection |= name == "connection";
                    found.hop_by_hop |= name == "keep-alive";
                }
                12 => found.request_id |= name == "x-request-id",
                14 => found.content_length |= name == "content-length",
                15 => found.forwarded_for |= name == "x-forwarded-for",
                16 | 18 | 19 => found.hop_by_hop |= HOP_BY_HOP.contains(&name),
                17 => {
                    found.transfer_encoding |= name == "transfer-encoding";
                    found.forwarded_proto |= name == "x-forwarded-proto";
                }
                23 => found.client_cert |= name == "x-forwarded-client-cert",
                _ => {}
            }
            found.internal |= name.as_bytes()[0] == b'x' && name.starts_with("x-envoy-");
        }
        found
    }
}
