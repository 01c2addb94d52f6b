//! Fields that are about one connection (RFC 9110 section 7.6.1).

use http::Version;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;

use super::UpgradeRequest;
use crate::error::Failure;
use crate::http::names::{HOP_BY_HOP, Names};

/// Removes what describes this connection (RFC 9110 section 7.6.1), and tells what upgrade was
/// asked for. `TE: trailers` survives, because gRPC servers require it.
pub(super) fn hop_by_hop(
    parts: &mut Parts,
    names: Names,
) -> Result<Option<UpgradeRequest>, Failure> {
    let headers = &mut parts.headers;
    let mut wants_upgrade = false;
    if names.connection {
        let named = connection_options(headers)?;
        for option in &named {
            wants_upgrade |= option == UPGRADE;
            if option != TE && option != UPGRADE {
                headers.remove(option);
            }
        }
        headers.remove(CONNECTION);
    }
    if names.hop_by_hop {
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
    }
    if names.te {
        let trailers = headers.get_all(TE).iter().any(|v| {
            v.to_str().is_ok_and(|v| {
                v.split(',')
                    .any(|t| t.trim().eq_ignore_ascii_case("trailers"))
            })
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if names.expect
        && headers
            .get(EXPECT)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        // Answered by us, when the body is first asked for.
        headers.remove(EXPECT);
    }
    let protocol = if names.upgrade {
        headers.remove(UPGRADE)
    } else {
        None
    };
    let asked = wants_upgrade && parts.version == Version::HTTP_11;
    Ok(protocol.filter(|_| asked).map(|protocol| UpgradeRequest {
        protocol,
        connect: false,
        extended: false,
        key: headers.get(SEC_WEBSOCKET_KEY).cloned(),
    }))
}

/// The fields of an upgrade (RFC 9110 section 7.8), as they go on.
pub fn say_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Of a request that gets no upgrade.
pub fn unsay_upgrade(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
}

/// The fields named by `Connection`.
///
/// # Errors
/// It names a field that the message depends on: dropping it would let a client change what the
/// origin sees, a known smuggling trick.
fn connection_options(headers: &HeaderMap) -> Result<Vec<HeaderName>, Failure> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        // Nearly all messages that have the field say just this.
        let alone = value.as_bytes();
        if alone.eq_ignore_ascii_case(b"keep-alive") || alone.eq_ignore_ascii_case(b"close") {
            continue;
        }
        let text = value
            .to_str()
            .map_err(|_| Failure::bad_request("connection_invalid"))?;
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            if option.eq_ignore_ascii_case("close") || option.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            let name: HeaderName = option
                .parse()
                .map_err(|_| Failure::bad_request("connection_invalid"))?;
            if name == HOST || name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                return Err(Failure::bad_request("connection_names_framing_field"));
            }
            named.push(name);
        }
    }
    Ok(named)
}

/// Both `Content-Length` and `Transfer-Encoding`: which of the two counts is where response
/// splitting begins (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the response has both Content-Length and Transfer-Encoding")]
pub struct TwoFramings;

/// Removes connection fields from a response. Framing is decided anew for the client.
///
/// # Errors
/// [`TwoFramings`]
pub fn strip_response(headers: &mut HeaderMap) -> Result<(), TwoFramings> {
    let (mut connection, mut fixed, mut length, mut coding) = (false, false, false, false);
    for name in headers.keys() {
        let name = name.as_str();
        match name.len() {
            7 => fixed |= name == "upgrade",
            10 => {
                connection |= name == "connection";
                fixed |= name == "keep-alive";
            }
            14 => length |= name == "content-length",
            16 => fixed |= name == "proxy-connection",
            17 => coding |= name == "transfer-encoding",
            _ => {}
        }
    }
    if length && coding {
        return Err(TwoFramings);
    }
    if connection {
        // A response cannot smuggle by naming fields, so an odd list is simply dropped.
        for name in connection_options(headers).unwrap_or_default() {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if fixed {
        headers.remove(UPGRADE);
        headers.remove("keep-alive");
        headers.remove("proxy-connection");
    }
    Ok(())
}
