//! HTTP/2 on the wire, made and read by hand: what a library would never send is the point.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 0x20;

pub const PROTOCOL: u32 = 1;
pub const FLOW_CONTROL: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE: u32 = 6;
pub const REFUSED: u32 = 7;
pub const COMPRESSION: u32 = 9;

/// The code for what a section says, or the one by which the library calls all of them.
pub const SIZE: &[u32] = &[FRAME_SIZE, PROTOCOL];
pub const TABLES: &[u32] = &[COMPRESSION, PROTOCOL];
pub const WINDOW: &[u32] = &[FLOW_CONTROL, PROTOCOL];

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// A field that enters no table, neither side compressed (RFC 7541 section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        out.extend(integer(0, 7, text.len()));
        out.extend(text.as_bytes());
    }
    out
}

/// RFC 7541 section 5.1; `first` has the bits before the prefix.
pub fn integer(first: u8, prefix: u8, value: usize) -> Vec<u8> {
    let most = (1_usize << prefix) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut out = vec![first | u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(n, v)| field(n, v)).collect()
}

/// The pseudo fields of a request, and more.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = fields(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
    ]);
    block.extend(fields(more));
    block
}

pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

/// A whole request without a body.
pub fn get(stream: u32) -> Vec<u8> {
    whole(stream, &request("GET", "/", &[]))
}

pub fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    headers(stream, END_STREAM | END_HEADERS, block)
}

/// The head of a request that has a body.
pub fn post(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &request("POST", "/up", &[]))
}

pub fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, payload)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

pub fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in pairs {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub fn priority(stream: u32, on: u32) -> Vec<u8> {
    let mut payload = on.to_be_bytes().to_vec();
    payload.push(15);
    frame(PRIORITY, 0, stream, &payload)
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The first one in `bytes`, which it is taken from; `None` until it is whole.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let head: [u8; 9] = bytes.get(..9)?.try_into().unwrap();
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = bytes.get(9..9 + length)?.to_vec();
        bytes.drain(..9 + length);
        Some(Self {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            payload,
        })
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of a GOAWAY or RST_STREAM.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status of an answer: the first field, which is one of the static table, or has its name.
    pub fn status(&self) -> Option<u16> {
        let mut block = &self.payload[..];
        while let [first, rest @ ..] = block
            && first & 0xe0 == 0x20
        {
            block = rest;
        }
        match block {
            [index @ 0x88..=0x8e, ..] => {
                const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
                Some(KNOWN[usize::from(index - 0x88)])
            }
            // With the name of entry 8 to 14, and three digits.
            [0x48..=0x4e | 0x08..=0x0e, 3, digits @ ..] => {
                std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok()
            }
            // The same, compressed: two bytes for three digits that are mostly short.
            [0x48..=0x4e | 0x08..=0x0e, 0x82 | 0x83, ..] => Some(0),
            _ => None,
        }
    }
}
