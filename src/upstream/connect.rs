//! Opening a connection to an endpoint.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{ProxyProtocolVersion, TcpKeepalive};
use http::StatusCode;
use rustix::io::Errno;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::{Endpoint, Transport, Via};
use crate::error::{Failure, ResponseFlag};
use crate::net::Io;
use crate::tls::ClientTls;

/// Why there is no connection. Carries the address and the phase, for the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{address}: {kind}")]
pub struct ConnectError {
    pub address: String,
    pub kind: ConnectErrorKind,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectErrorKind {
    #[error("connect: {0}")]
    Connect(Arc<io::Error>),
    #[error("tls handshake: {0}")]
    Tls(Arc<io::Error>),
    #[error("http handshake: {0}")]
    Http(Arc<hyper::Error>),
    #[error("connect_timeout ({0:?}) fired in phase {1}")]
    Timeout(Duration, &'static str),
    #[error("the endpoint chose another protocol than before")]
    OtherProtocol,
    #[error("an address that is a name cannot be connected to")]
    Unresolved,
    #[error("limit of {0} {1} reached")]
    Overflow(u32, &'static str),
}

impl ConnectError {
    /// Whether it is of this endpoint, so that another may do better; a limit is of them all, and
    /// what this host is short of would be missing for others, too.
    pub fn is_of_endpoint(&self) -> bool {
        !matches!(self.kind, ConnectErrorKind::Overflow(..)) && !self.kind.is_shortage()
    }
}

impl ConnectErrorKind {
    /// Descriptors, memory or ports of our own have run out.
    fn is_shortage(&self) -> bool {
        const SHORTAGES: [Errno; 5] = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ];
        let Self::Connect(error) = self else {
            return false;
        };
        Errno::from_io_error(error).is_some_and(|errno| SHORTAGES.contains(&errno))
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let reason = match &error.kind {
            ConnectErrorKind::Overflow(..) => {
                let text = "upstream connect error or disconnect/reset before headers. \
                            reset reason: overflow";
                let flag = ResponseFlag::UpstreamOverflow;
                let details = "upstream_reset_before_response_started{overflow}";
                return Self::local(unavailable, flag, details)
                    .saying(text)
                    .because(error);
            }
            ConnectErrorKind::Timeout(..) => "connection timeout",
            ConnectErrorKind::Connect(_) => "remote connection failure",
            _ => "connection failure",
        };
        let flag = ResponseFlag::UpstreamConnectFailure;
        let details = match &error.kind {
            ConnectErrorKind::Timeout(..) => {
                "upstream_reset_before_response_started{connection_timeout}".into()
            }
            ConnectErrorKind::Connect(error) => reset_details(error),
            _ => Cow::Borrowed("upstream_reset_before_response_started{connection_failure}"),
        };
        Self::local(unavailable, flag, details)
            .saying(format!(
                "upstream connect error or disconnect/reset before headers. reset reason: {reason}"
            ))
            .because(error)
    }
}

/// Envoy's words for a connection that did not come about. Its details hold no space.
fn reset_details(error: &io::Error) -> Cow<'static, str> {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection_refused".to_owned(),
        io::ErrorKind::HostUnreachable => "No_route_to_host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "Network_is_unreachable".to_owned(),
        io::ErrorKind::ConnectionReset => "Connection_reset_by_peer".to_owned(),
        other => other.to_string().replace(' ', "_"),
    };
    let details = format!(
        "upstream_reset_before_response_started{{remote_connection_failure|delayed_connect_error:_{text}}}"
    );
    Cow::Owned(details)
}

/// Connects, TLS included, within the cluster's `connect_timeout`.
///
/// # Errors
/// [`ConnectError`], counted in the cluster's and the endpoint's statistics.
pub async fn connect(
    endpoint: &Endpoint,
    transport: &Transport,
    via: Option<&Via>,
) -> Result<Io, ConnectError> {
    let start = Instant::now();
    let mut phase = "connect";
    let limit = transport.connect_timeout;
    let attempt = async {
        let address = &endpoint.key.address;
        let socket = endpoint.attributes.socket;
        let proxied = transport.proxy_protocol_of(socket);
        let io = open(address, transport, proxied, via).await?;
        phase = "tls handshake";
        let hostname = &endpoint.attributes.hostname;
        let to = (address, hostname.as_str());
        secure(io, to, transport.tls_of(socket), via).await
    };
    let result = match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(ConnectErrorKind::Timeout(limit, phase)),
    };
    match result {
        Ok(io) => {
            endpoint.welcome();
            let spent = start.elapsed().as_millis();
            transport
                .stats
                .upstream_cx_connect_ms
                .observe(u64::try_from(spent).unwrap_or(0));
            Ok(io)
        }
        Err(kind) => {
            if !kind.is_shortage() {
                endpoint.shun();
            }
            transport.stats.upstream_cx_connect_fail.inc();
            endpoint.stats.cx_connect_fail.inc();
            if matches!(kind, ConnectErrorKind::Timeout(..)) {
                transport.stats.upstream_cx_connect_timeout.inc();
            }
            Err(ConnectError {
                address: endpoint.to_string(),
                kind,
            })
        }
    }
}

