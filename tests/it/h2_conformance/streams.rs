//! RFC 9113 section 5: the life of streams.

use super::wire::*;
use super::{Case, Expect, case};

pub fn cases() -> Vec<Case> {
    let trailers = |stream| whole(stream, &fields(&[("x", "y")]));
    vec![
        // --- 5.1: states
        case(
            "5.1 idle: DATA",
            data(1, 0, b"x"),
            Expect::Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        case(
            "5.1 idle: RST_STREAM of a later one",
            all(&[get(1), reset(7)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "5.1 idle: WINDOW_UPDATE of a later one",
            all(&[get(1), window(7, 1)]),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "5.1 half-closed: DATA",
            all(&[settings(&[(4, 0)]), get(1), data(1, 0, b"x")]),
            Expect::Seen(closed_1),
        ),
        case(
            "5.1 half-closed: HEADERS",
            all(&[settings(&[(4, 0)]), get(1), trailers(1)]),
            Expect::Seen(closed_1),
        ),
        case(
            "5.1 half-closed: CONTINUATION",
            all(&[
                settings(&[(4, 0)]),
                get(1),
                frame(CONTINUATION, END_HEADERS, 1, b""),
            ]),
            Expect::Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        case(
            "5.1 half-closed: WINDOW_UPDATE, PRIORITY and RST_STREAM",
            all(&[
                settings(&[(4, 0)]),
                get(1),
                window(1, 1),
                priority(1, 0),
                reset(1),
                settings(&[(4, 65_535)]),
                get(3),
            ]),
            Expect::Answer(3, 200),
        ),
        case(
            "5.1 closed by both: DATA",
            data(1, 0, b"x"),
            Expect::Seen(closed_1),
        )
        .after(get(1)),
        case(
            "5.1 closed by both: HEADERS",
            get(1),
            Expect::Seen(closed_1),
        )
        .after(get(1)),
        case(
            "5.1 closed by both: CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            Expect::Connection(&[PROTOCOL, STREAM_CLOSED]),
        )
        .after(get(1)),
        case(
            "5.1 closed by both: PRIORITY",
            all(&[priority(1, 0), get(3)]),
            Expect::Answer(3, 200),
        )
        .after(get(1)),
        case(
            "5.1 closed by both: RST_STREAM",
            all(&[reset(1), get(3)]),
            Expect::Answer(3, 200),
        )
        .after(get(1)),
        case(
            "5.1 closed by a reset: DATA",
            all(&[post(1), reset(1), data(1, 0, b"x")]),
            Expect::Seen(closed_1),
        ),
        case(
            "5.1 closed by a reset: HEADERS",
            all(&[post(1), reset(1), get(1)]),
            Expect::Seen(closed_1),
        ),
        case(
            "5.1 closed by a reset: CONTINUATION",
            all(&[post(1), reset(1), frame(CONTINUATION, END_HEADERS, 1, b"")]),
            Expect::Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        // --- 5.1.1: numbers
        case(
            "5.1.1 an even number",
            get(2),
            Expect::Connection(&[PROTOCOL]),
        ),
        case(
            "5.1.1 a number smaller than before",
            all(&[get(5), get(3)]),
            Expect::Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        case(
            "5.1.1 numbers that are left out",
            all(&[get(1), get(7), get(1001)]),
            Expect::Answer(1001, 200),
        ),
        case(
            "5.1.1 the largest number",
            get(0x7fff_ffff),
            Expect::Answer(0x7fff_ffff, 200),
        ),
        // --- 5.1.2: how many
        case(
            "5.1.2 more streams than are allowed",
            // Each waits for its body.
            (0..101).flat_map(|n| post(2 * n + 1)).collect(),
            Expect::Stream(201, &[REFUSED, PROTOCOL]),
        ),
        case(
            "5.1.2 as many streams as are allowed",
            {
                let mut bytes: Vec<u8> = (0..99).flat_map(|n| post(2 * n + 1)).collect();
                bytes.extend(get(199));
                bytes
            },
            Expect::Answer(199, 200),
        ),
        case(
            "5.1.2 streams that have ended do not count",
            {
                let mut bytes: Vec<u8> = (0..8)
                    .flat_map(|n| all(&[post(2 * n + 1), reset(2 * n + 1)]))
                    .collect();
                bytes.extend((8..16).flat_map(|n| all(&[post(2 * n + 1), reset(2 * n + 1)])));
                bytes.extend(get(33));
                bytes
            },
            Expect::Answer(33, 200),
        ),
        // --- 5.3: priorities mean nothing any more
        case(
            "5.3.1 a stream that depends on itself",
            all(&[priority(1, 1), get(3)]),
            Expect::Seen(answered_or_reset),
        ),
        case(
            "5.3.1 HEADERS that depend on themselves",
            {
                let block = [&[0, 0, 0, 1, 9][..], &request("GET", "/", &[])].concat();
                headers(1, END_STREAM | END_HEADERS | PRIORITISED, &block)
            },
            Expect::Seen(answered_or_reset),
        ),
        // --- 5.4: errors
        case(
            "5.4.1 a GOAWAY names the last stream that was seen",
            all(&[get(1), get(3), frame(PING, 0, 1, &[0; 8])]),
            Expect::Seen(|seen| {
                let goaway = seen.iter().find(|f| f.kind == GOAWAY);
                goaway.is_some_and(|f| f.payload[..4] == 3_u32.to_be_bytes())
            }),
        ),
        case(
            "5.4.1 the connection is closed after a GOAWAY",
            frame(PING, 0, 1, &[0; 8]),
            Expect::Closed,
        ),
        case(
            "5.4.2 no RST_STREAM answers an RST_STREAM",
            all(&[post(1), reset(1), reset(1)]),
            Expect::Fine,
        ),
        // --- 5.5: what may be added
        case(
            "5.5 an unknown frame of a stream",
            all(&[get(1), frame(0xb0, 0, 1, b"x")]),
            Expect::Answer(1, 200),
        ),
        case(
            "5.5 an unknown frame between a head and its body",
            all(&[
                post(1),
                frame(0xb0, 0, 1, b"x"),
                data(1, END_STREAM, b"body"),
            ]),
            Expect::Answer(1, 200),
        ),
    ]
}

/// Stream 1 or the connection ended with an error that says what it is about.
fn closed_1(seen: &[Frame]) -> bool {
    let of_stream = |f: &Frame| f.kind == RST_STREAM && f.stream == 1;
    let ends = seen.iter().find(|f| f.kind == GOAWAY || of_stream(f));
    ends.is_some_and(|f| [STREAM_CLOSED, PROTOCOL].contains(&f.code()))
}

/// RFC 9113 takes priorities for nothing; RFC 7540 made an error of this. Both will do.
fn answered_or_reset(seen: &[Frame]) -> bool {
    seen.iter()
        .any(|f| f.ends_stream() || (matches!(f.kind, RST_STREAM | GOAWAY) && f.code() == PROTOCOL))
}
