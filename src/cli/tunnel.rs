//! `causeway tunnel`: local connections joined to an application that speaks TCP and is reached
//! through a WebSocket. With `--stdio` one connection, over standard input and output, for the
//! `ProxyCommand` of ssh.

mod cookies;

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use http::header::{
    ACCEPT, AUTHORIZATION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL,
};
use http::{Request, StatusCode, Uri};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::args::TunnelArgs;
use crate::net::websocket::{Dialect, Ended, Leave, Rules, join};
use crate::net::{Io, Unchecked, system_roots};
use crate::runtime::farewell::{self, Guest};

/// How long a server may take until it has accepted a WebSocket.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a signal waits for the connections that it ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Local connections at a time; one more waits until another has ended.
const CONNECTIONS: usize = 1024;
/// The largest message that a server may send.
const MAX_MESSAGE: usize = 16 << 20;
/// The scheme under which workers know tokens of model services.
const TOKEN_SCHEME: &str = "BackendAI";
/// How long accepting pauses when no more connections can be had.
const PAUSE: Duration = Duration::from_millis(50);

/// # Errors
/// The arguments make no sense, or the one connection of `--stdio` did not end well.
pub(super) fn run(args: &TunnelArgs) -> Result<()> {
    crate::tls::install_provider();
    let server = Rc::new(Server::new(args)?);
    let runtime = super::runtime()?;
    let local = tokio::task::LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let work = async {
            match args.stdio {
                true => stdio(&server).await,
                false => listen(Rc::clone(&server), args.listen).await,
            }
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            ended = &mut work => ended,
            told = told_to_end() => {
                told?;
                // ssh ends its command by a signal: the other side is to know that this was all.
                tokio::select! {
                    ended = work => ended,
                    () = farewell::bid(FAREWELL) => Ok(()),
                }
            }
        }
    });
    // Standard input may be waited for by a thread that nothing else can stop.
    runtime.shutdown_background();
    ended
}

/// Resolves once a signal says so.
async fn told_to_end() -> std::io::Result<()> {
    let mut signals = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ]
    .into_iter()
    .map(signal)
    .collect::<Result<Vec<_>, _>>()?;
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(received).await;
    Ok(())
}

async fn stdio(server: &Server) -> Result<()> {
    let socket = server.open().await?;
    let bytes = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
    match carry(socket, bytes, server.ping).await {
        None => Ok(()),
        Some(why) => Err(anyhow!("{}: {why}", server.url)),
    }
}

async fn listen(server: Rc<Server>, at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).await;
    let listener = listener.with_context(|| format!("cannot listen on {at}"))?;
    println!("listening on {}", listener.local_addr()?);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let (io, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("causeway: cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // An error here means that the peer is gone already.
        io.set_nodelay(true).ok();
        let server = Rc::clone(&server);
        tokio::task::spawn_local(async move {
            let _permit = permit;
            let why = match server.open().await {
                Ok(socket) => carry(socket, io, server.ping).await,
                Err(error) => Some(format!("{error:#}")),
            };
            if let Some(why) = why {
                eprintln!("causeway: {peer}: {why}");
            }
        });
    }
}

/// Carries bytes to the end. What went wrong, if something did.
async fn carry(
    (socket, dialect): (WebSocketStream<Io>, Dialect),
    bytes: impl AsyncRead + AsyncWrite,
    ping: Duration,
) -> Option<String> {
    let rules = rules(dialect, ping);
    let guest = Guest::enter();
    let leave = async {
        guest.ending().await;
        Leave::Away("")
    };
    match join(socket, bytes, rules, leave, |_, _| ()).await {
        // 1005: closed without a code.
        Ended::Closed | Ended::ByPeer(1000 | 1005, _) => None,
        Ended::ByPeer(code, reason) if reason.is_empty() => Some(format!("closed ({code})")),
        Ended::ByPeer(code, reason) => Some(format!("closed: {reason} ({code})")),
        Ended::Silent => Some("the server does not answer pings".to_owned()),
        Ended::Refused(_, why) => Some(format!("the server broke the protocol: {why}")),
        Ended::SocketBroken(error) => Some(format!("the connection broke off: {error}")),
        Ended::BytesBroken(error) => Some(format!("the local connection broke off: {error}")),
        Ended::Idle | Ended::Left(_) => None,
    }
}

const fn rules(dialect: Dialect, ping: Duration) -> Rules {
    Rules {
        dialect,
        max_message: MAX_MESSAGE,
        ping,
        idle: Duration::ZERO,
    }
}

/// Where WebSockets are opened, and with what.
struct Server {
    url: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    fields: Vec<(HeaderName, HeaderValue)>,
    ping: Duration,
}

impl Server {
    fn new(args: &TunnelArgs) -> Result<Self> {
        let (url, secure) = websocket_url(&args.url)?;
        let host = url.host().context("the URL has no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match secure {
            true => {
                let name = ServerName::try_from(host.clone());
                let name = name.with_context(|| format!("{host:?} cannot be on a certificate"))?;
                Some((connector(args.insecure, args.ca_file.as_deref())?, name))
            }
            false => None,
        };
        Ok(Self {
            port: url.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            fields: fields(args, &host, url.path(), secure)?,
            url,
            host,
            tls,
            ping: Duration::from_secs(args.ping),
        })
    }

