//! The server side.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_xds::resource::tls::{
    CertificateRef, DownstreamTls, SecretValue, TicketKeysRef, TlsCertificate,
};
use rustls::crypto::KeyProvider;
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use rustls_acme::acme::ACME_TLS_ALPN_NAME;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::automatic::Automatic;
use super::names::Names;
use super::session::Session;
use super::tickets::Tickets;
use super::verify::{Clients, Rules};
use super::{TlsError, config, protocols, provider, provider_for, read, validation, versions};

/// How long a handshake may take when the configuration does not say.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a filter chain needs to accept TLS.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// For clients that offer none of our protocols: they are served without one, as by Envoy,
    /// where the TLS library would turn them away.
    without_protocol: Option<Arc<ServerConfig>>,
    pub handshake_timeout: Duration,
    certificates: Shown,
    /// What the certificates of clients are checked by.
    clients: Option<Arc<Clients>>,
}

/// Where the certificates of a chain are.
#[derive(Clone)]
enum Shown {
    Given(Arc<Certificates>),
    Automatic(Arc<Automatic>),
}

impl Shown {
    fn of(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Given(given) => given.of(server_name).cloned(),
            Self::Automatic(automatic) => Some(automatic.shown(server_name)),
        }
    }
}

/// The first certificate that the client's hello can use, by name then by order.
#[derive(Debug)]
struct Certificates {
    keys: Vec<Arc<CertifiedKey>>,
    require_sni: bool,
}

impl Certificates {
    fn of(&self, server_name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = server_name.and_then(|name| {
            let name = rustls_pki_types::ServerName::try_from(name).ok()?;
            self.keys.iter().find(|key| {
                key.end_entity_cert()
                    .ok()
                    .and_then(|der| rustls::server::ParsedCertificate::try_from(der).ok())
                    .is_some_and(|cert| rustls::client::verify_server_name(&cert, &name).is_ok())
            })
        });
        named.or_else(|| self.keys.first())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.require_sni && hello.server_name().is_none() {
            return None;
        }
        self.of(hello.server_name()).cloned()
    }
}

impl ServerTls {
    /// Builds from the model. `secret` finds a certificate by the name of its secret; `automatic`
    /// is where those are that the program gets by itself.
    ///
    /// # Errors
    /// A file cannot be read, PEM cannot be parsed, key and certificate do not belong together, or
    /// a secret is not there.
    pub fn build(
        model: &DownstreamTls,
        secret: &dyn Fn(&str) -> Option<SecretValue>,
        automatic: Option<&Arc<Automatic>>,
    ) -> Result<Self, TlsError> {
        let mut keys = Vec::with_capacity(model.certificates.len());
        for reference in &model.certificates {
            keys.push(Arc::new(resolve(reference, secret)?));
        }
        let certificates = match (model.automatic, automatic) {
            (true, Some(automatic)) => Shown::Automatic(Arc::clone(automatic)),
            (true, None) => {
                let reason = "certificates are obtained automatically, and nothing says how \
                              ([causeway.acme] of the worker's file does)";
                return Err(TlsError::Config(reason.into()));
            }
            (false, _) if keys.is_empty() => {
                return Err(TlsError::Config("no certificate is configured".into()));
            }
            (false, _) => Shown::Given(Arc::new(Certificates {
                keys,
                require_sni: model.require_sni,
            })),
        };
        let provider = provider_for(&model.parameters);
        let checked = validation(&model.validation, model.validation_secret.as_ref(), secret)?;
        let rules = Rules::compile(&checked, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(&model.parameters))
            .map_err(config)?;
        let required = model.require_client_certificate;
        let clients = (!rules.is_empty() || required).then(|| {
            let suppress_hints = checked.suppress_client_ca_list;
            Arc::new(Clients::new(rules, required, suppress_hints))
        });
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as _),
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = match &certificates {
            Shown::Given(given) => Arc::clone(given) as _,
            Shown::Automatic(automatic) => Arc::clone(automatic) as _,
        };
        let mut server = builder.with_cert_resolver(resolver);
        server.alpn_protocols = protocols(&model.alpn);
        if model.automatic {
            server.alpn_protocols.push(ACME_TLS_ALPN_NAME.to_vec());
        }
        if model.stateless_resumption {
            // A ticket vouches for the client that it was made for, and whoever else has the keys
            // may ask less of clients, or have asked it before an authority was withdrawn.
            let given = model.ticket_keys.as_ref();
            let given = given.filter(|_| clients.is_none());
            server.ticketer = tickets(given, secret)?;
        }
        if !model.stateful_resumption {
            server.session_storage = Arc::new(NoServerSessionStorage {});
            if !model.stateless_resumption {
                server.send_tls13_tickets = 0;
            }
        }
        let without_protocol = (!server.alpn_protocols.is_empty()).then(|| {
            let mut plain = server.clone();
            plain.alpn_protocols.clear();
            Arc::new(plain)
        });
        Ok(Self {
            config: Arc::new(server),
            without_protocol,
            handshake_timeout: model.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT),
            certificates,
            clients,
        })
    }

    /// The handshake. Its deadline is the caller's to hold.
    ///
    /// # Errors
    /// The client broke off, or does not show what it has to.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let Some(plain) = &self.without_protocol else {
            return TlsAcceptor::from(Arc::clone(&self.config))
                .accept(tcp)
                .await;
        };
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
        if let Shown::Automatic(automatic) = &self.certificates {
            automatic.prepare(&start.client_hello()).await;
        }
        let ours = &self.config.alpn_protocols;
        let strange = start
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| !offered.any(|name| ours.iter().any(|known| known == name)));
        let config = if strange { plain } else { &self.config };
        start.into_stream(Arc::clone(config)).await
    }

    /// Whether the handshake was all that the peer came for: a proof towards a certificate
    /// authority, after which the connection is closed (RFC 8737 section 3).
    pub fn was_proof(&self, connection: &ServerConnection) -> bool {
        matches!(self.certificates, Shown::Automatic(_))
            && connection.alpn_protocol() == Some(ACME_TLS_ALPN_NAME)
    }

    /// What a handshake came to.
    pub fn session(&self, connection: &ServerConnection) -> Session {
        let vouched = |chain: &[CertificateDer<'_>]| {
            let clients = self.clients.as_ref();
            clients.is_some_and(|clients| clients.vouch_for(chain, UnixTime::now()))
        };
        Session::of(connection, vouched, || {
            let key = self.certificates.of(connection.server_name());
            let der = key.as_ref().and_then(|key| key.end_entity_cert().ok());
            der.map_or_else(Vec::new, |der| Names::of(der).uris)
        })
    }
}

