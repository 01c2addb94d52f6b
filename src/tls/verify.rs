//! Checking certificates by what a validation context says of them: their issuer, their names,
//! their hashes. For both directions.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use causeway_xds::resource::tls::{Sha256, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage,
    OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
    VerifiedPath,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::subject::Subject;
use super::{TlsError, authorities, read};

/// What a certificate has to satisfy.
#[derive(Debug)]
pub(super) struct Rules {
    roots: Option<RootCertStore>,
    /// By trust domain. Where there are any, they count instead.
    domains: Vec<(String, RootCertStore)>,
    revoked: Vec<CertRevocationList<'static>>,
    revoked_leaf_only: bool,
    names: Vec<Subject>,
    certificate_hashes: Vec<Sha256>,
    key_hashes: Vec<Sha256>,
    accept_untrusted: bool,
    allow_expired: bool,
    /// Authorities above a certificate, the trusted one included.
    max_depth: Option<usize>,
    provider: Arc<CryptoProvider>,
}

impl Rules {
    /// # Errors
    /// Authorities or revocations cannot be read, or names are asked for and nobody to vouch for
    /// them: they mean nothing in a certificate that anybody may have made.
    pub(super) fn compile(
        model: &Validation,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let names = model.subject_names.iter().map(Subject::compile);
        let names: Vec<_> = names.collect::<Result<_, _>>()?;
        let roots = match &model.trusted_ca {
            Some(given) => Some(authorities(given)?),
            None if model.system_roots => {
                let roots = crate::net::system_roots();
                Some(roots.map_err(|e| TlsError::Config(format!("system_root_certs: {e}")))?)
            }
            None => None,
        };
        let domains = model.trust_domains.iter();
        let domains = domains
            .map(|domain| Ok((domain.name.clone(), authorities(&domain.bundle)?)))
            .collect::<Result<Vec<_>, TlsError>>()?;
        if roots.is_none() && domains.is_empty() && !names.is_empty() {
            let reason = "subject names without trusted_ca".to_owned();
            return Err(TlsError::Config(reason));
        }
        if roots.is_none() && model.revoked.is_some() {
            return Err(TlsError::Config("crl without trusted_ca".to_owned()));
        }
        let mut revoked = Vec::new();
        if let Some(source) = &model.revoked {
            let pem = |reason: String| TlsError::Pem {
                what: "crl",
                reason,
            };
            for list in CertificateRevocationListDer::pem_slice_iter(&read(source)?) {
                let list = list.map_err(|e| pem(e.to_string()))?;
                let list = BorrowedCertRevocationList::from_der(&list)
                    .and_then(|list| list.to_owned())
                    .map_err(|e| pem(e.to_string()))?;
                let list: OwnedCertRevocationList = list;
                revoked.push(list.into());
            }
            if revoked.is_empty() {
                return Err(pem("holds no PEM revocation list".to_owned()));
            }
        }
        Ok(Self {
            roots: roots.filter(|_| domains.is_empty()),
            domains,
            revoked,
            revoked_leaf_only: model.revoked_leaf_only,
            names,
            certificate_hashes: model.certificate_hashes.clone(),
            key_hashes: model.key_hashes.clone(),
            accept_untrusted: model.accept_untrusted,
            allow_expired: model.allow_expired,
            max_depth: model.max_depth.map(|depth| depth as usize),
            provider: Arc::clone(provider),
        })
    }

    /// Nothing is asked of a certificate.
    pub(super) fn is_empty(&self) -> bool {
        !self.trusts() && self.certificate_hashes.is_empty() && self.key_hashes.is_empty()
    }

    /// There are authorities.
    fn trusts(&self) -> bool {
        self.roots.is_some() || !self.domains.is_empty()
    }

    /// Whether somebody knows whose certificate this is, which has satisfied them.
    fn vouch_for(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let pinned = !self.certificate_hashes.is_empty() || !self.key_hashes.is_empty();
        if pinned || !self.trusts() || !self.accept_untrusted {
            return pinned || self.trusts();
        }
        // Let in whatever its chain says, so that this has to be looked at once more.
        let Some((first, others)) = chain.split_first() else {
            return false;
        };
        EndEntityCert::try_from(first).is_ok_and(|cert| {
            let usage = KeyUsage::client_auth();
            let checked = |roots| self.check_chain(&cert, roots, others, usage, now).is_ok();
            matches!(self.roots_for(&cert, first), Ok(Some(roots)) if checked(roots))
        })
    }

    /// They say whose the certificate has to be, or that it does not matter.
    pub(super) fn tell_whose(&self) -> bool {
        let pinned = !self.certificate_hashes.is_empty() || !self.key_hashes.is_empty();
        // The names of SPIFFE are not those that a server is called by.
        let whose = pinned || !self.names.is_empty() || !self.domains.is_empty();
        whose || self.accept_untrusted
    }