    /// A WebSocket, and how the end of one direction is said in it.
    async fn open(&self) -> Result<(WebSocketStream<Io>, Dialect)> {
        match tokio::time::timeout(CONNECT, self.connect()).await {
            Ok(opened) => opened.with_context(|| self.url.to_string()),
            Err(_) => bail!("{}: no WebSocket within {CONNECT:?}", self.url),
        }
    }

    async fn connect(&self) -> Result<(WebSocketStream<Io>, Dialect)> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.context("cannot connect")?;
        tcp.set_nodelay(true).ok();
        let io = match &self.tls {
            None => Io::Tcp(tcp),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                Io::ClientTls(Box::new(tls.context("TLS handshake")?))
            }
        };
        let config = rules(Dialect::default(), self.ping).config();
        let opened = client_async_with_config(self.request()?, io, Some(config)).await;
        let (socket, response) = opened.map_err(refused)?;
        let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
        let chosen = chosen.and_then(|name| name.to_str().ok());
        let dialect = Dialect::choose(chosen.into_iter());
        Ok((socket, dialect.unwrap_or_default()))
    }

    fn request(&self) -> Result<Request<()>> {
        let mut request = self.url.clone().into_client_request()?;
        let headers = request.headers_mut();
        let offered = Dialect::ALL.map(Dialect::subprotocol).join(", ");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(offered)?);
        // What is given here replaces what would be said otherwise, `Host` above all.
        for (name, _) in &self.fields {
            headers.remove(name);
        }
        for (name, value) in &self.fields {
            headers.append(name, value.clone());
        }
        Ok(request)
    }
}

/// Also of the URL that a browser shows.
fn websocket_url(text: &str) -> Result<(Uri, bool)> {
    let url: Uri = text
        .parse()
        .with_context(|| format!("{text:?} is no URL"))?;
    let secure = match url.scheme_str() {
        Some("ws" | "http") => false,
        Some("wss" | "https") => true,
        _ => bail!("{text:?} must begin with ws://, wss://, http:// or https://"),
    };
    let mut parts = url.into_parts();
    parts.scheme = Some(if secure { "wss" } else { "ws" }.parse()?);
    Ok((Uri::from_parts(parts)?, secure))
}

/// The fields of the handshake that are ours to choose.
fn fields(
    args: &TunnelArgs,
    host: &str,
    path: &str,
    secure: bool,
) -> Result<Vec<(HeaderName, HeaderValue)>> {
    // Of all the forms that a refusal can have, the one that can be shown.
    let mut fields = vec![(ACCEPT, HeaderValue::from_static("application/json"))];
    let from_file = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(from_file(file)?),
        (None, None) => None,
    };
    let mut secret = |name, value: String| {
        // What is in it is not to be shown.
        let value = HeaderValue::try_from(value);
        let mut value = value.map_err(|_| anyhow!("{name}: not a field value"))?;
        value.set_sensitive(true);
        fields.push((name, value));
        anyhow::Ok(())
    };
    if let Some(token) = token {
        secret(AUTHORIZATION, format!("{TOKEN_SCHEME} {}", token.trim()))?;
    }
    if let Some(file) = &args.cookie_file {
        let request = cookies::Asked {
            host,
            path,
            secure,
            now: SystemTime::now(),
        };
        let cookies = cookies::of(&from_file(file)?, request);
        if cookies.is_empty() {
            bail!("{}: no cookie for {host}{path}", file.display());
        }
        secret(COOKIE, cookies)?;
    }
    for field in &args.headers {
        let (name, value) = field
            .split_once(':')
            .with_context(|| format!("--header {field:?} is not NAME: VALUE"))?;
        let name = HeaderName::try_from(name.trim()).with_context(|| format!("{name:?}"))?;
        fields.push((name, HeaderValue::try_from(value.trim())?));
    }
    Ok(fields)
}

fn connector(insecure: bool, ca_file: Option<&Path>) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let roots = match ca_file {
            Some(file) => roots(file).with_context(|| file.display().to_string())?,
            None => system_roots().map_err(|why| anyhow!("the system's authorities: {why}"))?,
        };
        builder.with_root_certificates(roots)
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    match roots.is_empty() {
        true => bail!("holds no certificate"),
        false => Ok(roots),
    }
}

/// What a handshake failed by, in words that help.
fn refused(error: Error) -> anyhow::Error {
    let Error::Http(response) = error else {
        return error.into();
    };
    let hint = match response.status() {
        StatusCode::UNAUTHORIZED => " (see --cookie-file and --token-file)",
        _ => "",
    };
    anyhow!("the server answered {}{hint}", response.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_browser_will_do() {
        for (text, url, secure) in [
            ("http://h/s/ssh", "ws://h/s/ssh", false),
            ("https://h:8443/?x=1", "wss://h:8443/?x=1", true),
            ("ws://h", "ws://h/", false),
            ("wss://[::1]:1/a", "wss://[::1]:1/a", true),
        ] {
            let (found, is_secure) = websocket_url(text).unwrap();
            assert_eq!((found.to_string().as_str(), is_secure), (url, secure));
        }
        for text in ["h", "ftp://h", "ws:/x", ""] {
            assert!(websocket_url(text).is_err(), "{text}");
        }
    }
}
