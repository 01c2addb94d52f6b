//! Fields of heads, as HTTP/2 has them.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};

/// What a head says of the length of its body; the codec has seen to it that it says one thing.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes out what describes a connection, which has no place in HTTP/2 (RFC 9113 section 8.2.2).
/// `seen` is called with each name that was there.
pub fn strip(headers: &mut HeaderMap, mut seen: impl FnMut(&HeaderName)) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    // In one pass: hardly any head has one of them, and each lookup hashes a name.
    let mut of_connection = false;
    for name in headers.keys() {
        seen(name);
        match name.as_str().len() {
            2 => of_connection |= name == TE,
            7 => of_connection |= name == UPGRADE,
            10 => of_connection |= name == CONNECTION || name == KEEP_ALIVE,
            16 => of_connection |= name == PROXY_CONNECTION,
            17 => of_connection |= name == TRANSFER_ENCODING,
            _ => {}
        }
    }
    if !of_connection {
        return;
    }
    for name in [
        UPGRADE,
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    // All that a request may say of it.
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_describes_a_connection_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "te",
            "date",
        ] {
            headers.insert(name, HeaderValue::from_static("trailers"));
        }
        let mut dated = false;
        strip(&mut headers, |name| dated |= name == "date");
        assert!(dated);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["date", "te"]);
        headers.insert(TE, HeaderValue::from_static("gzip"));
        strip(&mut headers, |_| ());
        assert!(!headers.contains_key(TE));
    }
}
