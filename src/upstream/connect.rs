//! Opening a connection to an endpoint.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{ProxyProtocol, SourceAddresses, TcpKeepalive};
use http::StatusCode;
use rustix::io::Errno;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::eyeballs::{self, Phase};
use super::{Endpoint, Transport, Via};
use crate::error::{Failure, ResponseFlag};
use crate::net::source::{new_socket, set_freebind};
use crate::net::{Io, Source, WireError};
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
    #[error("as the client: {0}")]
    Source(Arc<io::Error>),
    #[error("tls handshake: {0}")]
    Tls(Arc<io::Error>),
    #[error("http handshake: {0}")]
    Http(Arc<WireError>),
    #[error("connect_timeout ({0:?}) fired in phase {1}")]
    Timeout(Duration, &'static str),
    #[error("the endpoint chose another protocol than before")]
    OtherProtocol,
    #[error("an address that is a name cannot be connected to")]
    Unresolved,
    #[error("limit of {0} {1} reached")]
    Overflow(u32, &'static str),
    #[error("queue_timeout ({0:?}) fired: no connection came free")]
    Queue(Duration),
    /// What became of each address of an endpoint that has several.
    #[error("{}", listed(.0))]
    Several(Arc<[(SocketAddr, Self)]>),
}

fn listed(all: &[(SocketAddr, ConnectErrorKind)]) -> String {
    let each: Vec<_> = all.iter().map(|(a, kind)| format!("{a}: {kind}")).collect();
    each.join("; ")
}

impl ConnectError {
    /// Whether it is of this endpoint, so that another may do better; a limit is of them all, and
    /// what this host is short of would be missing for others, too.
    pub fn is_of_endpoint(&self) -> bool {
        use ConnectErrorKind::{Overflow, Queue};
        !matches!(self.kind, Overflow(..) | Queue(_)) && !self.kind.is_ours()
    }
}

impl ConnectErrorKind {
    /// What an attempt with several addresses counts as: the last thing that went wrong.
    pub fn decisive(&self) -> &Self {
        match self {
            Self::Several(all) => all.last().map_or(self, |(_, last)| last.decisive()),
            one => one,
        }
    }

    /// Descriptors, memory or ports of our own have run out, or the client's address cannot be taken.
    fn is_ours(&self) -> bool {
        const SHORTAGES: [Errno; 5] = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ];
        let error = match self {
            Self::Connect(error) => error,
            Self::Source(_) => return true,
            Self::Several(all) => return all.iter().all(|(_, kind)| kind.is_ours()),
            _ => return false,
        };
        Errno::from_io_error(error).is_some_and(|errno| SHORTAGES.contains(&errno))
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let kind = error.kind.decisive();
        let reason = match kind {
            ConnectErrorKind::Overflow(..) | ConnectErrorKind::Queue(_) => {
                let text = "upstream connect error or disconnect/reset before headers. \
                            reset reason: overflow";
                let flag = ResponseFlag::UpstreamOverflow;
                // To clients it is one thing; who reads the log sees which limit is too small.
                let details = match kind {
                    ConnectErrorKind::Queue(_) => {
                        "upstream_reset_before_response_started{queue_timeout}"
                    }
                    _ => "upstream_reset_before_response_started{overflow}",
                };
                return Self::local(unavailable, flag, details)
                    .saying(text)
                    .because(error);
            }
            ConnectErrorKind::Timeout(..) => "connection timeout",
            ConnectErrorKind::Connect(_) | ConnectErrorKind::Source(_) => {
                "remote connection failure"
            }
            _ => "connection failure",
        };
        let flag = ResponseFlag::UpstreamConnectFailure;
        let details = match kind {
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
    connect_within(transport.connect_timeout, endpoint, transport, via).await
}

/// As [`connect`], within `limit`.
///
/// # Errors
/// As [`connect`].
pub async fn connect_within(
    limit: Duration,
    endpoint: &Endpoint,
    transport: &Transport,
    via: Option<&Via>,
) -> Result<Io, ConnectError> {
    let start = Instant::now();
    let more = &endpoint.attributes.additional_addresses;
    let result = match &endpoint.attributes.address {
        Address::Socket(first) if !more.is_empty() => {
            let addresses = eyeballs::order(*first, more, transport.happy_eyeballs);
            let attempt = async |address, phase: &Phase| {
                let address = Address::Socket(address);
                establish(&address, endpoint, transport, via, phase).await
            };
            // Few endpoints need so large a future.
            Box::pin(eyeballs::race(&addresses, limit, attempt)).await
        }
        address => {
            let phase = Phase::new("connect");
            let attempt = establish(address, endpoint, transport, via, &phase);
            match tokio::time::timeout(limit, attempt).await {
                Ok(result) => result,
                Err(_) => Err(ConnectErrorKind::Timeout(limit, phase.get())),
            }
        }
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
            if !kind.is_ours() {
                endpoint.shun();
            }
            transport.stats.upstream_cx_connect_fail.inc();
            endpoint.stats.cx_connect_fail.inc();
            if matches!(kind.decisive(), ConnectErrorKind::Timeout(..)) {
                transport.stats.upstream_cx_connect_timeout.inc();
            }
            Err(ConnectError {
                address: endpoint.to_string(),
                kind,
            })
        }
    }
}

/// How long an attempt to connect may take that is one of so many that have what is `left`.
pub fn share(left: Duration, attempts: u32) -> Duration {
    // Nothing would be no attempt.
    const SHORTEST: Duration = Duration::from_millis(1);
    (left / attempts.max(1)).max(SHORTEST)
}

/// A connection to one address of an endpoint, TLS included.
async fn establish(
    address: &Address,
    endpoint: &Endpoint,
    transport: &Transport,
    via: Option<&Via>,
    phase: &Phase,
) -> Result<Io, ConnectErrorKind> {
    let named = Named {
        address,
        hostname: &endpoint.attributes.hostname,
    };
    let socket = endpoint.attributes.socket;
    let proxied = transport.proxy_protocol_of(socket);
    let io = open(address, transport, proxied, via).await?;
    phase.set("tls handshake");
    secure(io, named, transport.tls_of(socket), via).await
}

/// Where an endpoint is, and what it is called.
#[derive(Clone, Copy, Debug)]
pub struct Named<'e> {
    pub address: &'e Address,
    /// May be empty.
    pub hostname: &'e str,
}

