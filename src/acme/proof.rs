//! Proof that a name is ours, for as long as the authority looks at it.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use instant_acme::{ChallengeHandle, ChallengeType};
use rustls::sign::CertifiedKey;
use rustls_acme::acme as tls_alpn;

use super::rfc2136::{self, Change};
use super::{Failure, hook};
use crate::config::{Acme, AcmeChallenge, DnsSolver};
use crate::tls::Automatic;

/// Which proof a name needs.
pub(super) fn kind(config: &Acme, name: &str) -> ChallengeType {
    match config.challenge {
        AcmeChallenge::TlsAlpn01 if !name.starts_with('*') => ChallengeType::TlsAlpn01,
        _ => ChallengeType::Dns01,
    }
}

/// What answers a challenge. Once it was shown it has to be taken away.
pub(super) enum Proof {
    Handshake {
        name: String,
        certificate: Arc<CertifiedKey>,
    },
    Record {
        domain: String,
        value: String,
    },
}

impl Proof {
    /// `key` is the account's.
    pub(super) fn of(
        key: &[u8],
        name: &str,
        challenge: &ChallengeHandle<'_>,
    ) -> Result<Self, Failure> {
        if challenge.r#type == ChallengeType::TlsAlpn01 {
            return Ok(Self::Handshake {
                name: name.to_owned(),
                certificate: Arc::new(handshake(key, name, &challenge.token)?),
            });
        }
        Ok(Self::Record {
            domain: name.strip_prefix("*.").unwrap_or(name).to_owned(),
            value: challenge.key_authorization().dns_value(),
        })
    }

    /// Puts it where the authority looks for it.
    pub(super) async fn present(
        &self,
        config: &Acme,
        automatic: &Automatic,
    ) -> Result<(), Failure> {
        match self {
            Self::Handshake { name, certificate } => {
                automatic.challenge(name, Arc::clone(certificate));
            }
            Self::Record { domain, value } => {
                write(config, Change::Add, domain, value).await?;
                tokio::time::sleep(config.propagation).await;
            }
        }
        Ok(())
    }

    /// Takes it away. That it cannot be is told and harms nobody: the value was good once.
    pub(super) async fn withdraw(self, config: &Acme, automatic: &Automatic) {
        match self {
            Self::Handshake { name, .. } => automatic.challenge_done(&name),
            Self::Record { domain, value } => {
                if let Err(error) = write(config, Change::Remove, &domain, &value).await {
                    tracing::warn!(domain, %error, "ACME: the record of a challenge stays behind");
                }
            }
        }
    }
}

/// The certificate of RFC 8737 section 3, by the key of the account.
fn handshake(key: &[u8], name: &str, token: &str) -> Result<CertifiedKey, Failure> {
    let unusable = |reason: String| Failure::Certificate(format!("challenge: {reason}"));
    let key_pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key);
    let key_pair = key_pair.map_err(|e| unusable(e.to_string()))?;
    // Nothing is asked of the authority through this one.
    let account = tls_alpn::Account {
        key_pair,
        directory: tls_alpn::Directory {
            new_nonce: String::new(),
            new_account: String::new(),
            new_order: String::new(),
        },
        kid: String::new(),
    };
    let challenges = [tls_alpn::Challenge {
        typ: tls_alpn::ChallengeType::TlsAlpn01,
        url: String::new(),
        token: token.to_owned(),
        error: None,
    }];
    let (_, certificate) = account
        .tls_alpn_01(&challenges, name.to_owned())
        .map_err(|e| unusable(e.to_string()))?;
    Ok(certificate)
}

async fn write(config: &Acme, change: Change, domain: &str, value: &str) -> Result<(), Failure> {
    // RFC 8555 section 8.4.
    let record = format!("_acme-challenge.{domain}");
    match &config.dns {
        Some(DnsSolver::Hook(hook)) => {
            let verb = match change {
                Change::Add => "present",
                Change::Remove => "cleanup",
            };
            hook::call(hook, verb, &record, value).await
        }
        Some(DnsSolver::Rfc2136(config)) => {
            rfc2136::update(config, change, domain, &record, value).await
        }
        None => Err(Failure::Dns(
            "nobody is configured to write records".to_owned(),
        )),
    }
}
