//! Reading a ClientHello that belongs to somebody else: the server name and the protocols that it
//! asks for (RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 7301 section 3.1).

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum Begins {
    /// It may become one.
    Unfinished,
    Hello(ClientHello),
    /// TLS by its first bytes, but no ClientHello.
    Broken,
    /// Something else.
    NotTls,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case; empty when there is none.
    pub server_name: String,
    pub protocols: Vec<String>,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const PROTOCOLS: u16 = 16;

/// A record holds at most so much (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;

/// Looks at all that has arrived so far.
pub fn read(bytes: &[u8]) -> Begins {
    match bytes {
        [] | [HANDSHAKE] => return Begins::Unfinished,
        [HANDSHAKE, 3, ..] => {}
        _ => return Begins::NotTls,
    }
    let message = match message(bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return Begins::Unfinished,
        Err(()) => return Begins::Broken,
    };
    hello(&message).map_or(Begins::Broken, Begins::Hello)
}

/// The body of the handshake message, put together from as many records as it takes.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    loop {
        if let [kind, a, b, c, body @ ..] = &message[..] {
            if *kind != CLIENT_HELLO {
                return Err(());
            }
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > MAX_RECORD {
                return Err(());
            }
            if let Some(body) = body.get(..length) {
                return Ok(Some(body.to_vec()));
            }
        }
        let Some(head) = records.take(5) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != HANDSHAKE || head[1] != 3 || !(1..=MAX_RECORD).contains(&length) {
            return Err(());
        }
        match records.take(length) {
            Some(part) => message.extend_from_slice(part),
            None => {
                message.extend_from_slice(records.0);
                records.0 = &[];
            }
        }
    }
}

fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    // Version and random; then session id, cipher suites and compression methods.
    body.take(2 + 32)?;
    body.short_list()?;
    body.list()?;
    body.short_list()?;
    let mut found = ClientHello::default();
    if body.0.is_empty() {
        return Some(found);
    }
    let mut extensions = Reader(body.list()?);
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.number()?, extensions.list()?);
        match kind {
            SERVER_NAME => found.server_name = server_name(content)?,
            PROTOCOLS => found.protocols = protocols(content)?,
            _ => {}
        }
    }
    Some(found)
}

fn server_name(content: &[u8]) -> Option<String> {
    let mut names = Reader(Reader(content).list()?);
    // Host names are the one kind there is (0), and there is one of them.
    let kind = names.take(1)?;
    let name = names.list()?;
    let valid = kind == [0] && !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let name = std::str::from_utf8(name).ok().filter(|_| valid)?;
    Some(name.to_ascii_lowercase())
}

fn protocols(content: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(content).list()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.short_list().filter(|name| !name.is_empty())?;
        // What is no text is in no configuration.
        protocols.push(String::from_utf8_lossy(name).into_owned());
    }
    Some(protocols)
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of two bytes says.
    fn list(&mut self) -> Option<&'b [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    /// What a length of one byte says.
    fn short_list(&mut self) -> Option<&'b [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// The first flight of a real client.
    fn first_flight(name: &str, alpn: &[&str]) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(crate::tls::provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn expected(name: &str, protocols: &[&str]) -> Begins {
        Begins::Hello(ClientHello {
            server_name: name.to_owned(),
            protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
        })
    }

    #[test]
    fn a_clients_hello_is_read_however_it_is_cut() {
        let bytes = first_flight("App.Test", &["h2", "http/1.1"]);
        let whole = expected("app.test", &["h2", "http/1.1"]);
        for n in 0..bytes.len() {
            assert_eq!(read(&bytes[..n]), Begins::Unfinished, "{n} bytes");
        }
        assert_eq!(read(&bytes), whole);
        // The same in records of seven bytes.
        let records: Vec<u8> = bytes[5..]
            .chunks(7)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat())
            .collect();
        assert_eq!(read(&records), whole);
        assert_eq!(read(&records[..records.len() - 1]), Begins::Unfinished);
    }

    #[test]
    fn a_hello_may_ask_for_nothing() {
        assert_eq!(read(&first_flight("127.0.0.1", &[])), expected("", &[]));
        // As clients of TLS 1.0 could: no extensions at all.
        let mut body = vec![3, 1];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0, 47, 1, 0]);
        let message = [&[1, 0, 0, body.len() as u8], &body[..]].concat();
        let record = [&[22, 3, 1, 0, message.len() as u8], &message[..]].concat();
        assert_eq!(read(&record), expected("", &[]));
    }

    #[test]
    fn what_is_no_hello_is_told_at_once() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4",
            b"\x16\x02\x00",
            b"\0",
        ] {
            assert_eq!(read(other), Begins::NotTls, "{other:?}");
        }
        for broken in [
            // A ServerHello; an alert behind half a message; a record of nothing; one too long.
            &b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"[..],
            b"\x16\x03\x01\x00\x04\x01\x00\x00\x09\x15\x03\x01\x00\x01x",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\xff\xff",
            // A message that is longer than any that is looked at; one that ends too early.
            b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
            b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03",
        ] {
            assert_eq!(read(broken), Begins::Broken, "{broken:?}");
        }
    }

    #[test]
    fn damaged_hellos_never_panic() {
        let whole = first_flight("app.test", &["h2"]);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = read(&bytes);
            }
        }
    }
}
