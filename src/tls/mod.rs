//! TLS: one provider, server and client configurations.
//!
//! Configurations are built when a snapshot is compiled; a certificate that cannot be used is then
//! a rejection with a reason, not a failed handshake later.

pub mod automatic;
mod client;
mod names;
pub mod server;
mod session;
mod subject;
mod tickets;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use causeway_xds::resource::tls::{
    CipherSuite, Curve, DataSource, SecretRef, SecretValue, TlsParameters, TlsVersion, Validation,
};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use automatic::Automatic;
pub use client::{ClientTls, PerRequest};
pub use names::Names;
pub use server::{ServerTls, certificate};
pub use session::{PeerCertificate, Session};

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

fn versions(parameters: &TlsParameters) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if parameters.max_version >= TlsVersion::V1_3 {
        versions.push(&rustls::version::TLS13);
    }
    if parameters.min_version <= TlsVersion::V1_2 {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

/// The provider with what the parameters leave of it. They are silent about suites of TLS 1.3.
fn provider_for(parameters: &TlsParameters) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if !parameters.cipher_suites.is_empty() {
        let wanted = parameters.cipher_suites.iter().map(|suite| match suite {
            CipherSuite::EcdheEcdsaAes128Gcm => {
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            }
            CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::EcdheEcdsaAes256Gcm => {
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            }
            CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::EcdheEcdsaChaCha20 => {
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            }
            CipherSuite::EcdheRsaChaCha20 => {
                cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            }
        });
        let wanted: Vec<_> = wanted.collect();
        let suites = &mut provider.cipher_suites;
        suites.retain(|suite| suite.tls13().is_some());
        suites.extend(wanted);
    }
    if !parameters.curves.is_empty() {
        let groups = parameters.curves.iter().map(|curve| match curve {
            Curve::X25519 => kx_group::X25519,
            Curve::P256 => kx_group::SECP256R1,
            Curve::P384 => kx_group::SECP384R1,
            Curve::X25519MlKem768 => kx_group::X25519MLKEM768,
        });
        provider.kx_groups = groups.collect();
    }
    Arc::new(provider)
}

fn authorities(source: &DataSource) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let pem = |reason: String| TlsError::Pem {
        what: "trusted_ca",
        reason,
    };
    for cert in CertificateDer::pem_slice_iter(&read(source)?) {
        let cert = cert.map_err(|e| pem(e.to_string()))?;
        roots.add(cert).map_err(config)?;
    }
    // With none at all every handshake would fail, and say only that.
    match roots.is_empty() {
        true => Err(pem("holds no PEM certificate".to_owned())),
        false => Ok(roots),
    }
}

fn config(error: rustls::Error) -> TlsError {
    TlsError::Config(error.to_string())
}

/// A validation with the one of a secret over it, if there is such a secret to be.
fn validation(
    own: &Validation,
    reference: Option<&SecretRef>,
    secret: &dyn Fn(&str) -> Option<SecretValue>,
) -> Result<Validation, TlsError> {
    let Some(reference) = reference else {
        return Ok(own.clone());
    };
    match secret(&reference.name) {
        Some(SecretValue::Validation(over)) => Ok(own.clone().merged(&over)),
        _ => Err(TlsError::MissingSecret(reference.name.clone())),
    }
}

fn protocols(alpn: &[String]) -> Vec<Vec<u8>> {
    alpn.iter().map(|p| p.clone().into_bytes()).collect()
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}
