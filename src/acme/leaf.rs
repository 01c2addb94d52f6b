//! A certificate that is held, and when its authority wants it renewed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_xds::resource::tls::{DataSource, TlsCertificate};
use instant_acme::{CertificateIdentifier, Error};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Failure;
use super::account::Authority;
use super::schedule::Validity;
use crate::tls::Names;

pub(super) struct Leaf {
    pub(super) der: CertificateDer<'static>,
    pub(super) validity: Validity,
}

/// From when until when an authority wants a certificate renewed.
pub(super) type Window = (SystemTime, SystemTime);

/// The window that the authority suggests, and when to ask again; `None`: it never does.
pub(super) async fn renewal_info(
    authority: &Authority,
    der: &CertificateDer<'_>,
) -> Result<Option<(Window, Duration)>, Failure> {
    let opened = authority.account().await?;
    let Ok(id) = CertificateIdentifier::try_from(der) else {
        return Ok(None);
    };
    match opened.account.renewal_info(&id).await {
        Err(Error::Unsupported(_)) => Ok(None),
        Err(error) => Err(error.into()),
        Ok((info, again)) => {
            let window = info.suggested_window;
            let start = at(window.start.unix_timestamp());
            Ok(Some(((start, at(window.end.unix_timestamp())), again)))
        }
    }
}

/// Seconds since 1970; what was before is then.
fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Key and chain, once they are of one another and of this name.
pub(super) fn parse(name: &str, pem: Vec<u8>) -> Result<(CertifiedKey, Leaf), Failure> {
    let wrong = |reason: String| Failure::Certificate(reason);
    let (chain, key) = (DataSource::Inline(pem.clone()), DataSource::Inline(pem));
    let model = TlsCertificate::new(chain, key);
    let key = crate::tls::certificate(&model).map_err(|e| wrong(e.to_string()))?;
    let der = key.end_entity_cert().map_err(|e| wrong(e.to_string()))?;
    let names = Names::of(der).dns;
    if !names.iter().any(|found| found.eq_ignore_ascii_case(name)) {
        return Err(wrong(format!("is for {}", names.join(", "))));
    }
    let (_, parsed) = X509Certificate::from_der(der).map_err(|e| wrong(e.to_string()))?;
    let validity = Validity {
        from: at(parsed.validity().not_before.timestamp()),
        until: at(parsed.validity().not_after.timestamp()),
    };
    let der = der.clone().into_owned();
    Ok((key, Leaf { der, validity }))
}
