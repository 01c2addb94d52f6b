//! The client side.

use std::sync::Arc;

use causeway_xds::resource::api_source::ChannelTls;
use causeway_xds::resource::tls::{
    DataSource, SecretValue, TlsCertificate, TlsVersion, UpstreamTls, Validation,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use super::server::{certificate, resolve};
use super::verify::{BySubject, Subject};
use super::{TlsError, protocols, provider, read, versions};
use crate::net::{Unchecked, system_roots};

/// What a cluster needs to connect over TLS.
#[derive(Clone)]
pub struct ClientTls {
    pub connector: TlsConnector,
    /// `None`: the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientTls({:?})", self.server_name)
    }
}

/// How the server's certificate is checked.
enum Check {
    Nothing,
    /// By its issuer and the name of the server.
    Server(RootCertStore),
    /// By its issuer and these names.
    Subject(RootCertStore, Vec<Subject>),
}

impl ClientTls {
    /// Builds from the model; `alpn` is what the cluster's protocol needs when the model is silent.
    ///
    /// # Errors
    /// As [`super::ServerTls::build`].
    pub fn build(
        model: &UpstreamTls,
        alpn: &[String],
        secret: &dyn Fn(&str) -> Option<SecretValue>,
    ) -> Result<Self, TlsError> {
        let check = match &model.validation_secret {
            None => check(&model.validation)?,
            Some(reference) => match secret(&reference.name) {
                Some(SecretValue::Validation(over)) => {
                    check(&model.validation.clone().merged(&over))?
                }
                _ => return Err(TlsError::MissingSecret(reference.name.clone())),
            },
        };
        let key = model
            .client_certificate
            .as_ref()
            .map(|reference| resolve(reference, secret))
            .transpose()?;
        let alpn = if model.alpn.is_empty() {
            alpn
        } else {
            &model.alpn
        };
        Self::new(
            check,
            key,
            alpn,
            &model.sni,
            (model.min_version, model.max_version),
        )
    }

    /// For a channel with credentials of its own: the server's certificate is always checked.
    ///
    /// # Errors
    /// As [`super::ServerTls::build`], or the system has no authorities.
    pub fn of_channel(model: &ChannelTls, alpn: &[String]) -> Result<Self, TlsError> {
        let roots = match &model.roots {
            Some(roots) => authorities(roots)?,
            None => system_roots().map_err(|e| TlsError::Config(format!("system roots: {e}")))?,
        };
        let key = model.client_certificate.clone();
        let key = key.map(|(chain, key)| certificate(&TlsCertificate { chain, key }));
        Self::new(
            Check::Server(roots),
            key.transpose()?,
            alpn,
            &model.server_name,
            (TlsVersion::V1_2, TlsVersion::V1_3),
        )
    }

    fn new(
        check: Check,
        key: Option<CertifiedKey>,
        alpn: &[String],
        sni: &str,
        (min, max): (TlsVersion, TlsVersion),
    ) -> Result<Self, TlsError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(min, max))
            .map_err(config)?;
        let builder = match check {
            Check::Server(roots) => builder.with_root_certificates(roots),
            Check::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
            Check::Subject(roots, names) => {
                let verifier = BySubject {
                    roots,
                    names,
                    provider,
                };
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut client = match key {
            None => builder.with_no_client_auth(),
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(key))))
            }
        };
        client.alpn_protocols = protocols(alpn);
        client.enable_sni = !sni.is_empty();
        let server_name = match sni {
            "" => None,
            sni => Some(
                ServerName::try_from(sni.to_owned())
                    .map_err(|e| TlsError::Config(format!("sni: {e}")))?,
            ),
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            server_name,
        })
    }
}

fn config(error: rustls::Error) -> TlsError {
    TlsError::Config(error.to_string())
}

fn check(model: &Validation) -> Result<Check, TlsError> {
    let names = model.subject_names.iter().map(Subject::compile);
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    match &model.trusted_ca {
        Some(ca) if names.is_empty() => Ok(Check::Server(authorities(ca)?)),
        Some(ca) => Ok(Check::Subject(authorities(ca)?, names)),
        None if names.is_empty() => Ok(Check::Nothing),
        // Names mean nothing in a certificate that anybody may have made.
        None => Err(TlsError::Config(
            "subject names without trusted_ca".to_owned(),
        )),
    }
}

fn authorities(source: &DataSource) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&read(source)?) {
        let cert = cert.map_err(|e| TlsError::Pem {
            what: "trusted_ca",
            reason: e.to_string(),
        })?;
        roots.add(cert).map_err(config)?;
    }
    // With none at all every handshake would fail, and say only that.
    if roots.is_empty() {
        return Err(TlsError::Pem {
            what: "trusted_ca",
            reason: "holds no PEM certificate".to_owned(),
        });
    }
    Ok(roots)
}
