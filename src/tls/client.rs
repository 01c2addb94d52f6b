//! The client side.

use std::sync::Arc;

use causeway_xds::resource::tls::{TlsCertificate, UpstreamTls};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use super::server::resolve;
use super::{TlsError, protocols, provider, read, versions};
use crate::net::Unchecked;

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

impl ClientTls {
    /// Builds from the model; `alpn` is what the cluster's protocol needs when the model is silent.
    ///
    /// # Errors
    /// As [`super::ServerTls::build`].
    pub fn build(
        model: &UpstreamTls,
        alpn: &[String],
        secret: &dyn Fn(&str) -> Option<TlsCertificate>,
    ) -> Result<Self, TlsError> {
        let config = |e: rustls::Error| TlsError::Config(e.to_string());
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(model.min_version, model.max_version))
            .map_err(config)?;
        let builder = match &model.trusted_ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for cert in CertificateDer::pem_slice_iter(&read(ca)?) {
                    let cert = cert.map_err(|e| TlsError::Pem {
                        what: "trusted_ca",
                        reason: e.to_string(),
                    })?;
                    roots.add(cert).map_err(config)?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
        };
        let mut client = match &model.client_certificate {
            None => builder.with_no_client_auth(),
            Some(reference) => {
                let key = Arc::new(resolve(reference, secret)?);
                builder
                    .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
        };
        client.alpn_protocols = protocols(if model.alpn.is_empty() {
            alpn
        } else {
            &model.alpn
        });
        client.enable_sni = !model.sni.is_empty();
        let server_name = match model.sni.as_str() {
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
