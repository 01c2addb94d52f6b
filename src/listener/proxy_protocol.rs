//! The PROXY protocol, versions 1 and 2: whose connection this is, told by the proxy in front.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_xds::resource::listener::{ProxyProtocol, TlvRule};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::tlv::{PassTlvs, Tlv};
use tokio::io::AsyncReadExt;

use crate::filter::StreamState;
use crate::net::{Io, peek};
use crate::snapshot::{ProxyProtocolStats, VersionStats};

/// The longest header of version 1, its end included.
const MAX_V1: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the addresses.
const V2_HEAD: usize = V2.len() + 4;

/// The addresses of a connection as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Debug, Default)]
pub struct Header {
    /// `None`: the connection keeps its own.
    pub addresses: Option<Addresses>,
    /// Those that are asked for.
    pub tlvs: Vec<Tlv>,
}

impl Header {
    /// Leaves the extensions where filters, logs and endpoints find them.
    pub fn note(&mut self, rules: &ProxyProtocol, state: &StreamState) {
        let mut noted: Vec<&TlvRule> = Vec::new();
        for tlv in &self.tlvs {
            for rule in rules.rules.iter().filter(|rule| rule.kind == tlv.kind) {
                // Of several of one type the first is told.
                if !noted.contains(&rule) {
                    let value = MetadataValue::Text(told(&tlv.value, rule.base64));
                    state.set_metadata(&rule.namespace, &rule.key, value);
                    noted.push(rule);
                }
            }
        }
        self.tlvs.retain(|tlv| rules.pass.includes(tlv.kind));
        state.set_tlvs(std::mem::take(&mut self.tlvs));
    }
}

/// As text, with `!` for what is none.
fn told(value: &[u8], base64: bool) -> String {
    use base64::Engine as _;
    if base64 {
        return base64::engine::general_purpose::STANDARD.encode(value);
    }
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('!');
        }
    }
    text
}

/// What a connection begins with, as far as that is known.
enum Begins {
    Unknown,
    Otherwise,
    /// Its header, which is looked for or not.
    Version1(bool),
    Version2(bool),
}

/// Takes the header from the connection. `None`: there is none, and none is needed.
///
/// # Errors
/// There is no header, a broken one, or one that is not wanted: nothing else that comes on this
/// connection can be believed.
pub async fn read(
    io: &mut Io,
    rules: &ProxyProtocol,
    stats: &ProxyProtocolStats,
) -> io::Result<Option<Header>> {
    let mut begins = Begins::Unknown;
    let found = find(io, rules, &mut begins).await;
    let of_version = |version: &VersionStats, wanted: bool| match (&found, wanted) {
        (Ok(Some(_)), _) => version.found.inc(),
        (Ok(None), _) => stats.not_found_allowed.inc(),
        (Err(_), true) => version.error.inc(),
        (Err(_), false) => version.disallowed.inc(),
    };
    match begins {
        Begins::Unknown => {}
        Begins::Otherwise if found.is_ok() => stats.not_found_allowed.inc(),
        Begins::Otherwise => stats.not_found_disallowed.inc(),
        Begins::Version1(wanted) => of_version(&stats.v1, wanted),
        Begins::Version2(wanted) => of_version(&stats.v2, wanted),
    }
    found
}

async fn find(
    io: &mut Io,
    rules: &ProxyProtocol,
    begins: &mut Begins,
) -> io::Result<Option<Header>> {
    let mut start = [0; MAX_V1];
    let mut seen = 0;
    loop {
        seen = peek::more(io, &mut start, seen).await?;
        let bytes = &start[..seen];
        // Every byte is looked at before the next is waited for: a client that begins otherwise
        // may be waiting for an answer.
        if bytes.starts_with(V2) {
            *begins = Begins::Version2(rules.version_2);
            return match rules.version_2 {
                true => read_v2(io, rules).await.map(Some),
                false => unwanted(rules),
            };
        }
        if bytes.starts_with(V1) {
            *begins = Begins::Version1(rules.version_1);
            if !rules.version_1 {
                return unwanted(rules);
            }
            if let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
                let addresses = parse_v1(&bytes[..end])?;
                io.read_exact(&mut [0; MAX_V1][..end + 2]).await?;
                let tlvs = Vec::new();
                return Ok(Some(Header { addresses, tlvs }));
            }
            if seen == MAX_V1 {
                return Err(wrong("a header of version 1 has no end"));
            }
            continue;
        }
        if !V1.starts_with(bytes) && !V2.starts_with(bytes) {
            *begins = Begins::Otherwise;
            return match rules.optional {
                true => Ok(None),
                false => Err(wrong("there is no PROXY protocol header")),
            };
        }
    }
}