fn tickets(
    keys: Option<&TicketKeysRef>,
    secret: &dyn Fn(&str) -> Option<SecretValue>,
) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    let given = match keys {
        None => return rustls::crypto::aws_lc_rs::Ticketer::new().map_err(config),
        Some(TicketKeysRef::Inline(keys)) => Tickets::new(keys),
        Some(TicketKeysRef::Secret(reference)) => match secret(&reference.name) {
            Some(SecretValue::TicketKeys(keys)) => Tickets::new(&keys),
            _ => Err(TlsError::MissingSecret(reference.name.clone())),
        },
    };
    Ok(Arc::new(given?))
}

/// The plain case: one certificate with its key, both in PEM files, HTTP/1.1 only.
///
/// # Errors
/// A file cannot be read or parsed, or key and certificate do not belong together.
pub fn from_files(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |what, e: rustls_pki_types::pem::Error| TlsError::Pem {
        what,
        reason: e.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem("certificate_chain", e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem("private_key", e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Config(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Config(e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(super) fn resolve(
    reference: &CertificateRef,
    secret: &dyn Fn(&str) -> Option<SecretValue>,
) -> Result<CertifiedKey, TlsError> {
    match reference {
        CertificateRef::Inline(inline) => certificate(inline),
        CertificateRef::Secret { name, .. } => match secret(name) {
            Some(SecretValue::Certificate(found)) => certificate(&found),
            _ => Err(TlsError::MissingSecret(name.clone())),
        },
    }
}

/// Reads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// See [`ServerTls::build`].
pub fn certificate(model: &TlsCertificate) -> Result<CertifiedKey, TlsError> {
    let pem = |what, reason: String| TlsError::Pem { what, reason };
    let chain = CertificateDer::pem_slice_iter(&read(&model.chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem("certificate_chain", e.to_string()))?;
    if chain.is_empty() {
        return Err(pem("certificate_chain", "holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&model.key)?)
        .map_err(|e| pem("private_key", e.to_string()))?;
    let loader: &dyn KeyProvider = provider().key_provider;
    let key = loader
        .load_private_key(key)
        .map_err(|e| pem("private_key", e.to_string()))?;
    let mut certified = CertifiedKey::new(chain, key);
    certified.ocsp = model.ocsp_staple.as_ref().map(read).transpose()?;
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(_) => Err(pem("private_key", "does not match the certificate".into())),
    }
}
