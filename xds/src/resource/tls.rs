//! TLS contexts and secrets.

mod common;
mod decode;
mod parameters;
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
    /// A response of OCSP, DER, handed to clients as it is (RFC 6066 section 8).
    pub ocsp_staple: Option<DataSource>,
    /// The files are read again when something changes here.
    pub watched_directory: Option<PathBuf>,
}

impl TlsCertificate {
    /// A chain and its key, and nothing else.
    pub fn new(chain: DataSource, key: DataSource) -> Self {
        Self {
            chain,
            key,
            ocsp_staple: None,
            watched_directory: None,
        }
    }
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
    /// Certificates that the program gets by itself, in place of any others
    /// (`custom_tls_certificate_selector` with `causeway.v1.AutomaticCertificates`).
    pub automatic: bool,
    /// In order of preference; empty offers nothing.
    pub alpn: Vec<String>,
    pub parameters: TlsParameters,
    /// How certificates of clients are checked. When it asks for nothing, clients are asked for
    /// one only if one is required, and then any will do.
    pub validation: Validation,
    /// As [`UpstreamTls::validation_secret`].
    pub validation_secret: Option<SecretRef>,
    /// Default false: a client may do without a certificate.
    pub require_client_certificate: bool,
    /// Default false: a client may do without naming a server.
    pub require_sni: bool,
    /// Default true (`disable_stateless_session_resumption`).
    pub stateless_resumption: bool,
    /// What tickets are made with (`session_ticket_keys`, `session_ticket_keys_sds_secret_config`).
    /// `None`: keys of our own, which nobody else has.
    pub ticket_keys: Option<TicketKeysRef>,
    /// Default true (`disable_stateful_session_resumption`).
    pub stateful_resumption: bool,
    /// From accept until the handshake is done (`transport_socket_connect_timeout`).
    pub handshake_timeout: Option<Duration>,
}

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Server name to send; empty sends none.
    pub sni: String,
    /// The name of the endpoint goes before it, where it has one (`auto_host_sni`).
    pub host_sni: bool,
    /// The certificate has to be for the name that is sent, whatever names the validation asks for
    /// (`auto_sni_san_validation`).
    pub sni_validation: bool,
    pub alpn: Vec<String>,
    pub validation: Validation,
    /// The name of a [`Secret`] with a validation to be put over that one
    /// (`validation_context_sds_secret_config`, alone or in a `combined_validation_context`).
    pub validation_secret: Option<SecretRef>,
    pub client_certificate: Option<CertificateRef>,
    pub parameters: TlsParameters,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsParameters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsParameters {
    /// Default 1.2.
    pub min_version: TlsVersion,
    /// Default 1.3, also for clients, where Envoy's is 1.2.
    pub max_version: TlsVersion,
    /// Of TLS 1.2 only; empty: all there are.
    pub cipher_suites: Vec<CipherSuite>,
    /// In order of preference; empty: all there are.
    pub curves: Vec<Curve>,
}

impl Default for TlsParameters {
    fn default() -> Self {
        Self {
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
            curves: Vec::new(),
        }
    }
}

/// The suites of TLS 1.2 that are spoken: each with forward secrecy and authenticated encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheRsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheRsaAes256Gcm,
    EcdheEcdsaChaCha20,
    EcdheRsaChaCha20,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    X25519,
    P256,
    P384,
    X25519MlKem768,
}

/// How the other side's certificate is checked
/// (`envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// `None`: it is not checked (as Envoy without a validation context).
    pub trusted_ca: Option<DataSource>,
    /// The authorities of the system, where there is no `trusted_ca` (`system_root_certs`).
    pub system_roots: bool,
    /// The files are read again when something changes here.
    pub watched_directory: Option<PathBuf>,
    /// Authorities by SPIFFE trust domain, which then count instead of `trusted_ca`
    /// (`custom_validator_config`).
    pub trust_domains: Vec<TrustDomain>,
    /// One of them must match a name in the certificate (`match_typed_subject_alt_names`, or
    /// `match_subject_alt_names` for every kind of name). If there are none and nothing is pinned,
    /// the certificate of a server must be for the name that it is called by, if any.
    pub subject_names: Vec<SubjectName>,
    /// SHA-256 of whole certificates, of which the other side's must be one; or its key one of
    /// `key_hashes` (`verify_certificate_hash`).
    pub certificate_hashes: Vec<Sha256>,
    /// SHA-256 of public keys (`verify_certificate_spki`).
    pub key_hashes: Vec<Sha256>,
    /// PEM (`crl`).
    pub revoked: Option<DataSource>,
    /// Only the other side's own certificate is looked for in `revoked`.
    pub revoked_leaf_only: bool,
    /// Certificates that have expired are taken as on their last day (`allow_expired_certificate`).
    pub allow_expired: bool,
    /// How many authorities there may be above the other side's certificate, the trusted one
    /// included (`max_verify_depth`). `None`: as many as the library follows.
    pub max_depth: Option<u32>,
    /// A certificate that nobody vouches for is taken too
    /// (`trust_chain_verification: ACCEPT_UNTRUSTED`).
    pub accept_untrusted: bool,
    /// Clients are not told whose certificates are trusted.
    pub suppress_client_ca_list: bool,
}

pub type Sha256 = [u8; 32];

/// `SPIFFECertValidatorConfig.TrustDomain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain {
    /// Without `spiffe://`.
    pub name: String,
    pub bundle: DataSource,
}

/// `SubjectAltNameMatcher`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectName {
    pub kind: SubjectNameKind,
    /// Of an [`SubjectNameKind::Other`], what it is, as numbers with dots; empty for the rest.
    pub oid: String,
    pub matcher: StringMatcher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectNameKind {
    Dns,
    Uri,
    Email,
    /// A text under an object identifier (`OTHER_NAME`).
    Other,
    /// With an exact matcher that holds an address.
    Ip,
}

/// `TlsSessionTicketKeys` in place, or the name of a [`Secret`] with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketKeysRef {
    Inline(Vec<DataSource>),
    Secret(SecretRef),
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
        self.system_roots |= over.system_roots;
        if !over.trust_domains.is_empty() {
            self.trust_domains.clone_from(&over.trust_domains);
        }
        self.subject_names.extend_from_slice(&over.subject_names);
        self.certificate_hashes
            .extend_from_slice(&over.certificate_hashes);
        self.key_hashes.extend_from_slice(&over.key_hashes);
        if over.revoked.is_some() {
            self.revoked.clone_from(&over.revoked);
        }
        self.revoked_leaf_only |= over.revoked_leaf_only;
        self.allow_expired |= over.allow_expired;
        self.max_depth = over.max_depth.or(self.max_depth);
        self.accept_untrusted |= over.accept_untrusted;
        self.suppress_client_ca_list |= over.suppress_client_ca_list;
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
    /// Whatever a filter needs (`GenericSecret`).
    Generic(DataSource),
    /// Of 80 bytes each. The first makes tickets.
    TicketKeys(Vec<DataSource>),
}

#[cfg(test)]
mod tests;
