//! TLS contexts and secrets.

mod common;
mod decode;
mod source;
mod validation;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::config_source::ConfigSource;
use super::matcher::StringMatcher;

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
    pub validation: Validation,
    /// The name of a [`Secret`] with a validation to be put over that one
    /// (`validation_context_sds_secret_config`, alone or in a `combined_validation_context`).
    pub validation_secret: Option<SecretRef>,
    pub client_certificate: Option<CertificateRef>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

/// How the server's certificate is checked
/// (`envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// `None`: it is not checked (as Envoy without a validation context).
    pub trusted_ca: Option<DataSource>,
    /// One of them must match a name in the certificate (`match_typed_subject_alt_names`); if
    /// there are none, the certificate must be for the server that is connected to.
    pub subject_names: Vec<SubjectName>,
}

/// `SubjectAltNameMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectName {
    pub kind: SubjectNameKind,
    pub matcher: StringMatcher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectNameKind {
    Dns,
    Uri,
    /// With an exact matcher that holds an address.
    Ip,
}

/// A [`Secret`] by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    pub name: String,
    /// `None` means a static secret.
    pub source: Option<ConfigSource>,
}

impl Validation {
    /// This validation with another one over it, as Envoy merges the two of a
    /// `combined_validation_context`: what the other one has counts, and lists are joined.
    #[must_use]
    pub fn merged(mut self, over: &Self) -> Self {
        if over.trusted_ca.is_some() {
            self.trusted_ca.clone_from(&over.trusted_ca);
        }
        self.subject_names.extend_from_slice(&over.subject_names);
        self
    }
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
    Validation(Validation),
}

#[cfg(test)]
mod tests;
