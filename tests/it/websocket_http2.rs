//! WebSockets over HTTP/2 (RFC 8441), by a client that makes its frames by hand.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::support::client::{Http2, empty};
use crate::support::{pattern, within, ws};
use crate::websocket::extended_app as app;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

type Stream = TokioIo<Upgraded>;

/// The client's ends of one WebSocket.
struct Raw {
    read: ReadHalf<Stream>,
    write: WriteHalf<Stream>,
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    last: bool,
    kind: u8,
    payload: Vec<u8>,
}

fn frame(last: bool, kind: u8, payload: &[u8]) -> Frame {
    Frame {
        last,
        kind,
        payload: payload.to_vec(),
    }
}

/// RFC 6455 section 5.2, masked as a client has to.
fn written(last: bool, kind: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![kind | if last { 0x80 } else { 0 }];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        medium @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

impl Raw {
    async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.write.write_all(bytes))
            .await
            .unwrap();
    }

    async fn next(&mut self) -> Frame {
        next(&mut self.read).await
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        message(&mut self.read).await
    }

    async fn has_ended(&mut self) {
        let mut rest = Vec::new();
        within("the end", self.read.read_to_end(&mut rest))
            .await
            .ok();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

async fn next(read: &mut ReadHalf<Stream>) -> Frame {
    within("a frame", async {
        let [first, second] = [read.read_u8().await.unwrap(), read.read_u8().await.unwrap()];
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let length = match second {
            126 => read.read_u16().await.unwrap().into(),
            127 => read.read_u64().await.unwrap(),
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        read.read_exact(&mut payload).await.unwrap();
        Frame {
            last: first & 0x80 != 0,
            kind: first & 0x0f,
            payload,
        }
    })
    .await
}

/// A whole message, whatever frames it came in, and the kind of its first one.
async fn message(read: &mut ReadHalf<Stream>) -> (u8, Vec<u8>) {
    let mut whole = next(read).await;
    while !whole.last {
        let next = next(read).await;
        assert_eq!(next.kind, CONTINUATION);
        whole.payload.extend(next.payload);
        whole.last = next.last;
    }
    (whole.kind, whole.payload)
}

async fn open(client: &Http2) -> Raw {
    let mut request = http::Request::connect("http://h/ws")
        .header("sec-websocket-version", "13")
        .body(empty())
        .unwrap();
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let mut response = client.start(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let stream = within("a tunnel", hyper::upgrade::on(&mut response))
        .await
        .unwrap();
    let (read, write) = tokio::io::split(TokioIo::new(stream));
    Raw { read, write }
}

#[tokio::test]
async fn messages_of_every_length_are_echoed() {
    let origin = ws::echo_origin().await;
    let (_app, client) = app(&origin).await;
    let mut raw = open(&client).await;
    raw.send(&written(true, TEXT, "h\u{e9}llo".as_bytes()))
        .await;
    assert_eq!(
        raw.message().await,
        (TEXT, "h\u{e9}llo".as_bytes().to_vec())
    );
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let data = pattern(length);
        raw.send(&written(true, BINARY, &data)).await;
        assert!(
            raw.message().await == (BINARY, data),
            "{length} bytes changed"
        );
    }
}

#[tokio::test]
async fn fragments_are_put_together_with_pings_between_them() {
    let origin = ws::echo_origin().await;
    let (_app, client) = app(&origin).await;
    let mut raw = open(&client).await;
    raw.send(&written(false, TEXT, b"one ")).await;
    raw.send(&written(true, PING, b"still there?")).await;
    assert_eq!(raw.next().await, frame(true, PONG, b"still there?"));
    raw.send(&written(false, CONTINUATION, b"two ")).await;
    raw.send(&written(false, CONTINUATION, b"")).await;
    raw.send(&written(true, CONTINUATION, b"three")).await;
    assert_eq!(raw.message().await, (TEXT, b"one two three".to_vec()));
    // A frame that comes byte by byte is one frame.
    for byte in written(true, TEXT, b"slowly") {
        raw.send(&[byte]).await;
    }
    assert_eq!(raw.message().await, (TEXT, b"slowly".to_vec()));
}

#[tokio::test]
async fn pings_are_answered_by_the_origin_in_order() {
    let origin = ws::echo_origin().await;
    let (_app, client) = app(&origin).await;
    let mut raw = open(&client).await;
    // An answer that nobody asked for is nothing.
    raw.send(&written(true, PONG, b"unasked")).await;
    for number in 0..5_u8 {
        let payload = vec![number; 125];
        raw.send(&written(true, PING, &payload)).await;
        assert_eq!(raw.next().await, frame(true, PONG, &payload));
    }
}

#[tokio::test]
async fn codes_of_a_close_pass_both_ways() {
    let origin = ws::echo_origin().await;
    let (_app, client) = app(&origin).await;
    for code in [1000_u16, 1001, 1011, 3000, 4321] {
        let mut raw = open(&client).await;
        let payload = [&code.to_be_bytes()[..], b"enough"].concat();
        raw.send(&written(true, CLOSE, &payload)).await;
        let answer = raw.next().await;
        assert_eq!(answer.kind, CLOSE);
        assert_eq!(answer.payload[..2], code.to_be_bytes(), "{answer:?}");
        raw.has_ended().await;
    }
    // Without a code.
    let mut raw = open(&client).await;
    raw.send(&written(true, CLOSE, b"")).await;
    assert_eq!(raw.next().await.kind, CLOSE);
    raw.has_ended().await;
    // The origin finds the mistake, and says so.
    let mut raw = open(&client).await;
    raw.send(&written(true, 3, b"no such kind")).await;
    let mut rest = Vec::new();
    within("the end", raw.read.read_to_end(&mut rest))
        .await
        .ok();
    let first = rest.first().map(|first| first & 0x0f);
    assert!(first.is_none_or(|kind| kind == CLOSE), "{rest:?}");
    // Other streams of the connection know nothing of it.
    assert_eq!(client.get("h", "/plain").await.status, 204);
    origin.has_no_connection().await;
}

#[tokio::test]
async fn messages_of_16_mib_pass() {
    const SIZE: usize = 16 << 20;
    let origin = ws::echo_origin().await;
    let (_app, client) = app(&origin).await;
    let data = pattern(SIZE);
    let one = written(true, BINARY, &data);
    let mut pieces = Vec::with_capacity(SIZE + SIZE / 1000);
    for (index, piece) in data.chunks(60_000).enumerate() {
        let last = (index + 1) * 60_000 >= SIZE;
        let kind = if index == 0 { BINARY } else { CONTINUATION };
        pieces.extend(written(last, kind, piece));
    }
    for bytes in [one, pieces] {
        let Raw {
            mut read,
            mut write,
        } = open(&client).await;
        // Read while it is sent: neither side has room for all of it.
        let sending = tokio::spawn(async move {
            write.write_all(&bytes).await.unwrap();
            write
        });
        let (kind, back) = message(&mut read).await;
        assert_eq!(kind, BINARY);
        assert!(back == data, "changed on the way");
        drop(within("the sender", sending).await.unwrap());
    }
}