    /// The authorities, where the issuer is all that is asked for.
    pub(super) fn only_issuer(&self) -> Option<&RootCertStore> {
        let more = !self.revoked.is_empty()
            || !self.names.is_empty()
            || !self.certificate_hashes.is_empty()
            || !self.key_hashes.is_empty()
            || !self.domains.is_empty()
            || self.allow_expired
            || self.max_depth.is_some()
            || self.accept_untrusted;
        self.roots.as_ref().filter(|_| !more)
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let cert = EndEntityCert::try_from(end_entity).map_err(told)?;
        if let Some(roots) = self.roots_for(&cert, end_entity)?
            && let Err(error) = self.check_chain(&cert, roots, intermediates, usage, now)
            && !self.accept_untrusted
        {
            return Err(told(error));
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if !self.names.is_empty()
            && !self
                .names
                .iter()
                .any(|n| n.is_in(&parsed, &cert, end_entity))
        {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        if self.is_pinned(&cert, end_entity) {
            return Ok(());
        }
        Err(Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    /// Who vouches for a certificate, if anybody has to.
    fn roots_for(
        &self,
        cert: &EndEntityCert<'_>,
        der: &CertificateDer<'_>,
    ) -> Result<Option<&RootCertStore>, Error> {
        match self.domains.is_empty() {
            true => Ok(self.roots.as_ref()),
            false => self.domain_of(cert, der).map(Some),
        }
    }

    /// Who vouches for the trust domain of a certificate (SPIFFE X.509-SVID, sections 2 and 5).
    fn domain_of(
        &self,
        cert: &EndEntityCert<'_>,
        der: &CertificateDer<'_>,
    ) -> Result<&RootCertStore, Error> {
        let refused = || Error::InvalidCertificate(CertificateError::NotValidForName);
        let mut uris = cert.valid_uri_names();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(refused());
        };
        let domain = uri.strip_prefix("spiffe://").ok_or_else(refused)?;
        let domain = domain.split('/').next().unwrap_or_default();
        if signs_certificates(der) {
            return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
        }
        let found = self.domains.iter().find(|(name, _)| name == domain);
        found.map(|(_, roots)| roots).ok_or_else(refused)
    }

    fn check_chain(
        &self,
        cert: &EndEntityCert<'_>,
        roots: &RootCertStore,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let mut now = now;
        for _ in 0..MOST_EXPIRED {
            match self.check_chain_at(cert, roots, intermediates, usage, now) {
                // As if it were asked on the last day of the certificate. Another one of the chain
                // may have ended before that.
                Err(webpki::Error::CertExpired { not_after, .. })
                    if self.allow_expired && not_after < now =>
                {
                    now = not_after;
                }
                checked => return checked,
            }
        }
        Err(webpki::Error::MaximumPathBuildCallsExceeded)
    }

    fn check_chain_at(
        &self,
        cert: &EndEntityCert<'_>,
        roots: &RootCertStore,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // As OpenSSL does: an issuer without a list leaves the question open, which is a no.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            let depth = match self.revoked_leaf_only {
                true => RevocationCheckDepth::EndEntity,
                false => RevocationCheckDepth::Chain,
            };
            let options = options.with_depth(depth);
            options
                .with_status_policy(UnknownStatusPolicy::Deny)
                .build()
        });
        let is_short = |path: &VerifiedPath<'_>| {
            let authorities = path.intermediate_certificates().count() + 1;
            match self.max_depth.is_none_or(|most| authorities <= most) {
                true => Ok(()),
                false => Err(webpki::Error::MaximumPathDepthExceeded),
            }
        };
        cert.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &roots.roots,
            intermediates,
            now,
            usage,
            revocation,
            self.max_depth
                .is_some()
                .then_some(&is_short as &IsShort<'_>),
        )
        .map(drop)
    }

    fn is_pinned(&self, cert: &EndEntityCert<'_>, der: &CertificateDer<'_>) -> bool {
        let (certificates, keys) = (&self.certificate_hashes, &self.key_hashes);
        if certificates.is_empty() && keys.is_empty() {
            return true;
        }
        let is_in = |hashes: &[Sha256], bytes: &[u8]| {
            !hashes.is_empty() && {
                let found = digest(&SHA256, bytes);
                hashes.iter().any(|hash| hash == found.as_ref())
            }
        };
        is_in(certificates, der) || is_in(keys, &cert.subject_public_key_info())
    }
}

/// What may still refuse a chain that is good otherwise.
type IsShort<'c> = dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error> + 'c;

/// Certificates of one chain that may have expired, where that does not matter: more than the library
/// follows.
const MOST_EXPIRED: usize = 10;

/// Whoever may do that is an authority, and no workload.
fn signs_certificates(der: &CertificateDer<'_>) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(der) else {
        return true;
    };
    match cert.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign() || usage.value.crl_sign(),
        Ok(None) => false,
        Err(_) => true,
    }
}

fn told(error: webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct Servers {
    rules: Rules,
    /// The certificate has to be for the server that was called, too.
    by_name: bool,
}

impl Servers {
    pub(super) fn new(rules: Rules, by_name: bool) -> Self {
        Self { rules, by_name }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usage = KeyUsage::server_auth();
        self.rules.check(end_entity, intermediates, usage, now)?;
        if self.by_name {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Checks clients.
#[derive(Debug)]
pub(super) struct Clients {
    rules: Rules,
    /// Whom clients are told to ask for a certificate.
    hints: Vec<DistinguishedName>,
    required: bool,
}

impl Clients {
    pub(super) fn new(rules: Rules, required: bool, suppress_hints: bool) -> Self {
        let roots = rules.domains.iter().map(|(_, roots)| roots);
        let roots = roots.chain(&rules.roots).filter(|_| !suppress_hints);
        let hints = roots.flat_map(RootCertStore::subjects).collect();
        Self {
            rules,
            hints,
            required,
        }
    }
}

impl Clients {
    /// Whether somebody who is trusted vouches for a certificate that was let in.
    pub(super) fn vouch_for(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        self.rules.vouch_for(chain, now)
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usage = KeyUsage::client_auth();
        let checked = self.rules.check(end_entity, intermediates, usage, now);
        checked.map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.rules.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
