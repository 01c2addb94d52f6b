//! `x-forwarded-client-cert`: telling the upstream whose certificate a request came with.

use std::fmt::Write;

use causeway_xds::resource::http_manager::{CertDetails, ClientCert};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::names::Names;
use crate::tls::{PeerCertificate, Session};

pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Does with the field what the connection manager says. Unless it says otherwise, nobody but a
/// client with a certificate of its own can send one.
pub fn apply(headers: &mut HeaderMap, names: Names, rules: &ClientCert, session: Option<&Session>) {
    let peer = session.and_then(|session| Some((session, session.peer.as_ref()?)));
    match (rules, peer) {
        (ClientCert::AlwaysForwardOnly, _) | (ClientCert::ForwardOnly, Some(_)) => {}
        (ClientCert::SanitizeSet(details), Some((session, peer))) => {
            set(headers, describe(details, session, peer));
        }
        (ClientCert::AppendForward(details), Some((session, peer))) => {
            let mut joined = Vec::new();
            for sent in headers.get_all(&X_FORWARDED_CLIENT_CERT) {
                joined.extend_from_slice(sent.as_bytes());
                joined.push(b',');
            }
            joined.extend_from_slice(describe(details, session, peer).as_bytes());
            set(headers, joined);
        }
        (ClientCert::Sanitize, _)
        | (
            ClientCert::ForwardOnly | ClientCert::AppendForward(_) | ClientCert::SanitizeSet(_),
            None,
        ) => {
            if names.client_cert {
                headers.remove(&X_FORWARDED_CLIENT_CERT);
            }
        }
    }
}

fn set(headers: &mut HeaderMap, value: impl Into<Vec<u8>>) {
    // A name with bytes that no header can hold would be a name that somebody chose to be
    // misunderstood: then nothing is told.
    match HeaderValue::try_from(value.into()) {
        Ok(value) => drop(headers.insert(X_FORWARDED_CLIENT_CERT, value)),
        Err(_) => drop(headers.remove(&X_FORWARDED_CLIENT_CERT)),
    }
}

/// The elements in Envoy's order, as it writes them: no quotes but where it has them.
fn describe(details: &CertDetails, session: &Session, peer: &PeerCertificate) -> String {
    let mut text = String::new();
    let mut add = |key: &str, value: &str, quote: &str| {
        let separator = if text.is_empty() { "" } else { ";" };
        // Writing to a string cannot fail.
        write!(text, "{separator}{key}={quote}{value}{quote}").ok();
    };
    for uri in &session.local_uris {
        add("By", uri, "");
    }
    add("Hash", &peer.hash, "");
    if details.cert {
        add("Cert", &peer.encoded(), "\"");
    }
    if details.chain {
        add("Chain", &peer.encoded_chain(), "\"");
    }
    if details.subject {
        add("Subject", &peer.names.subject, "\"");
    }
    if details.uri {
        match &peer.names.uris[..] {
            [] => add("URI", "", ""),
            uris => uris.iter().for_each(|uri| add("URI", uri, "")),
        }
    }
    if details.dns {
        for name in &peer.names.dns {
            add("DNS", name, "");
        }
    }
    text
}

#[cfg(test)]
mod tests;
