//! Checking a server's certificate by its issuer and by lists of names.

use std::sync::Arc;

use causeway_xds::resource::matcher::{StringMatcher, StringPattern, full_match};
use causeway_xds::resource::tls::{SubjectName, SubjectNameKind};
use regex::Regex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::TlsError;

/// Takes a certificate of a trusted issuer that has one of the names, whatever server was called.
#[derive(Debug)]
pub(super) struct BySubject {
    pub(super) roots: RootCertStore,
    pub(super) names: Vec<Subject>,
    pub(super) provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
pub(super) enum Subject {
    /// A name without a pattern: wildcards of the certificate count, as they do for servers.
    Server(ServerName<'static>),
    Dns(Text),
    Uri(Text),
}

/// A compiled [`StringMatcher`].
#[derive(Debug)]
pub(super) enum Text {
    Pattern(StringMatcher),
    Regex(Regex),
}

impl Subject {
    pub(super) fn compile(model: &SubjectName) -> Result<Self, TlsError> {
        let wrong = |e: &dyn std::fmt::Display| TlsError::Config(format!("subject name: {e}"));
        let text = || match &model.matcher.pattern {
            StringPattern::Regex(pattern) => {
                full_match(pattern).map(Text::Regex).map_err(|e| wrong(&e))
            }
            _ => Ok(Text::Pattern(model.matcher.clone())),
        };
        match (model.kind, &model.matcher.pattern) {
            (SubjectNameKind::Uri, _) => text().map(Self::Uri),
            (SubjectNameKind::Dns | SubjectNameKind::Ip, StringPattern::Exact(name)) => {
                let name = ServerName::try_from(name.to_owned()).map_err(|e| wrong(&e))?;
                Ok(Self::Server(name))
            }
            (SubjectNameKind::Dns, _) => text().map(Self::Dns),
            (SubjectNameKind::Ip, _) => Err(wrong(&"an address has no pattern")),
        }
    }

    fn is_in(&self, parsed: &ParsedCertificate<'_>, cert: &webpki::EndEntityCert<'_>) -> bool {
        match self {
            Self::Server(name) => rustls::client::verify_server_name(parsed, name).is_ok(),
            Self::Dns(text) => cert.valid_dns_names().any(|name| text.matches(name)),
            Self::Uri(text) => cert.valid_uri_names().any(|name| text.matches(name)),
        }
    }
}

impl Text {
    fn matches(&self, name: &str) -> bool {
        let StringMatcher {
            pattern,
            ignore_case,
        } = match self {
            Self::Regex(regex) => return regex.is_match(name),
            Self::Pattern(matcher) => matcher,
        };
        let fold = |text: &str| match ignore_case {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        };
        let name = fold(name);
        match pattern {
            StringPattern::Exact(text) => name == fold(text),
            StringPattern::Prefix(text) => name.starts_with(&fold(text)),
            StringPattern::Suffix(text) => name.ends_with(&fold(text)),
            StringPattern::Contains(text) => name.contains(&fold(text)),
            // Compiled above.
            StringPattern::Regex(_) => false,
        }
    }
}

impl ServerCertVerifier for BySubject {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let cert = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.names.iter().any(|name| name.is_in(&parsed, &cert)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
