//! RFC 9113 sections 3 and 4: how a connection begins, and frames as such.

use super::wire::*;
use super::{Case, Expect, case};

pub fn cases() -> Vec<Case> {
    vec![
        // --- 3.4: the preface
        case(
            "3.4 a preface that is none",
            b"NO PREFACE AT ALL\r\n\r\n12345".to_vec(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 a request of HTTP/1",
            b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 a preface that goes wrong at its end",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 frames other than settings come first",
            [PREFACE, &get(1)].concat(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 an acknowledgement of settings comes first",
            [PREFACE, &frame(SETTINGS, ACK, 0, b""), &settings(&[])].concat(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 an unknown frame comes first",
            [PREFACE, &frame(0x42, 0, 0, b"x"), &settings(&[]), &get(1)].concat(),
            Expect::Closed,
        )
        .raw(),
        case(
            "3.4 the server begins with settings",
            [PREFACE, &settings(&[])].concat(),
            Expect::Seen(|seen| {
                seen.first()
                    .is_some_and(|f| f.kind == SETTINGS && f.flags == 0)
            }),
        )
        .raw(),
        case(
            "3.4 frames right behind the preface, before the server has spoken",
            [PREFACE, &settings(&[]), &get(1)].concat(),
            Expect::Answer(1, 200),
        )
        .raw(),
        // --- 4.1: the form of a frame
        case(
            "4.1 a frame of an unknown type",
            frame(0x16, 0, 0, b"12345678"),
            Expect::Fine,
        ),
        case(
            "4.1 an unknown type on an idle stream",
            frame(0xfe, 0xff, 77, b"x"),
            Expect::Fine,
        ),
        case(
            "4.1 flags that mean nothing",
            frame(PING, 0x16, 0, b"12345678"),
            Expect::Seen(|seen| {
                seen.iter()
                    .any(|f| f.kind == PING && f.flags == ACK && f.payload == b"12345678")
            }),
        ),
        case(
            "4.1 the reserved bit of the stream's number",
            {
                let mut bytes = frame(PING, 0, 0x8000_0000, b"12345678");
                bytes.extend(headers(
                    0x8000_0001,
                    END_STREAM | END_HEADERS,
                    &request("GET", "/", &[]),
                ));
                bytes
            },
            Expect::Answer(1, 200),
        ),
        // --- 4.2: its size
        case(
            "4.2 DATA of the largest size",
            all(&[post(1), data(1, END_STREAM, &[7; 16_384])]),
            Expect::Answer(1, 200),
        ),
        case(
            "4.2 DATA that is too large",
            all(&[post(1), data(1, END_STREAM, &[7; 16_385])]),
            Expect::Connection(SIZE),
        ),
        case(
            "4.2 HEADERS that are too large",
            headers(1, END_STREAM | END_HEADERS, &[0; 16_385]),
            Expect::Connection(SIZE),
        ),
        case(
            "4.2 SETTINGS that are too large",
            frame(SETTINGS, 0, 0, &[0; 16_386]),
            Expect::Connection(SIZE),
        ),
        case(
            "4.2 an unknown type that is too large",
            frame(0x42, 0, 0, &[0; 16_385]),
            Expect::Connection(SIZE),
        ),
        case(
            "4.2 a length that nobody sends",
            vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
            Expect::Connection(SIZE),
        ),
        // --- 4.3: field blocks
        case(
            "4.3 a block that cannot be decompressed",
            whole(1, &[0x40]),
            Expect::Connection(TABLES),
        ),
        case(
            "4.3 a block cut in two",
            {
                let block = request("GET", "/", &[]);
                let (a, b) = block.split_at(9);
                all(&[
                    headers(1, END_STREAM, a),
                    frame(CONTINUATION, END_HEADERS, 1, b),
                ])
            },
            Expect::Answer(1, 200),
        ),
        case(
            "4.3 another frame inside a block",
            all(&[
                headers(1, END_STREAM, &request("GET", "/", &[])),
                frame(PING, 0, 0, &[0; 8]),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "4.3 a frame of another stream inside a block",
            all(&[headers(1, END_STREAM, &request("GET", "/", &[])), get(3)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "4.3 an unknown frame inside a block",
            all(&[
                headers(1, END_STREAM, &request("GET", "/", &[])),
                frame(0x77, 0, 1, b"x"),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "4.3 blocks of a stream that is refused still count for the tables",
            {
                // Enters `x: y`, in a request that is malformed; the next one refers to it.
                let mut bad = vec![0x40, 1, b'x', 1, b'y'];
                bad.extend(request("GET", "/", &[]));
                let mut good = request("GET", "/", &[]);
                good.push(0xbe);
                all(&[whole(1, &bad), whole(3, &good)])
            },
            Expect::Answer(3, 200),
        ),
    ]
}
