//! TLS: one provider, server and client configurations.
//!
//! Configurations are built when a snapshot is compiled; a certificate that cannot be used is then
//! a rejection with a reason, not a failed handshake later.

mod client;
pub mod server;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use causeway_xds::resource::tls::{DataSource, TlsVersion};
use rustls::crypto::CryptoProvider;

pub use client::ClientTls;
pub use server::{ServerTls, certificate};

/// Why a TLS configuration cannot be used. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{what}: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("secret \"{0}\" is not known")]
    MissingSecret(String),
    #[error("{0}")]
    Config(String),
}

/// The one provider of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes the provider the default for libraries that ask for one. Safe to call again.
pub fn install_provider() {
    // An error says that it is installed already, which is what we want.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}

fn read(source: &DataSource) -> Result<Vec<u8>, TlsError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.clone()),
        DataSource::File(path) => std::fs::read(path).map_err(|source| TlsError::File {
            path: path.clone(),
            source,
        }),
    }
}

fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if max >= TlsVersion::V1_3 {
        versions.push(&rustls::version::TLS13);
    }
    if min <= TlsVersion::V1_2 {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

fn protocols(alpn: &[String]) -> Vec<Vec<u8>> {
    alpn.iter().map(|p| p.clone().into_bytes()).collect()
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}
