//! Hosts, addresses, ports and paths of a file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use toml::Spanned;

use super::coordinator::HostPort;
use super::error::{ConfigError, Place};
use super::worker::TlsFiles;

/// `{ host, port }` with the place of the host, for messages.
#[derive(Deserialize)]
pub(super) struct Bind {
    pub host: Spanned<String>,
    pub port: u16,
}

impl Bind {
    pub fn resolve(&self, at: &Place<'_>, key: &str) -> Result<SocketAddr, ConfigError> {
        let host = bind_host(&self.host, at, &format!("{key}.host"))?;
        Ok(SocketAddr::new(host, self.port))
    }

    pub fn as_written(&self) -> HostPort {
        HostPort {
            host: self.host.get_ref().clone(),
            port: self.port,
        }
    }
}

/// An address of this machine to listen on. Names are resolved once, here.
pub(super) fn bind_host(
    host: &Spanned<String>,
    at: &Place<'_>,
    key: &str,
) -> Result<IpAddr, ConfigError> {
    const HINT: &str = "0.0.0.0 listens on every IPv4 address, :: on every IPv6 address";
    let name = host.get_ref();
    if let Some(ip) = literal(name) {
        return Ok(ip);
    }
    let wrong =
        |reason: String| at.error(Some(host.span()), format!("{key}: {reason}"), Some(HINT));
    if name.is_empty() {
        return Err(wrong("must be an IP address or a host name".to_owned()));
    }
    let found = (name.as_str(), 0)
        .to_socket_addrs()
        .map_err(|e| wrong(format!("\"{name}\" cannot be resolved: {e}")))?;
    // IPv4 first, as the legacy worker listens; a name has no say in that.
    found
        .map(|address| address.ip())
        .min_by_key(IpAddr::is_ipv6)
        .ok_or_else(|| wrong(format!("\"{name}\" has no address")))
}

fn literal(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => host.parse().ok(),
    }
}

/// `"host:port"`, the host being an address or localhost.
pub(super) fn socket(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// An inclusive `[low, high]`, or nothing.
pub(super) fn ports(
    range: &Spanned<Vec<u16>>,
    at: &Place<'_>,
    key: &str,
) -> Result<Vec<u16>, ConfigError> {
    match range.get_ref()[..] {
        [] => Ok(Vec::new()),
        // A 0 is a port that the system chooses; a range cannot begin with it.
        [0, 0] => Ok(vec![0]),
        [low, high] if 0 < low && low <= high => Ok((low..=high).collect()),
        _ => Err(at.error(
            Some(range.span()),
            format!("{key}: must be [lowest, highest] or empty"),
            Some("both ends belong to the range, for example [10205, 10300]"),
        )),
    }
}

/// Lower case, with its dot.
pub(super) fn domain(
    domain: &Spanned<String>,
    at: &Place<'_>,
    key: &str,
) -> Result<String, ConfigError> {
    let name = domain.get_ref().to_ascii_lowercase();
    if name.starts_with('.') && name.len() > 1 {
        return Ok(name);
    }
    Err(at.error(
        Some(domain.span()),
        format!("{key}: begins with a dot and names a domain"),
        Some("for example \".apps.example.org\""),
    ))
}

/// A certificate and a key that can be read; both or neither, unless `needed` says both.
pub(super) fn tls_files(
    certificate: Option<Spanned<PathBuf>>,
    private_key: Option<Spanned<PathBuf>>,
    needed: Option<&Spanned<bool>>,
    at: &Place<'_>,
    keys: [&str; 2],
) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, private_key) = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => (certificate, private_key),
        (None, None) if needed.is_none() => return Ok(None),
        (found, other) => {
            let missing = if found.is_none() { keys[0] } else { keys[1] };
            let span = needed
                .map(Spanned::span)
                .or_else(|| found.or(other).map(|path| path.span()));
            return Err(at.error(
                span,
                format!("{missing} is required for TLS"),
                Some("a certificate chain and its private key, each a file in PEM"),
            ));
        }
    };
    let wrong = |path: &Spanned<PathBuf>, key: &str, reason: &dyn std::fmt::Display| {
        let file = path.get_ref().display();
        at.error(Some(path.span()), format!("{key}: {file}: {reason}"), None)
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate.get_ref()).and_then(std::iter::Iterator::collect);
    match chain {
        Ok(chain) if chain.is_empty() => {
            return Err(wrong(&certificate, keys[0], &"no certificate in it"));
        }
        Ok(_) => {}
        Err(error) => return Err(wrong(&certificate, keys[0], &error)),
    }
    PrivateKeyDer::from_pem_file(private_key.get_ref())
        .map_err(|error| wrong(&private_key, keys[1], &error))?;
    Ok(Some(TlsFiles {
        certificate: certificate.into_inner(),
        private_key: private_key.into_inner(),
    }))
}
