//! Every MUST of RFC 9113 sections 3 to 8 and of RFC 7541 that a server can be held to by a client:
//! frames by hand, and what must come of them. Over clear text and over TLS.
//!
//! A case is a name that begins with its section, what is sent, and what has to follow. Where the
//! RFC leaves a choice (a stream error may be treated as one of the connection), the table has what
//! this program does, so that a change shows.

mod connection;
mod fields;
mod frames;
mod hpack;
mod streams;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::app::TestApp;
use crate::support::bootstrap::{bootstrap, cluster, http, listener, routes};
use crate::support::origin::Origin;
use wire::{ACK, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame};

/// Connections at a time.
const AT_ONCE: usize = 16;
/// No healthy case comes near.
const LIMIT: Duration = Duration::from_secs(20);
/// What is known to do nothing is not waited for that long.
const KNOWN_LIMIT: Duration = Duration::from_millis(300);
/// What says that the connection still lives.
const ALIVE: [u8; 8] = *b"alive?!\n";

/// What the library does not look at, and what comes of it. Not more than these: a case that passes
/// after all has to leave the list.
const KNOWN: [(&str, &str); 1] = [(
    "8.1 a pseudo field in trailers",
    "it is dropped, and goes to no application",
)];

/// What has to follow.
pub enum Expect {
    /// The connection ends: by GOAWAY with one of these codes.
    Connection(&'static [u32]),
    /// The connection is closed; what is said before does not matter.
    Closed,
    /// A stream ends by RST_STREAM with one of these codes, and the connection lives on.
    Stream(u32, &'static [u32]),
    /// An answer with this status, and the connection lives on.
    Answer(u32, u16),
    /// Nothing: the connection lives on, and no stream was reset.
    Fine,
    /// What was seen so far is as it has to be. Asked again with each frame.
    Seen(fn(&[Frame]) -> bool),
}

pub struct Case {
    name: &'static str,
    /// Sent first, and waited for until stream 1 has ended.
    before: Vec<u8>,
    send: Vec<u8>,
    /// Without preface and settings in front.
    raw: bool,
    expect: Expect,
}

pub fn case(name: &'static str, send: Vec<u8>, expect: Expect) -> Case {
    Case {
        name,
        before: Vec::new(),
        send,
        raw: false,
        expect,
    }
}

impl Case {
    pub fn after(mut self, before: Vec<u8>) -> Self {
        self.before = before;
        self
    }

    pub fn raw(mut self) -> Self {
        self.raw = true;
        self
    }
}

fn cases() -> Vec<Case> {
    let mut all = connection::cases();
    all.extend(frames::cases());
    all.extend(streams::cases());
    all.extend(fields::cases());
    all.extend(hpack::cases());
    all
}

/// Both ends of one connection, as a client sees it.
struct Peer<S> {
    stream: S,
    bytes: Vec<u8>,
    seen: Vec<Frame>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// The next frame; `None` at the end of the connection. Settings are acknowledged.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(found) = Frame::take(&mut self.bytes) {
                if found.kind == SETTINGS && found.flags & ACK == 0 {
                    self.send(&frame(SETTINGS, ACK, 0, b"")).await;
                }
                self.seen.push(found.clone());
                return Some(found);
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The other side may have closed already: then that is what is seen next.
    async fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            self.stream.flush().await.ok();
        }
    }

    async fn is_alive(&mut self) -> Result<(), String> {
        self.send(&frame(PING, 0, 0, &ALIVE)).await;
        loop {
            match self.next().await {
                Some(f) if f.kind == PING && f.flags & ACK != 0 && f.payload == ALIVE => {
                    return Ok(());
                }
                Some(f) if f.kind == GOAWAY => return Err(format!("GOAWAY {}", f.code())),
                Some(_) => {}
                None => return Err("the connection ended".to_owned()),
            }
        }
    }