/// A version that is not looked for is as good as no header.
fn unwanted(rules: &ProxyProtocol) -> io::Result<Option<Header>> {
    match rules.optional {
        true => Ok(None),
        false => Err(wrong("this version of the PROXY protocol is not allowed")),
    }
}

fn wrong(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn parse_v1(line: &[u8]) -> io::Result<Option<Addresses>> {
    let broken = || wrong("the PROXY protocol header is broken");
    let line = std::str::from_utf8(line).map_err(|_| broken())?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or_else(broken)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut word = || words.next().ok_or_else(broken);
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(broken());
    }
    let address = |ip: &str, port: &str| -> Option<SocketAddr> {
        let ip = match family {
            "TCP4" => IpAddr::V4(ip.parse().ok()?),
            "TCP6" => IpAddr::V6(ip.parse().ok()?),
            _ => return None,
        };
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        Some(SocketAddr::new(ip, port.parse().ok().filter(|_| digits)?))
    };
    Ok(Some(Addresses {
        source: address(source, source_port).ok_or_else(broken)?,
        destination: address(destination, destination_port).ok_or_else(broken)?,
    }))
}

async fn read_v2(io: &mut Io, rules: &ProxyProtocol) -> io::Result<Header> {
    let mut head = [0; V2_HEAD];
    io.read_exact(&mut head).await?;
    let [version_command, family, length @ ..] = [head[12], head[13], head[14], head[15]];
    let length = usize::from(u16::from_be_bytes(length));
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    let size = match (version_command, family) {
        (LOCAL, _) => 0,
        (PROXY, TCP4) => 12,
        (PROXY, TCP6) => 36,
        (LOCAL..=0x2f, _) => {
            return Err(wrong("the PROXY protocol header is not about TCP over IP"));
        }
        _ => return Err(wrong("this version of the PROXY protocol is not known")),
    };
    let mut addresses = [0; 36];
    let addresses = &mut addresses[..size];
    let Some(extensions) = length.checked_sub(size) else {
        return Err(wrong("the PROXY protocol header is too short"));
    };
    io.read_exact(addresses).await?;
    let tlvs = read_tlvs(io, extensions, rules).await?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let v4 = |at: usize| <[u8; 4]>::try_from(&addresses[at..at + 4]).map(Ipv4Addr::from);
    let v6 = |at: usize| <[u8; 16]>::try_from(&addresses[at..at + 16]).map(Ipv6Addr::from);
    let addresses = match size {
        12 => v4(0)
            .ok()
            .zip(v4(4).ok())
            .map(|(source, destination)| Addresses {
                source: SocketAddr::new(source.into(), port(8)),
                destination: SocketAddr::new(destination.into(), port(10)),
            }),
        36 => v6(0)
            .ok()
            .zip(v6(16).ok())
            .map(|(source, destination)| Addresses {
                source: SocketAddr::new(source.into(), port(32)),
                destination: SocketAddr::new(destination.into(), port(34)),
            }),
        _ => None,
    };
    Ok(Header { addresses, tlvs })
}

