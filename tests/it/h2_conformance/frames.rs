//! RFC 9113 section 6: the frames.

use super::wire::*;
use super::{Case, Expect, case};

pub fn cases() -> Vec<Case> {
    let mut all = messages();
    all.extend(control());
    all.extend(windows());
    all
}

/// 6.1 to 6.4, 6.6 and 6.10.
fn messages() -> Vec<Case> {
    let block = || request("GET", "/", &[]);
    let padded = |padding: u8, block: &[u8]| {
        let mut payload = vec![padding];
        payload.extend(block);
        payload.extend(vec![0; usize::from(padding)]);
        payload
    };
    vec![
        case(
            "6.1 DATA on stream 0",
            data(0, 0, b"x"),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.1 DATA with padding",
            all(&[post(1), data(1, END_STREAM | PADDED, &padded(200, b"body"))]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.1 padding as long as the payload",
            all(&[
                post(1),
                data(1, END_STREAM | PADDED, &[4, b'x', b'y', b'z']),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.1 padding longer than the payload",
            all(&[post(1), data(1, END_STREAM | PADDED, &[9, b'x'])]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.1 padding without its length",
            all(&[post(1), data(1, END_STREAM | PADDED, b"")]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.2 HEADERS on stream 0",
            whole(0, &block()),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.2 HEADERS with padding",
            headers(1, END_STREAM | END_HEADERS | PADDED, &padded(77, &block())),
            Expect::Answer(1, 200),
        ),
        case(
            "6.2 HEADERS with a priority",
            headers(
                1,
                END_STREAM | END_HEADERS | PRIORITISED,
                &[&[0, 0, 0, 0, 9][..], &block()].concat(),
            ),
            Expect::Answer(1, 200),
        ),
        case(
            "6.2 HEADERS with both",
            {
                let with_priority = [&[0x80, 0, 0, 0, 255][..], &block()].concat();
                headers(
                    1,
                    END_STREAM | END_HEADERS | PADDED | PRIORITISED,
                    &padded(3, &with_priority),
                )
            },
            Expect::Answer(1, 200),
        ),
        case(
            "6.2 padding longer than the headers",
            headers(1, END_STREAM | END_HEADERS | PADDED, &[200, 0x82]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.2 HEADERS too short for their priority",
            headers(1, END_STREAM | END_HEADERS | PRIORITISED, &[0, 0, 0]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.3 PRIORITY on stream 0",
            priority(0, 3),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.3 PRIORITY of a wrong size",
            all(&[get(1), frame(PRIORITY, 0, 1, &[0; 4])]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.3 PRIORITY of an idle stream",
            all(&[priority(5, 0), get(1)]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.4 RST_STREAM on stream 0",
            reset(0),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.4 RST_STREAM of an idle stream",
            reset(1),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.4 RST_STREAM too short",
            all(&[post(1), frame(RST_STREAM, 0, 1, &[0; 3])]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.4 RST_STREAM too long",
            all(&[post(1), frame(RST_STREAM, 0, 1, &[0; 5])]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.4 RST_STREAM of an open stream",
            all(&[post(1), reset(1)]),
            Expect::Fine,
        ),
        case(
            "6.4 an unknown code in RST_STREAM",
            all(&[post(1), frame(RST_STREAM, 0, 1, &[0xff; 4]), get(3)]),
            Expect::Answer(3, 200),
        ),
        case(
            "6.6 PUSH_PROMISE from a client",
            all(&[
                get(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2][..], &block()].concat(),
                ),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION of many pieces",
            {
                let block = block();
                let mut bytes = headers(1, END_STREAM, &block[..1]);
                for piece in block[1..].chunks(7) {
                    bytes.extend(frame(CONTINUATION, 0, 1, piece));
                }
                bytes.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
                bytes
            },
            Expect::Answer(1, 200),
        ),
        case(
            "6.10 CONTINUATION without a block",
            all(&[get(1), frame(CONTINUATION, END_HEADERS, 1, &block())]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION behind the end of a block",
            all(&[
                headers(1, 0, &block()),
                frame(CONTINUATION, END_HEADERS, 1, b""),
                frame(CONTINUATION, END_HEADERS, 1, b""),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            all(&[
                headers(1, END_STREAM, &block()),
                frame(CONTINUATION, END_HEADERS, 0, b""),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION of another stream",
            all(&[
                headers(1, END_STREAM, &block()),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION behind DATA",
            all(&[
                post(1),
                data(1, 0, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &block()),
            ]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION of an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &block()),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.10 CONTINUATION without an end",
            {
                let mut bytes = headers(1, END_STREAM, &block());
                for _ in 0..1000 {
                    bytes.extend(frame(CONTINUATION, 0, 1, b""));
                }
                bytes
            },
            Expect::Closed,
        ),
    ]
}

/// 6.5, 6.7 and 6.8.
fn control() -> Vec<Case> {
    let acknowledged = |seen: &[Frame]| seen.iter().any(|f| f.kind == SETTINGS && f.flags == ACK);
    vec![
        case(
            "6.5 settings are acknowledged",
            settings(&[(4, 70_000)]),
            Expect::Seen(acknowledged),
        ),
        case(
            "6.5 two settings are acknowledged twice",
            all(&[settings(&[]), settings(&[(4, 70_000)])]),
            // And the first ones of all.
            Expect::Seen(|seen| {
                seen.iter()
                    .filter(|f| f.kind == SETTINGS && f.flags == ACK)
                    .count()
                    == 3
            }),
        ),
        case(
            "6.5 an acknowledgement with a payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.5 SETTINGS of a stream",
            frame(SETTINGS, 0, 1, b""),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.5 SETTINGS of a size that cannot be",
            frame(SETTINGS, 0, 0, &[0; 7]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.5.2 ENABLE_PUSH of 2",
            settings(&[(2, 2)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case("6.5.2 ENABLE_PUSH of 0", settings(&[(2, 0)]), Expect::Fine),
        case(
            "6.5.2 INITIAL_WINDOW_SIZE too large",
            settings(&[(4, 0x8000_0000)]),
            Expect::Connection(WINDOW),
        ),
        case(
            "6.5.2 INITIAL_WINDOW_SIZE of the largest",
            settings(&[(4, 0x7fff_ffff)]),
            Expect::Fine,
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE too small",
            settings(&[(5, 16_383)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE too large",
            settings(&[(5, 16_777_216)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE of the largest",
            settings(&[(5, 16_777_215)]),
            Expect::Fine,
        ),
        case(
            "6.5.2 MAX_CONCURRENT_STREAMS of 0",
            all(&[settings(&[(3, 0)]), get(1)]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.5.2 HEADER_TABLE_SIZE of 0",
            all(&[settings(&[(1, 0)]), get(1)]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.5.2 MAX_HEADER_LIST_SIZE",
            all(&[settings(&[(6, 100_000)]), get(1)]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.5.2 an unknown setting",
            all(&[settings(&[(0xf0f0, 7)]), get(1)]),
            Expect::Answer(1, 200),
        ),
        case(
            "6.5.3 the last of equal settings counts",
            all(&[settings(&[(4, 0), (4, 70_000)]), get(1)]),
            Expect::Seen(answered),
        ),
        case(
            "6.5.2 NO_RFC7540_PRIORITIES",
            settings(&[(9, 1)]),
            Expect::Fine,
        ),
        case(
            "6.7 PING of a stream",
            frame(PING, 0, 1, &[0; 8]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.7 PING too short",
            frame(PING, 0, 0, &[0; 7]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.7 PING too long",
            frame(PING, 0, 0, &[0; 9]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.7 an answer that nobody asked for",
            frame(PING, ACK, 0, b"whatever"),
            Expect::Fine,
        ),
        case(
            "6.7 an answer is not answered",
            all(&[
                frame(PING, ACK, 0, b"whatever"),
                frame(PING, 0, 0, b"question"),
            ]),
            Expect::Seen(|seen| {
                let first = seen.iter().find(|f| f.kind == PING);
                first.is_some_and(|f| f.flags == ACK && f.payload == b"question")
            }),
        ),
        case(
            "6.8 GOAWAY of a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.8 what runs is answered after a GOAWAY",
            all(&[get(1), frame(GOAWAY, 0, 0, &[0; 8])]),
            Expect::Seen(answered),
        ),
        case(
            "6.8 GOAWAY with words",
            frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0enough"),
            Expect::Closed,
        ),
    ]
}

fn answered(seen: &[Frame]) -> bool {
    seen.iter().any(|f| f.stream == 1 && f.ends_stream())
}

/// Bytes of DATA on stream 1.
fn given(seen: &[Frame]) -> usize {
    let data = seen.iter().filter(|f| f.kind == DATA && f.stream == 1);
    data.map(|f| f.payload.len()).sum()
}

/// 6.9, and 5.2.
fn windows() -> Vec<Case> {
    /// Whether a PING that was sent behind the rest has been answered: what had to come has come.
    fn settled(seen: &[Frame]) -> bool {
        seen.iter()
            .any(|f| f.kind == PING && f.payload == b"settled?")
    }
    let ping = || frame(PING, 0, 0, b"settled?");
    vec![
        case(
            "6.9 WINDOW_UPDATE by 0 of a connection",
            window(0, 0),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.9 WINDOW_UPDATE by 0 of a stream",
            all(&[post(1), window(1, 0)]),
            // May be one of the stream, too (section 5.4.1).
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.9 WINDOW_UPDATE too short",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.9 WINDOW_UPDATE too long",
            frame(WINDOW_UPDATE, 0, 0, &[0; 5]),
            Expect::Connection(SIZE),
        ),
        case(
            "6.9 WINDOW_UPDATE of an idle stream",
            window(1, 1),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "6.9 WINDOW_UPDATE of a closed stream",
            window(1, 1),
            Expect::Fine,
        )
        .after(get(1)),
        case(
            "6.9 the reserved bit of an increment",
            all(&[settings(&[(4, 0)]), get(1), window(1, 0x8000_0000 | 4000)]),
            Expect::Seen(answered),
        ),
        case(
            "6.9.1 a window of the connection that grows too large",
            all(&[window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)]),
            Expect::Connection(WINDOW),
        ),
        case(
            "6.9.1 a window of a stream that grows too large",
            all(&[post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)]),
            Expect::Stream(1, &[FLOW_CONTROL]),
        ),
        case(
            "6.9.1 no more is sent than the window of a stream lets through",
            all(&[settings(&[(4, 10)]), get(1), ping()]),
            Expect::Seen(|seen| settled(seen) && given(seen) <= 10),
        ),
        case(
            "6.9.1 the rest comes when the window opens",
            all(&[settings(&[(4, 10)]), get(1), window(1, 3990)]),
            Expect::Seen(|seen| given(seen) == 4000 && answered(seen)),
        ),
        case(
            "6.9.2 a larger window of all streams lets a stream go on",
            all(&[settings(&[(4, 0)]), get(1), settings(&[(4, 4000)])]),
            Expect::Seen(|seen| given(seen) == 4000 && answered(seen)),
        ),
        case(
            "6.9.2 a window may become negative",
            all(&[
                settings(&[(4, 100)]),
                get(1),
                settings(&[(4, 50)]),
                window(1, 40),
                ping(),
            ]),
            Expect::Seen(|seen| settled(seen) && given(seen) <= 100),
        ),
        case(
            "6.9.2 a window of all streams that makes one too large",
            all(&[
                post(1),
                window(1, 0x7fff_0000),
                settings(&[(4, 0x7fff_ffff)]),
            ]),
            Expect::Connection(WINDOW),
        ),
        case(
            "5.2.1 DATA beyond the window of a stream",
            {
                // To an application that reads nothing.
                let mut bytes = headers(1, END_HEADERS, &request("POST", "/held", &[]));
                for _ in 0..2000 {
                    bytes.extend(data(1, 0, &[7; 16_384]));
                }
                bytes
            },
            Expect::Seen(|seen| {
                let ends = |f: &&Frame| matches!(f.kind, RST_STREAM | GOAWAY);
                seen.iter()
                    .find(ends)
                    .is_some_and(|f| f.code() == FLOW_CONTROL)
            }),
        ),
    ]
}