    /// Whether the case went as it should; what was seen instead.
    async fn run(&mut self, case: &Case) -> Result<(), String> {
        if !case.raw {
            self.send(&[PREFACE, &wire::settings(&[])].concat()).await;
        }
        if !case.before.is_empty() {
            self.send(&case.before).await;
            loop {
                match self.next().await {
                    Some(f) if f.stream == 1 && (f.ends_stream() || f.kind == RST_STREAM) => break,
                    Some(f) if f.kind == GOAWAY => return Err(format!("GOAWAY {}", f.code())),
                    Some(_) => {}
                    None => return Err("ended before the case began".to_owned()),
                }
            }
        }
        self.send(&case.send).await;
        if let Expect::Fine = case.expect {
            self.is_alive().await?;
            let resets = self.seen.iter().find(|f| f.kind == RST_STREAM);
            return resets.map_or(Ok(()), |f| Err(format!("reset: {f:?}")));
        }
        loop {
            let next = self.next().await;
            match (&case.expect, next) {
                (Expect::Closed, None) => return Ok(()),
                (Expect::Connection(codes), Some(f)) if f.kind == GOAWAY => {
                    return match codes.contains(&f.code()) {
                        true => Ok(()),
                        false => Err(format!("GOAWAY {}", f.code())),
                    };
                }
                (Expect::Stream(stream, codes), Some(f))
                    if f.kind == RST_STREAM && f.stream == *stream =>
                {
                    if !codes.contains(&f.code()) {
                        return Err(format!("RST_STREAM {}", f.code()));
                    }
                    return self.is_alive().await;
                }
                (Expect::Answer(stream, status), Some(f))
                    if f.kind == HEADERS && f.stream == *stream =>
                {
                    if f.status() != Some(*status) {
                        return Err(format!("answer {:?}", f.status()));
                    }
                    return self.is_alive().await;
                }
                (Expect::Seen(whether), Some(_)) if whether(&self.seen) => return Ok(()),
                (_, Some(_)) => {}
                (_, None) => return Err("the connection ended".to_owned()),
            }
        }
    }
}

async fn run(at: SocketAddr, tls: Option<&TlsConnector>, case: &Case) -> Result<(), String> {
    let tcp = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    match tls {
        None => outcome(tcp, case).await,
        Some(tls) => {
            let name = ServerName::try_from("localhost").unwrap();
            let stream = tls.connect(name, tcp).await.map_err(|e| e.to_string())?;
            outcome(stream, case).await
        }
    }
}

async fn outcome(stream: impl AsyncRead + AsyncWrite + Unpin, case: &Case) -> Result<(), String> {
    let mut peer = Peer {
        stream,
        bytes: Vec::new(),
        seen: Vec::new(),
    };
    let known = KNOWN.iter().any(|(name, _)| *name == case.name);
    let limit = if known { KNOWN_LIMIT } else { LIMIT };
    let ended = tokio::time::timeout(limit, peer.run(case)).await;
    let why = match ended {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(_) => "nothing happened".to_owned(),
    };
    let seen = peer.seen.iter().map(|f| {
        let code = matches!(f.kind, GOAWAY | RST_STREAM).then(|| f.code());
        format!(
            "{}:{}{}",
            f.kind,
            f.stream,
            code.map_or(String::new(), |c| format!("={c}"))
        )
    });
    Err(format!(
        "{why}; frames {}",
        seen.collect::<Vec<_>>().join(" ")
    ))
}

/// A server that only speaks HTTP/2.
async fn serving(transport: Option<Value>) -> (TestApp, [Origin; 2]) {
    let origin = Origin::echo().await;
    // Takes connections and reads nothing.
    let held = Origin::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let manager = http(&json!({
        "codec_type": "HTTP2",
        "route_config": routes(&json!([
            {"match": {"prefix": "/up"}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/held"}, "route": {"cluster": "held"}},
            {"match": {"prefix": "/"}, "direct_response":
                {"status": 200, "body": {"inline_string": "x".repeat(4000)}}},
        ])),
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "override_stream_error_on_invalid_http_message": true,
        },
    }));
    let mut listener = listener("web", &manager);
    if let Some(transport) = transport {
        listener["filter_chains"][0]["transport_socket"] = transport;
    }
    let clusters = [cluster("a", origin.address), cluster("held", held.address)];
    let text = bootstrap(&[listener], &clusters);
    (TestApp::bootstrap(&text.to_string()).await, [origin, held])
}

async fn all_pass(at: SocketAddr, tls: Option<TlsConnector>) {
    let cases = cases();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1], "two cases have one name");
    }
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let tls = tls.as_ref();
    let failed: Vec<String> = futures_util::stream::iter(&cases)
        .map(|case| async move {
            let known = KNOWN.iter().find(|(name, _)| *name == case.name);
            let what = match (run(at, tls, case).await, known) {
                (Ok(()), Some((_, why))) => format!("passes, and should not: {why}"),
                (Err(why), None) => why,
                (Ok(()), None) | (Err(_), Some(_)) => return None,
            };
            Some(format!("{}: {what}", case.name))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(
        failed.is_empty(),
        "{} of {} cases:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

#[tokio::test]
async fn every_must_is_kept_in_clear_text() {
    let (app, _origins) = serving(None).await;
    all_pass(app.listener("web"), None).await;
}

#[tokio::test]
async fn every_must_is_kept_over_tls() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let transport = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [{
                    "certificate_chain": {"inline_string": cert.pem()},
                    "private_key": {"inline_string": signing_key.serialize_pem()},
                }],
            },
        },
    });
    let (app, _origins) = serving(Some(transport)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    all_pass(app.listener("web"), Some(tls)).await;
}
