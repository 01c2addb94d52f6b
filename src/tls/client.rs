//! The client side.

use std::sync::Arc;

use causeway_xds::resource::api_source::ChannelTls;
use causeway_xds::resource::tls::{SecretValue, TlsCertificate, UpstreamTls};
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::server::{certificate, resolve};
use super::verify::{Rules, Servers};
use super::{
    TlsError, authorities, config, protocols, provider, provider_for, validation, versions,
};
use crate::net::{Unchecked, system_roots};

/// What a cluster needs to connect over TLS.
#[derive(Clone)]
pub struct ClientTls {
    pub connector: TlsConnector,
    /// `None`: the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    /// The endpoint's name goes before it.
    pub host_sni: bool,
}

/// What of a connection is as the request, or the endpoint, says.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerRequest {
    /// The server name that is sent (`auto_sni`, `auto_host_sni`).
    pub server_name: bool,
    /// The name that the certificate has to be for (`auto_san_validation`, `auto_sni_san_validation`).
    pub validation: bool,
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
    Rules(Arc<Servers>),
}

impl ClientTls {
    /// Builds from the model; `alpn` is what the cluster's protocol needs when the model is silent.
    ///
    /// # Errors
    /// As [`super::ServerTls::build`].
    pub fn build(
        model: &UpstreamTls,
        alpn: &[String],
        per_request: PerRequest,
        secret: &dyn Fn(&str) -> Option<SecretValue>,
    ) -> Result<Self, TlsError> {
        let per_request = PerRequest {
            server_name: per_request.server_name || model.host_sni,
            validation: per_request.validation || model.sni_validation,
        };
        let provider = provider_for(&model.parameters);
        let mut checked = validation(&model.validation, model.validation_secret.as_ref(), secret)?;
        if per_request.validation {
            // The name of the request takes their place.
            checked.subject_names.clear();
        }
        let rules = Rules::compile(&checked, &provider)?;
        // As in Envoy, whoever calls no name gets whom the authorities vouch for. Where a name is
        // called, the certificate has to be for it, unless something else is asked for.
        let called = per_request.server_name || !model.sni.is_empty();
        let by_name = per_request.validation || (called && !rules.tell_whose());
        let server_name = match model.sni.as_str() {
            "" => None,
            sni => match ServerName::try_from(sni.to_owned()) {
                Ok(name) => Some(name),
                // The TLS library can send no such name. Whoever is connected to has to prove who it
                // is by something else.
                Err(_) if per_request.validation || rules.tell_whose() => None,
                Err(e) => {
                    let reason = "and nothing else says whose the certificate has to be";
                    return Err(TlsError::Config(format!("sni: {e}, {reason}")));
                }
            },
        };
        let check = Check::of(rules, by_name);
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
        let mut client = Self::new(
            provider,
            check,
            key,
            alpn,
            server_name,
            &versions(&model.parameters),
        )?;
        if per_request.server_name {
            client.name_servers();
        }
        client.host_sni = model.host_sni;
        Ok(client)
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
        let server_name = match model.server_name.as_str() {
            "" => None,
            name => Some(
                ServerName::try_from(name.to_owned())
                    .map_err(|e| TlsError::Config(format!("sni: {e}")))?,
            ),
        };
        let key = model.client_certificate.clone();
        let key = key.map(|(chain, key)| certificate(&TlsCertificate::new(chain, key)));
        Self::new(
            provider(),
            Check::Server(roots),
            key.transpose()?,
            alpn,
            server_name,
            rustls::DEFAULT_VERSIONS,
        )
    }

    /// Sends the name that a connection is made for, whatever the configuration had to say.
    fn name_servers(&mut self) {
        let mut config = ClientConfig::clone(self.connector.config());
        config.enable_sni = true;
        self.connector = TlsConnector::from(Arc::new(config));
    }

    fn new(
        provider: Arc<CryptoProvider>,
        check: Check,
        key: Option<CertifiedKey>,
        alpn: &[String],
        server_name: Option<ServerName<'static>>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(config)?;
        let builder = match check {
            Check::Server(roots) => builder.with_root_certificates(roots),
            Check::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unchecked(provider))),
            Check::Rules(rules) => builder.dangerous().with_custom_certificate_verifier(rules),
        };
        let mut client = match key {
            None => builder.with_no_client_auth(),
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(key))))
            }
        };
        client.alpn_protocols = protocols(alpn);
        client.enable_sni = server_name.is_some();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            server_name,
            host_sni: false,
        })
    }
}

impl Check {
    fn of(rules: Rules, by_name: bool) -> Self {
        if rules.is_empty() {
            return Self::Nothing;
        }
        match rules.only_issuer().filter(|_| by_name) {
            Some(roots) => Self::Server(roots.clone()),
            None => Self::Rules(Arc::new(Servers::new(rules, by_name))),
        }
    }
}
