//! RFC 7541: compressed fields. A mistake in them is one of the connection (RFC 9113 section 4.3).

use super::wire::*;
use super::{Case, Expect, case};

const WRONG: Expect = Expect::Connection(TABLES);
const FINE: Expect = Expect::Answer(1, 200);

/// `:method: GET`, `:scheme: http`, `:path: /`, and `:authority: h` as a literal.
const PSEUDO: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 0x01, b'h'];

/// A request with these bytes behind its pseudo fields.
fn then(bytes: &[u8]) -> Vec<u8> {
    nth(1, bytes)
}

fn nth(stream: u32, bytes: &[u8]) -> Vec<u8> {
    whole(stream, &[&PSEUDO[..], bytes].concat())
}

/// A request with these bytes in front.
fn first(bytes: &[u8]) -> Vec<u8> {
    whole(1, &[bytes, &PSEUDO[..]].concat())
}

/// Bytes as examples of the RFC have them.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub fn cases() -> Vec<Case> {
    let mut all = representations();
    all.extend(strings());
    all.extend(sizes());
    all.extend(examples());
    all
}

/// Sections 2, 3, 5.1 and 6.
fn representations() -> Vec<Case> {
    let entered = || then(&[0x40, 1, b'a', 1, b'b']);
    vec![
        case(
            "HPACK 2.3.1 every entry of the static table",
            then(
                &(15..=61)
                    .filter(|i| ![28, 35, 38, 57].contains(i))
                    .map(|i| 0x80 | i)
                    .collect::<Vec<u8>>(),
            ),
            FINE,
        ),
        case(
            "HPACK 2.3.3 an index behind the static table, empty as the other is",
            then(&[0xbe]),
            WRONG,
        ),
        case(
            "HPACK 2.3.3 an index far behind",
            then(&[0xff, 0xff, 0x7f]),
            WRONG,
        ),
        case(
            "HPACK 2.3.3 a name's index behind both tables",
            then(&[0x7f, 0x80, 1, 1, b'x']),
            WRONG,
        ),
        case(
            "HPACK 2.3.2 the newest entry comes first",
            all(&[entered(), nth(3, &[0xbe])]),
            Expect::Answer(3, 200),
        ),
        case(
            "HPACK 2.3.2 one entry and not two",
            all(&[entered(), nth(3, &[0xbf])]),
            WRONG,
        ),
        case(
            "HPACK 3.1 fields that are equal",
            then(&[0x40, 1, b'a', 1, b'b', 0x40, 1, b'a', 1, b'b', 0xbe, 0xbf]),
            FINE,
        ),
        case(
            "HPACK 5.1 an integer of one byte less than its prefix",
            then(&[0x0f, 0x00, 1, b'x']),
            FINE,
        ),
        case(
            "HPACK 5.1 an integer in more bytes than it needs",
            then(&[0x0f, 0x80, 0x00, 1, b'x']),
            FINE,
        ),
        case(
            "HPACK 5.1 an integer that is too large",
            then(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            WRONG,
        ),
        case(
            "HPACK 5.1 an integer that does not end",
            then(&[0xff, 0xff]),
            WRONG,
        ),
        case("HPACK 6.1 index 0", then(&[0x80]), WRONG),
        case(
            "HPACK 6.2.1 with a new name",
            then(&[0x40, 1, b'a', 1, b'b']),
            FINE,
        ),
        case(
            "HPACK 6.2.1 with a name of the table",
            then(&[0x53, 1, b'b']),
            FINE,
        ),
        case(
            "HPACK 6.2.2 with a new name",
            then(&[0x00, 1, b'a', 1, b'b']),
            FINE,
        ),
        case(
            "HPACK 6.2.2 enters no table",
            all(&[then(&[0x00, 1, b'a', 1, b'b']), nth(3, &[0xbe])]),
            WRONG,
        ),
        case(
            "HPACK 6.2.3 with a new name",
            then(&[0x10, 1, b'a', 1, b'b']),
            FINE,
        ),
        case(
            "HPACK 6.2.3 enters no table",
            all(&[then(&[0x10, 1, b'a', 1, b'b']), nth(3, &[0xbe])]),
            WRONG,
        ),
        case(
            "HPACK 6.2.1 cut off behind the name",
            then(&[0x40, 1, b'a']),
            WRONG,
        ),
        case(
            "HPACK 6.2.2 cut off inside the value",
            then(&[0x00, 1, b'a', 5, b'b']),
            WRONG,
        ),
        case(
            "HPACK 6.2.3 cut off inside the name",
            then(&[0x10, 5, b'a']),
            WRONG,
        ),
    ]
}

/// Section 5.2.
fn strings() -> Vec<Case> {
    vec![
        // "a" is 00011, and ones fill the byte.
        case(
            "HPACK 5.2 a compressed string",
            then(&[0x00, 0x81, 0x1f, 0x81, 0x1f]),
            FINE,
        ),
        case(
            "HPACK 5.2 an empty compressed string",
            then(&[0x00, 1, b'a', 0x80]),
            FINE,
        ),
        case(
            "HPACK 5.2 a string longer than its block",
            then(&[0x00, 1, b'a', 0x7f, 0xff, 0x7f]),
            WRONG,
        ),
        case(
            "HPACK 5.2 padding longer than seven bits",
            then(&[0x00, 1, b'a', 0x82, 0x1f, 0xff]),
            WRONG,
        ),
        case(
            "HPACK 5.2 padding of zeros",
            then(&[0x00, 1, b'a', 0x81, 0x18]),
            WRONG,
        ),
        case(
            "HPACK 5.2 the end-of-string symbol",
            then(&[0x00, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            WRONG,
        ),
        case(
            "HPACK 5.2 the end-of-string symbol inside",
            then(&[0x00, 1, b'a', 0x85, 0x1f, 0xff, 0xff, 0xff, 0xff]),
            WRONG,
        ),
    ]
}

/// Sections 4.2, 4.3, 4.4 and 6.3.
fn sizes() -> Vec<Case> {
    let entered = || then(&[0x40, 1, b'a', 1, b'b']);
    let long = |stream: u32, length: usize| {
        let mut field = vec![0x40, 1, b'l'];
        field.extend(integer(0, 7, length));
        field.extend(vec![b'x'; length]);
        nth(stream, &field)
    };
    vec![
        case(
            "HPACK 4.2 a size of 0 empties the table",
            all(&[
                entered(),
                whole(3, &[&[0x20][..], &PSEUDO, &[0xbe]].concat()),
            ]),
            WRONG,
        ),
        case(
            "HPACK 4.2 a table that was emptied fills again",
            first(&[&[0x20][..], &integer(0x20, 5, 4096)].concat()),
            FINE,
        ),
        case(
            "HPACK 4.2 two sizes in one block",
            all(&[first(&[0x20, 0x3f, 0xe1, 0x1f]), nth(3, &[])]),
            Expect::Answer(3, 200),
        ),
        case("HPACK 4.2 a size behind a field", then(&[0x20]), WRONG),
        case(
            "HPACK 6.3 a size that is too large",
            first(&integer(0x20, 5, 4097)),
            WRONG,
        ),
        case(
            "HPACK 6.3 a size that is much too large",
            first(&integer(0x20, 5, 1 << 30)),
            WRONG,
        ),
        case(
            "HPACK 6.3 the largest size",
            first(&integer(0x20, 5, 4096)),
            FINE,
        ),
        case(
            "HPACK 4.4 an entry as large as the table",
            all(&[long(1, 4063), nth(3, &[0xbe])]),
            Expect::Answer(3, 200),
        ),
        case(
            "HPACK 4.4 an entry larger than the table empties it",
            all(&[entered(), long(3, 4064), nth(5, &[0xbe])]),
            WRONG,
        ),
        case(
            "HPACK 4.3 what does not fit any more goes, the oldest first",
            all(&[entered(), long(3, 4000), nth(5, &[0xbf])]),
            Expect::Answer(5, 200),
        ),
        case(
            "HPACK 4.3 what went is gone",
            all(&[entered(), long(3, 4063), nth(5, &[0xbf])]),
            WRONG,
        ),
        case(
            "HPACK 4.4 a name of an entry that goes by its own insertion",
            all(&[long(1, 4000), {
                let mut field = vec![0x7e];
                field.extend(integer(0, 7, 3000));
                field.extend(vec![b'y'; 3000]);
                nth(3, &field)
            }]),
            Expect::Answer(3, 200),
        ),
    ]
}

/// Appendix C.3, C.4 and C.2: three requests on one connection each.
fn examples() -> Vec<Case> {
    let three = |blocks: [&str; 3]| {
        let blocks = blocks.into_iter().zip([1, 3, 5]);
        blocks
            .flat_map(|(block, stream)| whole(stream, &hex(block)))
            .collect()
    };
    vec![
        case(
            "HPACK C.3 without compression",
            three([
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ]),
            Expect::Answer(5, 200),
        ),
        case(
            "HPACK C.4 with compression",
            three([
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ]),
            Expect::Answer(5, 200),
        ),
        case(
            "HPACK C.2.1 a literal that enters the table",
            then(&hex(
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            )),
            FINE,
        ),
        case(
            "HPACK C.2.2 a literal that does not",
            whole(
                1,
                &[
                    &[0x82, 0x86][..],
                    &hex("040c 2f73 616d 706c 652f 7061 7468"),
                    &[0x01, 1, b'h'],
                ]
                .concat(),
            ),
            FINE,
        ),
        case(
            "HPACK C.2.3 a literal that never does",
            then(&hex("1008 7061 7373 776f 7264 0673 6563 7265 74")),
            FINE,
        ),
    ]
}
