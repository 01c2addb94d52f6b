//! Calls to the authority: HTTP/1.1 over TLS, a connection for each. There are a dozen for a
//! certificate, and months between two of them.

use std::error::Error as StdError;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{HOST, HeaderValue};
use ::http::{Request, Response, Uri};
use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bounds one call, from the name to the last byte.
const CALL: Duration = Duration::from_secs(30);
/// More than any answer has.
const MAX_ANSWER: usize = 1024 * 1024;

#[derive(Clone)]
pub(super) struct Client {
    tls: TlsConnector,
}

impl Client {
    /// # Errors
    /// `ca` cannot be read, or the system has no authorities.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self> {
        let roots = match ca {
            None => crate::net::system_roots().map_err(|e| anyhow!("system roots: {e}"))?,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let shown = || format!("causeway.acme.ca: {}", path.display());
                for found in CertificateDer::pem_file_iter(path).with_context(shown)? {
                    roots.add(found.with_context(shown)?).with_context(shown)?;
                }
                roots
            }
        };
        let config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn call(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>> {
        let (mut parts, body) = request.into_parts();
        let authority = parts
            .uri
            .authority()
            .context("a URL without a host")?
            .clone();
        if parts.uri.scheme_str() != Some("https") {
            return Err(anyhow!("{}: not an https URL", parts.uri));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((host, port)).await;
        let tcp = tcp.with_context(|| authority.to_string())?;
        let name = ServerName::try_from(host.to_owned())?;
        let tls = self.tls.connect(name, tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts
            .headers
            .insert(HOST, HeaderValue::from_str(authority.as_str())?);
        parts.uri = path.parse::<Uri>()?;
        let exchange = async {
            let response = sender
                .send_request(Request::from_parts(parts, body))
                .await?;
            let (head, body) = response.into_parts();
            let whole = Limited::new(body, MAX_ANSWER).collect().await;
            let whole = whole.map_err(|e| anyhow!("{e}"))?.to_bytes();
            Ok(Response::from_parts(head, Full::new(whole)))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            // The answer first: the peer may close once it has given it.
            biased;
            answer = &mut exchange => answer,
            // What is read already may still be the answer.
            _ = connection => exchange.await,
        }
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let other = |e: anyhow::Error| {
                Error::Other(Box::<dyn StdError + Send + Sync>::from(format!("{e:#}")))
            };
            match tokio::time::timeout(CALL, client.call(request)).await {
                Ok(answer) => answer.map(BytesResponse::from).map_err(other),
                Err(_) => Err(other(anyhow!("deadline \"call\" fired"))),
            }
        })
    }
}
