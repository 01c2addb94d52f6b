//! Connecting to one management server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use causeway_xds::client::{Connect, Connecting, Io};
use causeway_xds::resource::Address;
use causeway_xds::resource::api_source::ChannelTls;
use causeway_xds::resource::cluster::{Cluster, DnsFamily, TcpKeepalive};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::secrets::Secrets;
use crate::net::resolve::Lookup;
use crate::tls::{ClientTls, PerRequest, TlsError};

/// What makes a connection secure.
#[derive(Clone, Debug)]
pub(super) enum Security {
    None,
    /// The cluster has a TLS context, and these are the secrets that it may name.
    Cluster(Arc<Cluster>, Arc<Secrets>),
    Channel(ChannelTls),
}

/// Opens connections to a server, to each of its addresses in turn until one of them answers.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    addresses: Vec<Address>,
    /// For those that are names.
    lookup: (Lookup, DnsFamily),
    /// Bounds a lookup, and TCP and TLS to one address together.
    limit: Duration,
    keepalive: Option<TcpKeepalive>,
    security: Security,
    alpn: [String; 1],
    /// Which address comes first next time: one that answers and then fails must not be the only
    /// one that is ever tried.
    next: AtomicUsize,
}

impl Connector {
    pub(super) fn new(
        addresses: Vec<Address>,
        lookup: (Lookup, DnsFamily),
        limit: Duration,
        keepalive: Option<TcpKeepalive>,
        security: Security,
        alpn: &str,
    ) -> Self {
        Self(Arc::new(Inner {
            addresses,
            lookup,
            limit,
            keepalive,
            security,
            alpn: [alpn.to_owned()],
            next: AtomicUsize::new(0),
        }))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.0.addresses.iter().map(ToString::to_string);
        f.debug_list().entries(addresses).finish()
    }
}

impl Connect for Connector {
    fn connect(&self) -> Connecting {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.connect().await })
    }
}

impl Inner {
    async fn connect(self: Arc<Self>) -> io::Result<Box<dyn Io>> {
        let tls = self.tls().await?;
        let first = self.next.fetch_add(1, Relaxed);
        let mut reasons = Vec::new();
        for i in 0..self.addresses.len() {
            let address = &self.addresses[(first + i) % self.addresses.len()];
            match self.try_address(address, tls.as_ref()).await {
                Ok(io) => return Ok(io),
                Err(reason) => reasons.extend(reason),
            }
        }
        Err(io::Error::other(reasons.join("; ")))
    }

    /// Made anew each time, so that files are read again. They are small, but may be on a disk
    /// that is slow.
    async fn tls(self: &Arc<Self>) -> io::Result<Option<ClientTls>> {
        if matches!(self.security, Security::None) {
            return Ok(None);
        }
        let inner = Arc::clone(self);
        let build = move || inner.build_tls();
        let built = tokio::task::spawn_blocking(build).await;
        let tls = built.map_err(io::Error::other)?;
        tls.map_err(|e| io::Error::other(format!("tls: {e}")))
    }

    fn build_tls(&self) -> Result<Option<ClientTls>, TlsError> {
        match &self.security {
            Security::None => Ok(None),
            Security::Channel(channel) => ClientTls::of_channel(channel, &self.alpn).map(Some),
            Security::Cluster(cluster, secrets) => cluster
                .tls
                .as_ref()
                .map(|tls| {
                    ClientTls::build(tls, &self.alpn, PerRequest::default(), &secrets.of(tls))
                })
                .transpose(),
        }
    }

    /// # Errors
    /// What each of the addresses behind it said.
    async fn try_address(
        &self,
        address: &Address,
        tls: Option<&ClientTls>,
    ) -> Result<Box<dyn Io>, Vec<String>> {
        let found = match address {
            Address::Pipe(_) => return self.bounded(address, self.unix(address, tls)).await,
            Address::Socket(socket) => vec![*socket],
            Address::Named { host, port } => {
                let (lookup, family) = &self.lookup;
                let failed = |e: String| vec![format!("{address}: {e}")];
                match timeout(self.limit, lookup(host.clone(), *family)).await {
                    Err(_) => return Err(failed(format!("no address within {:?}", self.limit))),
                    Ok(Err(error)) => return Err(failed(error.to_string())),
                    Ok(Ok(found)) if found.addresses.is_empty() => {
                        return Err(failed("it has no address".to_owned()));
                    }
                    Ok(Ok(found)) => {
                        let found = found.addresses.into_iter();
                        found.map(|ip| SocketAddr::new(ip, *port)).collect()
                    }
                }
            }
        };
        let mut reasons = Vec::new();
        for socket in found {
            let attempt = self.tcp(socket, address, tls);
            match self.bounded(&Address::Socket(socket), attempt).await {
                Ok(io) => return Ok(io),
                Err(reason) => reasons.extend(reason),
            }
        }
        Err(reasons)
    }

    async fn bounded(
        &self,
        address: &Address,
        attempt: impl Future<Output = io::Result<Box<dyn Io>>>,
    ) -> Result<Box<dyn Io>, Vec<String>> {
        let reason = match timeout(self.limit, attempt).await {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {:?}", self.limit),
        };
        Err(vec![format!("{address}: {reason}")])
    }

    async fn tcp(
        &self,
        socket: SocketAddr,
        named: &Address,
        tls: Option<&ClientTls>,
    ) -> io::Result<Box<dyn Io>> {
        let tcp = TcpStream::connect(socket).await?;
        // An error here means that the peer is gone already; the next read tells so.
        tcp.set_nodelay(true).ok();
        if let Some(keepalive) = &self.keepalive {
            crate::upstream::keep_alive(&tcp, keepalive);
        }
        let name = match named {
            Address::Named { host, .. } => ServerName::try_from(host.clone()).ok(),
            _ => Some(ServerName::IpAddress(socket.ip().into())),
        };
        secure(tcp, tls, name).await
    }

    async fn unix(&self, address: &Address, tls: Option<&ClientTls>) -> io::Result<Box<dyn Io>> {
        let Address::Pipe(path) = address else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let unix = UnixStream::connect(path).await?;
        // Who is behind a socket file has no name but the one that configuration gives.
        secure(unix, tls, ServerName::try_from("localhost").ok()).await
    }
}

/// `name` is whom the certificate has to be for, unless configuration says another name.
async fn secure<S>(
    stream: S,
    tls: Option<&ClientTls>,
    name: Option<ServerName<'static>>,
) -> io::Result<Box<dyn Io>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = tls.server_name.clone().or(name).ok_or_else(|| {
        io::Error::other("the host is no name that a certificate can have; give `sni`")
    })?;
    let secured = tls.connector.connect(name, stream).await;
    let secured = secured.map_err(|e| io::Error::new(e.kind(), format!("tls handshake: {e}")))?;
    Ok(Box::new(secured))
}