/// The extensions that somebody asks for.
async fn read_tlvs(io: &mut Io, count: usize, rules: &ProxyProtocol) -> io::Result<Vec<Tlv>> {
    let asked = |kind| rules.pass.includes(kind) || rules.rules.iter().any(|r| r.kind == kind);
    if rules.pass == PassTlvs::None && rules.rules.is_empty() {
        skip(io, count).await?;
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; count];
    io.read_exact(&mut bytes).await?;
    let (mut rest, mut tlvs) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let short = || wrong("an extension of the PROXY protocol header is cut off");
        let (&[kind, high, low], behind) = rest.split_first_chunk().ok_or_else(short)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        if asked(kind) {
            let value = value.to_vec();
            tlvs.push(Tlv { kind, value });
        }
        rest = behind;
    }
    Ok(tlvs)
}

/// Extensions that nobody asks for.
async fn skip(io: &mut Io, mut count: usize) -> io::Result<()> {
    let mut discarded = [0; 256];
    while count > 0 {
        let part = count.min(discarded.len());
        io.read_exact(&mut discarded[..part]).await?;
        count -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    const STRICT: ProxyProtocol = ProxyProtocol {
        optional: false,
        version_1: true,
        version_2: true,
        stat_prefix: String::new(),
        rules: Vec::new(),
        pass: PassTlvs::None,
    };

    /// What a header comes to, and what is left of the connection behind it.
    async fn of(header: &[u8], rules: &ProxyProtocol) -> Result<(String, Vec<u8>), String> {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(header).await.unwrap();
        client.write_all(b"rest").await.unwrap();
        drop(client);
        let mut io = Io::Unix(server);
        let found = read(&mut io, rules, &ProxyProtocolStats::default())
            .await
            .map_err(|e| e.to_string())?;
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        let found = found.and_then(|header| header.addresses);
        let found = found.map_or("its own".into(), |a| {
            format!("{} {}", a.source, a.destination)
        });
        Ok((found, rest))
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2, &[version_command, family], &length, body].concat()
    }

    #[tokio::test]
    async fn headers_name_the_client_and_nothing_behind_them_is_lost() {
        let four = [203, 0, 113, 9, 10, 0, 0, 1, 0x15, 0xb3, 0, 80];
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[31] = 1;
        six[33] = 7;
        let long = [&four[..], &[0; 3000]].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 5555 80\r\n".to_vec(),
                "203.0.113.9:5555 10.0.0.1:80",
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 5555 80\r\n".to_vec(),
                "[2001:db8::1]:5555 [::1]:80",
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), "its own"),
            (b"PROXY UNKNOWN what ever 1 2\r\n".to_vec(), "its own"),
            (v2(0x21, 0x11, &four), "203.0.113.9:5555 10.0.0.1:80"),
            (v2(0x21, 0x11, &long), "203.0.113.9:5555 10.0.0.1:80"),
            (v2(0x21, 0x21, &six), "[2001::]:7 [::1]:0"),
            (v2(0x20, 0, b""), "its own"),
            (v2(0x20, 0x11, &four), "its own"),
        ] {
            let found = of(&header, &STRICT).await;
            assert_eq!(
                found,
                Ok((expected.to_owned(), b"rest".to_vec())),
                "{header:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_not_believed() {
        let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for header in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 bad\r\n".to_vec(),
            b"PROXY\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n".to_vec(),
            b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4".to_vec(),
            endless,
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x11, 0x11, &[0; 12]),
        ] {
            assert!(of(&header, &STRICT).await.is_err(), "{header:?}");
            // Whoever begins like a header means one.
            let lenient = ProxyProtocol {
                optional: true,
                ..STRICT
            };
            let plain = !header.starts_with(V1) && !header.starts_with(V2);
            assert_eq!(of(&header, &lenient).await.is_ok(), plain, "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_version_that_is_not_allowed_is_no_header() {
        let one = b"PROXY UNKNOWN\r\n".to_vec();
        let two = v2(0x20, 0, b"");
        for (optional, allowed) in [(false, None), (true, Some("its own"))] {
            let only_two = ProxyProtocol {
                optional,
                version_1: false,
                version_2: true,
                ..STRICT
            };
            let found = of(&one, &only_two).await.ok();
            assert_eq!(found.as_ref().map(|f| &*f.0), allowed);
            let untouched = [&one[..], b"rest"].concat();
            assert!(found.is_none_or(|(_, rest)| rest == untouched));
            assert_eq!(of(&two, &only_two).await.unwrap().1, b"rest");
        }
    }

    #[tokio::test]
    async fn extensions_are_noted_and_passed_on_as_the_rules_say() {
        let rule = |kind, key: &str, base64| TlvRule {
            kind,
            namespace: "pp".to_owned(),
            key: key.to_owned(),
            base64,
        };
        let rules = ProxyProtocol {
            rules: vec![
                rule(0x02, "authority", false),
                rule(0xea, "id", true),
                rule(0xee, "never", false),
            ],
            pass: PassTlvs::Only(vec![0xea, 0xeb]),
            ..STRICT
        };
        let tlv = |kind: u8, value: &[u8]| {
            let length = u16::try_from(value.len()).unwrap().to_be_bytes();
            [&[kind][..], &length, value].concat()
        };
        let extensions = [
            tlv(0x02, b"app\xff.test"),
            tlv(0x02, b"second"),
            tlv(0xea, b"\0\x01"),
            tlv(0xeb, b""),
            tlv(0x30, b"other"),
        ]
        .concat();
        let four = [203, 0, 113, 9, 10, 0, 0, 1, 0x15, 0xb3, 0, 80];
        let (mut client, server) = UnixStream::pair().unwrap();
        let header = v2(0x21, 0x11, &[&four[..], &extensions].concat());
        client.write_all(&header).await.unwrap();
        client.write_all(b"rest").await.unwrap();
        let mut io = Io::Unix(server);
        let mut header = read(&mut io, &rules, &ProxyProtocolStats::default())
            .await
            .unwrap()
            .unwrap();
        assert!(header.addresses.is_some());
        let state = StreamState::default();
        header.note(&rules, &state);
        let noted = state.metadata("pp");
        let text = |t: &str| MetadataValue::Text(t.to_owned());
        let expected = vec![
            ("authority".to_owned(), text("app!.test")),
            ("id".to_owned(), text("AAE=")),
        ];
        assert_eq!(noted.as_deref(), Some(&MetadataValue::Object(expected)));
        let passed: Vec<_> = state.tlvs().unwrap().iter().map(|t| t.kind).collect();
        assert_eq!(passed, [0xea, 0xeb]);

        for broken in [&extensions[..extensions.len() - 1], &[0x02, 0]] {
            let header = v2(0x21, 0x11, &[&four[..], broken].concat());
            assert!(of(&header, &rules).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_connections_begin_with_is_counted() {
        let stats = ProxyProtocolStats::default();
        let only_two = |optional| ProxyProtocol {
            optional,
            version_1: false,
            ..STRICT
        };
        for (bytes, rules) in [
            (&b"PROXY UNKNOWN\r\n"[..], STRICT),
            (b"PROXY nonsense\r\n", STRICT),
            (b"PROXY UNKNOWN\r\n", only_two(false)),
            (b"PROXY UNKNOWN\r\n", only_two(true)),
            (&v2(0x20, 0, b""), only_two(false)),
            (b"GET / HTTP/1.1\r\n", only_two(false)),
            (b"GET / HTTP/1.1\r\n", only_two(true)),
            (b"PROX", STRICT),
        ] {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(bytes).await.unwrap();
            drop(client);
            read(&mut Io::Unix(server), &rules, &stats).await.ok();
        }
        let of = |version: &VersionStats| {
            let counters = [&version.found, &version.disallowed, &version.error];
            counters.map(|counter| counter.value())
        };
        assert_eq!(of(&stats.v1), [1, 1, 1]);
        assert_eq!(of(&stats.v2), [1, 0, 0]);
        let absent = [&stats.not_found_allowed, &stats.not_found_disallowed];
        assert_eq!(absent.map(|counter| counter.value()), [2, 1]);
    }
}
