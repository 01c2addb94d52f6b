//! What a handshake with a client came to.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::{ProtocolVersion, ServerConnection};
use rustls_pki_types::CertificateDer;

use super::names::Names;

/// One TLS connection of a client, for as long as it is open.
#[derive(Debug)]
pub struct Session {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// What ALPN chose.
    pub protocol: Option<Vec<u8>>,
    pub peer: Option<PeerCertificate>,
    /// URIs in our own certificate. Only looked for where the client has shown one.
    pub local_uris: Vec<String>,
}

/// A client's certificate. It has passed whatever its validation context asks for.
#[derive(Debug)]
pub struct PeerCertificate {
    pub names: Names,
    /// SHA-256, hexadecimal digits.
    pub hash: String,
    /// Somebody who is trusted has vouched for it, or it is pinned.
    pub validated: bool,
    chain: Vec<CertificateDer<'static>>,
}

impl Session {
    pub(super) fn of(
        connection: &ServerConnection,
        validated: impl FnOnce(&[CertificateDer<'_>]) -> bool,
        local_uris: impl FnOnce() -> Vec<String>,
    ) -> Self {
        let shown = connection
            .peer_certificates()
            .filter(|chain| !chain.is_empty());
        let peer = shown.map(|chain| {
            let validated = validated(chain);
            let chain = chain.iter().map(|cert| cert.clone().into_owned());
            PeerCertificate::new(chain.collect(), validated)
        });
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
            local_uris: peer.as_ref().map_or_else(Vec::new, |_| local_uris()),
            peer,
        }
    }
}

impl PeerCertificate {
    /// `chain` is not empty, and begins with the client's own certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, validated: bool) -> Self {
        let own: &[u8] = chain.first().map_or(&[], |own| own);
        Self {
            names: Names::of(own),
            hash: hexadecimal(digest(&SHA256, own).as_ref()),
            validated,
            chain,
        }
    }

    /// The certificate as PEM, for a header: every byte that may mean something there is encoded.
    pub fn encoded(&self) -> String {
        encoded(&self.chain[..self.chain.len().min(1)])
    }

    /// As [`Self::encoded`], with all that the client has sent.
    pub fn encoded_chain(&self) -> String {
        encoded(&self.chain)
    }
}

fn encoded(chain: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for cert in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(cert).as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    let mut encoded = String::with_capacity(text.len() * 5 / 4);
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