/// Connects for a health check, by the socket of the endpoint: counted nowhere, and without a deadline of its own.
///
/// # Errors
/// [`ConnectErrorKind`]
pub async fn open_uncounted(
    address: &Address,
    hostname: &str,
    socket: Option<usize>,
    transport: &Transport,
) -> Result<Io, ConnectErrorKind> {
    let proxied = transport.proxy_protocol_of(socket);
    let io = open(address, transport, proxied, Some(&Via::default())).await?;
    let tls = transport.tls_of(socket);
    secure(io, (address, hostname), tls, None).await
}

/// Without TLS; what has to be said before that is said.
async fn open(
    address: &Address,
    transport: &Transport,
    proxied: Option<ProxyProtocolVersion>,
    via: Option<&Via>,
) -> Result<Io, ConnectErrorKind> {
    let mut io = open_socket(address, transport).await?;
    if let (Some(version), Some(via)) = (proxied, via) {
        let told = io.write_all(&via.header(version)).await;
        told.map_err(|e| ConnectErrorKind::Connect(Arc::new(e)))?;
    }
    Ok(io)
}

async fn open_socket(address: &Address, transport: &Transport) -> Result<Io, ConnectErrorKind> {
    match address {
        Address::Socket(address) => {
            let io = match transport.source_addresses.is_empty() {
                true => TcpStream::connect(address).await,
                false => connect_from(&transport.source_addresses, *address).await,
            };
            let io = io.map_err(|e| ConnectErrorKind::Connect(Arc::new(e)))?;
            // An error here means that the peer is gone already; the next read tells so.
            io.set_nodelay(true).ok();
            if let Some(keepalive) = &transport.tcp_keepalive {
                keep_alive(&io, keepalive);
            }
            Ok(Io::Tcp(io))
        }
        Address::Pipe(path) => UnixStream::connect(path)
            .await
            .map(Io::Unix)
            .map_err(|e| ConnectErrorKind::Connect(Arc::new(e))),
        Address::Named { .. } => Err(ConnectErrorKind::Unresolved),
    }
}

/// From the address of the endpoint's family, or the first one.
async fn connect_from(sources: &[SocketAddr], address: SocketAddr) -> io::Result<TcpStream> {
    let alike = sources.iter().find(|s| s.is_ipv4() == address.is_ipv4());
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = alike.or(sources.first()) {
        socket.bind(*source)?;
    }
    socket.connect(address).await
}

/// Sets TCP keep-alive on a connection.
pub fn keep_alive(io: &TcpStream, keepalive: &TcpKeepalive) {
    let mut settings = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        settings = settings.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        settings = settings.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        settings = settings.with_retries(probes);
    }
    // An error here means that the peer is gone already; the next read tells so.
    socket2::SockRef::from(io).set_tcp_keepalive(&settings).ok();
}

async fn secure(
    io: Io,
    (address, hostname): (&Address, &str),
    tls: Option<&ClientTls>,
    via: Option<&Via>,
) -> Result<Io, ConnectErrorKind> {
    let Some(tls) = tls else {
        return Ok(io);
    };
    // TLS over a Unix socket is refused when the snapshot is compiled.
    let Io::Tcp(tcp) = io else {
        return Err(ConnectErrorKind::Unresolved);
    };
    let own = via.and_then(|via| via.server_name.clone());
    let name = match (own.or_else(|| tls.name_for(hostname)), address) {
        (Some(name), _) => name,
        (None, Address::Socket(address)) => ServerName::IpAddress(address.ip().into()),
        (None, _) => return Err(ConnectErrorKind::Unresolved),
    };
    tls.connector
        .connect(name, tcp)
        .await
        .map(|tls| Io::ClientTls(Box::new(tls)))
        .map_err(|e| ConnectErrorKind::Tls(Arc::new(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_is_short_of_is_not_the_endpoints_fault() {
        let of_endpoint = |kind| {
            let address = "192.0.2.1:80".to_owned();
            ConnectError { address, kind }.is_of_endpoint()
        };
        let failed = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            of_endpoint(ConnectErrorKind::Connect(Arc::new(error)))
        };
        for own in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(!failed(own), "{own}");
        }
        for other in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
            assert!(failed(other), "{other}");
        }
        assert!(of_endpoint(ConnectErrorKind::OtherProtocol));
        assert!(!of_endpoint(ConnectErrorKind::Overflow(1, "connections")));
    }
}
