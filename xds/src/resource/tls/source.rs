//! Bytes and certificates: where they are, and that what is in place is what it claims to be.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{DataSource, TlsCertificate};
use crate::proto::core::{self, data_source::Specifier};
use crate::proto::tls;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, accept, each, fault, not_empty, refuse, required};

impl DataSource {
    pub(crate) fn decode(message: core::DataSource) -> Result<Self, Invalid> {
        let core::DataSource {
            watched_directory,
            specifier,
        } = message;
        // Rotation by renaming a directory: reading the file once would keep an old certificate.
        refuse!(watched_directory);
        Ok(match specifier {
            None => return Err(fault("must be given")),
            Some(Specifier::Filename(name)) => Self::File(not_empty(name, "filename")?.into()),
            Some(Specifier::InlineBytes(bytes)) => Self::Inline(bytes),
            Some(Specifier::InlineString(text)) => Self::Inline(text.into_bytes()),
            Some(Specifier::EnvironmentVariable(name)) => {
                const FIELD: &str = "environment_variable";
                // A name that the system cannot hold would make `var_os` panic.
                let name = not_empty(name, FIELD)?;
                let value = match name.contains(['=', '\0']) {
                    true => None,
                    false => std::env::var(&name).ok(),
                };
                let missing = || Invalid::at(FIELD, format!("{name:?} is not set"));
                Self::Inline(value.ok_or_else(missing)?.into_bytes())
            }
        })
    }

    /// The bytes themselves, for a field that is needed as soon as it is decoded.
    pub(crate) fn load(self, max: usize) -> Result<Vec<u8>, Invalid> {
        let bytes = match self {
            Self::Inline(bytes) => bytes,
            Self::File(path) => {
                let unreadable =
                    |e: std::io::Error| Invalid::at("filename", format!("{}: {e}", path.display()));
                read(&path, max).map_err(unreadable)?
            }
        };
        if bytes.len() > max {
            return Err(fault(format!("is larger than {max} bytes")));
        }
        Ok(bytes)
    }

    /// That a file is there.
    pub(super) fn check(&self, ctx: &Context<'_>) -> Result<(), Invalid> {
        match self {
            Self::Inline(_) => Ok(()),
            Self::File(path) => ctx.extensions.check_file(path).at("filename"),
        }
    }

    /// Whether bytes in place satisfy `test`. A file is looked at by who reads it.
    fn holds(&self, test: impl FnOnce(&[u8]) -> bool) -> bool {
        match self {
            Self::Inline(bytes) => test(bytes),
            Self::File(_) => true,
        }
    }
}

/// Reads one byte more than allowed at most, and nothing that is not a plain file: a pipe or a
/// device would hold up everybody who waits for configuration.
fn read(path: &Path, max: usize) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(max as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl TlsCertificate {
    pub(crate) fn decode(message: tls::TlsCertificate, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let tls::TlsCertificate {
            certificate_chain,
            private_key,
            pkcs12,
            watched_directory,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = message;
        refuse!(
            pkcs12,
            private_key_provider,
            password,
            signed_certificate_timestamp,
            tls_params,
        );

        let chain = required(certificate_chain, "certificate_chain")?;
        let chain = DataSource::decode(chain).at("certificate_chain")?;
        let key = required(private_key, "private_key")?;
        let key = DataSource::decode(key).at("private_key")?;
        chain.check(ctx).at("certificate_chain")?;
        key.check(ctx).at("private_key")?;
        // The reasons never quote what was found.
        if !chain.holds(has_certificates) {
            return Err(Invalid::at("certificate_chain", "holds no PEM certificate"));
        }
        if !key.holds(|bytes| PrivateKeyDer::from_pem_slice(bytes).is_ok()) {
            return Err(Invalid::at("private_key", "holds no PEM private key"));
        }
        let ocsp_staple = ocsp_staple.map(|staple| {
            let staple = DataSource::decode(staple)?;
            staple.check(ctx)?;
            // A SEQUENCE (RFC 6960 section 4.2.1); the rest is for clients to judge.
            match staple.holds(|der| der.starts_with(&[0x30])) {
                true => Ok(staple),
                false => Err(fault("is no response of OCSP")),
            }
        });
        Ok(Self {
            chain,
            key,
            ocsp_staple: ocsp_staple.transpose().at("ocsp_staple")?,
            watched_directory: watched(watched_directory, ctx)?,
        })
    }
}

/// The path of a `watched_directory`.
pub(super) fn watched(
    message: Option<core::WatchedDirectory>,
    ctx: &Context<'_>,
) -> Result<Option<PathBuf>, Invalid> {
    let path = message.map(|message| {
        let core::WatchedDirectory { path, watch_modify } = message;
        accept!(ctx, "WatchedDirectory": watch_modify);
        not_empty(path, "path")
    });
    let path = path.transpose().at("watched_directory")?;
    Ok(path.map(PathBuf::from))
}

/// `TlsSessionTicketKeys`.
pub(super) fn ticket_keys(
    message: tls::TlsSessionTicketKeys,
    ctx: &Context<'_>,
) -> Result<Vec<DataSource>, Invalid> {
    /// The length of a key, as Envoy has it.
    const KEY: usize = 80;
    let tls::TlsSessionTicketKeys { keys } = message;
    let keys = each("keys", keys, |key| {
        let key = DataSource::decode(key)?;
        key.check(ctx)?;
        match key.holds(|bytes| bytes.len() == KEY) {
            true => Ok(key),
            false => Err(fault(format!("is not {KEY} bytes long"))),
        }
    })?;
    match keys.is_empty() {
        true => Err(Invalid::at("keys", "must not be empty")),
        false => Ok(keys),
    }
}

/// At least one certificate, and none that is broken.
pub(super) fn has_certificates(pem: &[u8]) -> bool {
    let mut count = 0;
    CertificateDer::pem_slice_iter(pem)
        .inspect(|_| count += 1)
        .all(|c| c.is_ok())
        && count > 0
}

pub(super) fn decode_ca(
    message: core::DataSource,
    ctx: &Context<'_>,
) -> Result<DataSource, Invalid> {
    let ca = DataSource::decode(message)?;
    ca.check(ctx)?;
    if !ca.holds(has_certificates) {
        return Err(fault("holds no PEM certificate"));
    }
    Ok(ca)
}