/// Connects for a health check, by the socket of the endpoint: counted nowhere, and without a deadline of its own.
///
/// # Errors
/// [`ConnectErrorKind`]
pub async fn open_uncounted(
    named: Named<'_>,
    socket: Option<usize>,
    transport: &Transport,
) -> Result<Io, ConnectErrorKind> {
    let proxied = transport.proxy_protocol_of(socket);
    let io = open(named.address, transport, proxied, Some(&Via::default())).await?;
    secure(io, named, transport.tls_of(socket), None).await
}

/// Without TLS; what has to be said before that is said.
async fn open(
    address: &Address,
    transport: &Transport,
    proxied: Option<&ProxyProtocol>,
    via: Option<&Via>,
) -> Result<Io, ConnectErrorKind> {
    let source = via.and_then(|via| via.source);
    let mut io = open_socket(address, transport, source).await?;
    if let (Some(rules), Some(via)) = (proxied, via) {
        let told = io.write_all(&via.header(rules)).await;
        told.map_err(|e| ConnectErrorKind::Connect(Arc::new(e)))?;
    }
    Ok(io)
}

async fn open_socket(
    address: &Address,
    transport: &Transport,
    source: Option<Source>,
) -> Result<Io, ConnectErrorKind> {
    match address {
        Address::Socket(address) => {
            let io = match source {
                Some(source) => {
                    let socket = source.socket(*address);
                    let socket = socket.map_err(|e| ConnectErrorKind::Source(Arc::new(e)))?;
                    socket.connect(*address).await
                }
                None if transport.source_addresses.addresses.is_empty() => {
                    TcpStream::connect(address).await
                }
                None => connect_from(&transport.source_addresses, *address).await,
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
async fn connect_from(from: &SourceAddresses, address: SocketAddr) -> io::Result<TcpStream> {
    let sources = &from.addresses;
    let alike = sources.iter().find(|s| s.is_ipv4() == address.is_ipv4());
    let socket = new_socket(address)?;
    if let Some(source) = alike.or(sources.first()) {
        if from.freebind {
            set_freebind(&SockRef::from(&socket), *source)?;
        }
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
    Named { address, hostname }: Named<'_>,
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
    let own = via.and_then(|via| via.server_name.as_ref());
    // Parsed for each connection, and only where it is asked for: few endpoints have a name.
    let host = match own {
        None if tls.host_sni => ServerName::try_from(hostname.to_owned()).ok(),
        _ => None,
    };
    let name = own.or(host.as_ref()).or(tls.server_name.as_ref());
    let name = match (name, address) {
        (Some(name), _) => name.clone(),
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
    fn attempts_share_what_is_left() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(12), 3), seconds(4));
        // The first one was refused at once.
        assert_eq!(share(seconds(12), 2), seconds(6));
        assert_eq!(share(Duration::ZERO, 1), Duration::from_millis(1));
    }

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
        assert!(!of_endpoint(ConnectErrorKind::Queue(Duration::from_secs(
            1
        ))));
    }
}
