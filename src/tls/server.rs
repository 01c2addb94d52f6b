//! The server side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::tls::{CertificateRef, DownstreamTls, SecretValue, TlsCertificate};
use rustls::ServerConfig;
use rustls::crypto::KeyProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::{TlsError, protocols, provider, read, versions};

/// How long a handshake may take when the configuration does not say.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a filter chain needs to accept TLS.
#[derive(Clone)]
pub struct ServerTls {
    pub acceptor: TlsAcceptor,
    pub handshake_timeout: Duration,
}

/// The first certificate that the client's hello can use, by name then by order.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let name = rustls_pki_types::ServerName::try_from(name).ok()?;
            self.0.iter().find(|key| {
                key.end_entity_cert()
                    .ok()
                    .and_then(|der| rustls::server::ParsedCertificate::try_from(der).ok())
                    .is_some_and(|cert| rustls::client::verify_server_name(&cert, &name).is_ok())
            })
        });
        named.or_else(|| self.0.first()).cloned()
    }
}

impl ServerTls {
    /// Builds from the model. `secret` finds a certificate by the name of its secret.
    ///
    /// # Errors
    /// A file cannot be read, PEM cannot be parsed, key and certificate do not belong together, or
    /// a secret is not there.
    pub fn build(
        model: &DownstreamTls,
        secret: &dyn Fn(&str) -> Option<SecretValue>,
    ) -> Result<Self, TlsError> {
        let mut keys = Vec::with_capacity(model.certificates.len());
        for reference in &model.certificates {
            keys.push(Arc::new(resolve(reference, secret)?));
        }
        if keys.is_empty() {
            return Err(TlsError::Config("no certificate is configured".into()));
        }
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions(model.min_version, model.max_version))
            .map_err(|e| TlsError::Config(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Certificates(keys)));
        config.alpn_protocols = protocols(&model.alpn);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
            .map_err(|e| TlsError::Config(e.to_string()))?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshake_timeout: model.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT),
        })
    }
}

/// The plain case: one certificate with its key, both in PEM files, HTTP/1.1 only.
///
/// # Errors
/// A file cannot be read or parsed, or key and certificate do not belong together.
pub fn from_files(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |what, e: rustls_pki_types::pem::Error| TlsError::Pem {
        what,
        reason: e.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem("certificate_chain", e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem("private_key", e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Config(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Config(e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(super) fn resolve(
    reference: &CertificateRef,
    secret: &dyn Fn(&str) -> Option<SecretValue>,
) -> Result<CertifiedKey, TlsError> {
    match reference {
        CertificateRef::Inline(inline) => certificate(inline),
        CertificateRef::Secret { name, .. } => match secret(name) {
            Some(SecretValue::Certificate(found)) => certificate(&found),
            _ => Err(TlsError::MissingSecret(name.clone())),
        },
    }
}

/// Reads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// See [`ServerTls::build`].
pub fn certificate(model: &TlsCertificate) -> Result<CertifiedKey, TlsError> {
    let pem = |what, reason: String| TlsError::Pem { what, reason };
    let chain = CertificateDer::pem_slice_iter(&read(&model.chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem("certificate_chain", e.to_string()))?;
    if chain.is_empty() {
        return Err(pem("certificate_chain", "holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&model.key)?)
        .map_err(|e| pem("private_key", e.to_string()))?;
    let loader: &dyn KeyProvider = provider().key_provider;
    let key = loader
        .load_private_key(key)
        .map_err(|e| pem("private_key", e.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(pem("private_key", "does not match the certificate".into())),
    }
}
