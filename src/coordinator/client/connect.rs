//! The Coordinator's endpoint and connections to it.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::{ClientConfigError, ClientError};
use crate::net::{Io, Unchecked, system_roots};

pub struct Endpoint {
    /// Without brackets.
    host: String,
    port: u16,
    /// What goes into `Host`.
    authority: String,
    /// What stands before `/api`; no slash at its end.
    base: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.base)
    }
}

impl Endpoint {
    pub fn new(uri: &Uri, verify: bool) -> Result<Self, ClientConfigError> {
        let wrong = ClientConfigError::Endpoint;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or(wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must not hold a user or a password"));
        }
        if uri.query().is_some() {
            return Err(wrong("must not have a query"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16();
        let tls = if secure {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| wrong("has a host name that no certificate can have"))?;
            Some((connector(verify)?, name))
        } else {
            None
        };
        Ok(Self {
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            base: uri.path().trim_end_matches('/').to_owned(),
            host,
            tls,
        })
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Tries every address of the host in turn.
    pub async fn connect(&self) -> Result<Io, ClientError> {
        let failed = |what: &str, error: std::io::Error| {
            ClientError::Connect(format!("{what} {}: {error}", self.authority))
        };
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| failed("cannot connect to", e))?;
        // A call is one small write; waiting for more of it would only delay it.
        tcp.set_nodelay(true).ok();
        match &self.tls {
            None => Ok(Io::Tcp(tcp)),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                let tls = tls.map_err(|e| failed("TLS handshake with", e))?;
                Ok(Io::ClientTls(Box::new(tls)))
            }
        }
    }
}

fn connector(verify: bool) -> Result<TlsConnector, ClientConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientConfigError::Tls(e.to_string()))?;
    let builder = if verify {
        builder.with_root_certificates(system_roots().map_err(ClientConfigError::Roots)?)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_base_urls() {
        for (text, shown, base, port) in [
            ("http://c:10200", "http://c:10200", "", 10200),
            ("http://c", "http://c", "", 80),
            ("https://c/proxy/", "https://c/proxy", "/proxy", 443),
            ("http://[::1]:7/", "http://[::1]:7", "", 7),
        ] {
            let endpoint = Endpoint::new(&text.parse().unwrap(), false).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!((endpoint.base(), endpoint.port), (base, port));
        }
        let bracketed = Endpoint::new(&"http://[::1]:7".parse().unwrap(), true).unwrap();
        assert_eq!(bracketed.host, "::1");
        for text in ["/api", "ftp://c", "http://u:p@c/", "http://c/?x"] {
            assert!(
                Endpoint::new(&text.parse().unwrap(), true).is_err(),
                "{text}"
            );
        }
    }
}
