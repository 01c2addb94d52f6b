//! TLS contexts and secrets.

mod common;
mod decode;
mod source;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::config_source::ConfigSource;

/// Bytes given in place or in a file (`envoy.config.core.v3.DataSource`). Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    Inline(Vec<u8>),
    File(PathBuf),
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("[redacted]"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    pub chain: DataSource,
    pub key: DataSource,
}

/// A certificate in place, or the name of a [`Secret`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateRef {
    Inline(TlsCertificate),
    /// `tls_certificate_sds_secret_configs`; no source means a static secret.
    Secret {
        name: String,
        source: Option<ConfigSource>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    pub certificates: Vec<CertificateRef>,
    /// In order of preference; empty offers nothing.
    pub alpn: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// From accept until the handshake is done (`transport_socket_connect_timeout`).
    pub handshake_timeout: Option<Duration>,
}

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Server name to send; empty sends none.
    pub sni: String,
    pub alpn: Vec<String>,
    /// `None`: the server's certificate is not checked (as Envoy without a validation context).
    pub trusted_ca: Option<DataSource>,
    pub client_certificate: Option<CertificateRef>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub name: String,
    pub value: SecretValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretValue {
    Certificate(TlsCertificate),
}

#[cfg(test)]
mod tests;
