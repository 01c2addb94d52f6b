//! Running listener filters: what is found out about a connection before its chain is chosen.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use causeway_xds::resource::listener::{Facts, ListenerFilterKind, TlsInspector};

use super::client_hello::{self, Begins, ClientHello};
use super::proxy_protocol::{self, Addresses};
use crate::filter::StreamState;
use crate::net::{Io, Source, peek};
use crate::snapshot::ListenerSpec;

/// How much of a request is looked at before its version has to be there.
const MAX_REQUEST_LINE: usize = 8 * 1024;
/// How clients begin HTTP/2 in clear text (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is known about a connection.
#[derive(Debug)]
pub struct Findings {
    /// Who the client is: the peer, or whom its PROXY protocol header names.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Where the connection was bound for, if a filter found that out.
    pub restored: Option<SocketAddr>,
    /// Who really connected.
    direct: Option<IpAddr>,
    is_tls: bool,
    /// Empty unless a filter looked.
    pub hello: ClientHello,
    /// What filters have left for those behind them.
    pub state: Rc<StreamState>,
    /// A filter without which nothing may go on has not come to its end.
    pub unfinished: bool,
}

impl Findings {
    /// Before any filter has looked.
    pub fn new(peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        Self {
            peer,
            local,
            restored: None,
            direct: peer.map(|peer| peer.ip()),
            is_tls: false,
            hello: ClientHello::default(),
            state: Rc::default(),
            unfinished: false,
        }
    }

    /// What filter chains are chosen by.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            destination: self.local,
            server_name: &self.hello.server_name,
            transport_protocol: if self.is_tls { "tls" } else { "raw_buffer" },
            application_protocols: &self.hello.protocols,
            direct_source: self.direct,
            source: self.peer,
        }
    }

    /// Runs the filters in order.
    ///
    /// # Errors
    /// The connection is to be closed: it ended, or it is not what a filter demands.
    pub async fn gather(&mut self, io: &mut Io, spec: &ListenerSpec) -> io::Result<()> {
        for (filter, stats) in spec.model.listener_filters.iter().zip(&spec.filter_stats) {
            let port = self.local.map(|local| local.port());
            if filter
                .disabled
                .as_ref()
                .is_some_and(|rule| rule.matches(port))
            {
                continue;
            }
            match &filter.kind {
                ListenerFilterKind::ProxyProtocol(rules) => {
                    // Going on in the middle of a header would be going on in anybody's name.
                    self.unfinished = true;
                    let mut header = proxy_protocol::read(io, rules, stats).await?;
                    if let Some(header) = &mut header {
                        header.note(rules, &self.state);
                    }
                    if let Some(Addresses {
                        source,
                        destination,
                    }) = header.and_then(|header| header.addresses)
                    {
                        (self.peer, self.local) = (Some(source), Some(destination));
                        self.restored = Some(destination);
                    }
                    self.unfinished = false;
                }
                ListenerFilterKind::OriginalDst => {
                    if let Some(destination) = original_destination(io, spec) {
                        self.local = Some(destination);
                        self.restored = Some(destination);
                    }
                }
                ListenerFilterKind::OriginalSrc(rules) => {
                    // As the filters before it have found out.
                    if let Some(client) = self.peer {
                        let source = Source::new(client, rules.bind_port, rules.mark);
                        self.state.set_source(source);
                    }
                }
                ListenerFilterKind::TlsInspector(rules) => self.look_for_tls(io, rules).await?,
                ListenerFilterKind::HttpInspector if self.is_tls => {}
                ListenerFilterKind::HttpInspector => {
                    if let Some(protocol) = look_for_http(io).await? {
                        self.hello.protocols = vec![protocol.to_owned()];
                    }
                }
            }
        }
        Ok(())
    }

    async fn look_for_tls(&mut self, io: &Io, rules: &TlsInspector) -> io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let seen = bytes.len();
            // Most hellos fit the first time; what a client does not send is not made room for.
            bytes.resize((seen * 2).max(1024).min(rules.max_client_hello), 0);
            if bytes.len() <= seen {
                return Err(io::Error::other("the ClientHello is too large"));
            }
            let count = peek::more(io, &mut bytes, seen).await?;
            bytes.truncate(count);
            match client_hello::read(&bytes) {
                Begins::Unfinished => {}
                Begins::Hello(hello) => {
                    self.is_tls = true;
                    self.hello = hello;
                    return Ok(());
                }
                Begins::Broken if rules.close_on_errors => {
                    return Err(io::Error::other("the ClientHello is broken"));
                }
                Begins::Broken | Begins::NotTls => return Ok(()),
            }
        }
    }
}

/// Where the client meant to connect to, before the system redirected it here. `None`: it did not.
fn original_destination(io: &Io, spec: &ListenerSpec) -> Option<SocketAddr> {
    let tcp = io.tcp()?;
    let socket = socket2::SockRef::from(tcp);
    let local = tcp.local_addr().ok()?;
    if spec.options.transparent {
        // Such a connection keeps the address that it was bound for (TPROXY).
        return Some(local).filter(|local| !spec.listens_at(*local));
    }
    let found = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // A connection that is tracked has one, redirected or not: whoever follows it would come back here.
    found.ok()?.as_socket().filter(|found| *found != local)
}

/// The protocol of the first request, if it is HTTP.
async fn look_for_http(io: &Io) -> io::Result<Option<&'static str>> {
    let mut bytes = Vec::new();
    loop {
        let seen = bytes.len();
        bytes.resize((seen * 2).clamp(1024, MAX_REQUEST_LINE), 0);
        if bytes.len() <= seen {
            return Err(io::Error::other("a request line is too long"));
        }
        let count = peek::more(io, &mut bytes, seen).await?;
        bytes.truncate(count);
        if let Some(decided) = http_version(&bytes) {
            return Ok(decided);
        }
    }
}

/// `None`: more has to be seen.
fn http_version(bytes: &[u8]) -> Option<Option<&'static str>> {
    if bytes.starts_with(PREFACE) {
        return Some(Some("h2c"));
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let method = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if method == 0 || !bytes[..method].iter().all(token) {
        return Some(None);
    }
    let line = &bytes[..bytes.iter().position(|b| *b == b'\n')?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(match line.rsplit(|b| *b == b' ').next() {
        Some(b"HTTP/1.1") => Some("http/1.1"),
        Some(b"HTTP/1.0") => Some("http/1.0"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_http_is_told_by_the_first_line() {
        for (bytes, decided) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Some("http/1.1"))),
            (b"GET /a HTTP/1.0\nhost: a", Some(Some("http/1.0"))),
            (PREFACE, Some(Some("h2c"))),
            (&PREFACE[..20], None),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(None)),
            (b"GET /", None),
            (b"PR", None),
            (b"GET / HTTP/1.1\r", None),
            (b"GET /\r\n", Some(None)),
            (b"GET / HTTP/2.0\r\n", Some(None)),
            (b"\x16\x03\x01", Some(None)),
            (b" / HTTP/1.1\r\n", Some(None)),
        ] {
            assert_eq!(http_version(bytes), decided, "{bytes:?}");
        }
    }
}
