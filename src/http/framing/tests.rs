use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::*;

/// The fields of the head that begins at `at`, as hyper leaves them: slices of the buffer,
/// without the lengths that it drops.
fn parsed(buffer: &Bytes, mut at: usize) -> HeaderMap {
    let mut all = HeaderMap::new();
    loop {
        at += buffer[at..].iter().position(newline).unwrap() + 1;
        let end = at + buffer[at..].iter().position(newline).unwrap();
        let line = std::str::from_utf8(&buffer[at..end]).unwrap();
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let from = at + name.len() + 1 + (value.len() - value.trim_start().len());
        let value = buffer.slice(from..from + value.trim().len());
        let name: HeaderName = name.parse().unwrap();
        let value = HeaderValue::from_maybe_shared(value).unwrap();
        if name != CONTENT_LENGTH || !all.contains_key(CONTENT_LENGTH) {
            all.append(name, value);
        }
    }
    if all.contains_key(TRANSFER_ENCODING) {
        all.remove(CONTENT_LENGTH);
    }
    all
}

/// The words of this module are never made up.
fn word(details: Cow<'static, str>) -> &'static str {
    match details {
        Cow::Borrowed(word) => word,
        Cow::Owned(word) => panic!("{word}"),
    }
}

fn verdict(heads: &mut Heads, buffer: &Bytes, at: usize) -> Result<(), &'static str> {
    heads
        .check(&parsed(buffer, at))
        .map_err(|f| word(f.details))
}

/// Reads all of it at once.
fn once(text: &str) -> (Heads, Bytes) {
    let buffer = Bytes::copy_from_slice(text.as_bytes());
    let mut heads = Heads::new(1024);
    heads.read(&buffer);
    (heads, buffer)
}

const BOTH: Result<(), &str> = Err("http1.content_length_and_chunked");
const TWICE: Result<(), &str> = Err("http1.invalid_content_length");
const UNCLEAR: Result<(), &str> = Err("http1.framing_unclear");

#[test]
fn a_dropped_length_is_found_wherever_it_was() {
    for (fields, want) in [
        ("Transfer-Encoding: chunked", Ok(())),
        ("Content-Length: 3", Ok(())),
        ("Content-Length:3", Ok(())),
        ("X: content-length: 3\r\nTransfer-Encoding: chunked", Ok(())),
        ("X-Content-Length: 3\r\nTransfer-Encoding: chunked", Ok(())),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", BOTH),
        ("Transfer-Encoding: chunked\r\ncontent-length: 3", BOTH),
        ("Transfer-Encoding: chunked\ncontent-length: 3", BOTH),
        ("CONTENT-LENGTH:3\r\nX:\r\nTransfer-Encoding: chunked", BOTH),
        (
            "X:\r\nContent-Length: 3\r\nHost: a\r\nTransfer-Encoding: chunked\r\nY: z",
            BOTH,
        ),
        (
            "Transfer-Encoding:\r\nContent-Length: HTTP/1.1\r\nTransfer-Encoding: chunked",
            BOTH,
        ),
        ("Content-Length: 3\r\nContent-Length: 3", TWICE),
        ("Content-Length: 3\r\nHost: a\r\nContent-Length: 3", TWICE),
    ] {
        let (mut heads, buffer) = once(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\nabc"));
        assert_eq!(verdict(&mut heads, &buffer, 0), want, "{fields}");
    }
}

#[test]
fn what_surrounds_a_head_is_not_taken_for_it() {
    let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "Content-Length: 3\r\n\r\n";
    for before in [
        first,
        "\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde",
    ] {
        let (mut heads, buffer) = once(&format!("{before}{head}{body}"));
        assert_eq!(verdict(&mut heads, &buffer, before.len()), Ok(()));
    }
}

#[test]
fn a_head_is_found_however_it_was_cut() {
    for (field, want) in [("X: 3", Ok(())), ("Content-Length: 3", BOTH)] {
        let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let text =
            format!("{first}POST / HTTP/1.1\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n");
        for cut in 1..text.len() {
            let mut heads = Heads::new(1024);
            // The parser may move what it has between two reads.
            let [one, two] = [0, 1].map(|_| Bytes::copy_from_slice(text.as_bytes()));
            heads.read(&one[..cut]);
            heads.read(&two[cut..]);
            assert_eq!(verdict(&mut heads, &two, first.len()), want, "cut at {cut}");
        }
    }
}

#[test]
fn requests_with_bodies_follow_one_another() {
    let one = "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nGET / HTTP";
    let two = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let bad = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut heads, buffer) = once(&format!("{one}{two}{one}{bad}"));
    assert_eq!(verdict(&mut heads, &buffer, 0), Ok(()));
    assert_eq!(verdict(&mut heads, &buffer, one.len()), Ok(()));
    let third = one.len() + two.len();
    assert_eq!(verdict(&mut heads, &buffer, third), Ok(()));
    assert_eq!(verdict(&mut heads, &buffer, third + one.len()), BOTH);
}

#[test]
fn a_body_of_known_length_is_not_kept() {
    let head = "POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n";
    let text = format!("{head}{}{head}", "x".repeat(5000));
    let buffer = Bytes::copy_from_slice(text.as_bytes());
    let mut heads = Heads::new(1024);
    heads.read(&buffer[..head.len() + 10]);
    assert_eq!(verdict(&mut heads, &buffer, 0), Ok(()));
    heads.read(&buffer[head.len() + 10..4000]);
    assert!(heads.kept.is_empty());
    heads.read(&buffer[4000..]);
    assert_eq!(heads.kept, head.as_bytes());
    assert_eq!(verdict(&mut heads, &buffer, head.len() + 5000), Ok(()));
}

#[test]
fn a_head_is_found_before_a_large_part_of_its_body() {
    for (field, want) in [("X: 3", Ok(())), ("content-length: 3", TWICE)] {
        let text = format!(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n{field}\r\n\r\n{}",
            "x".repeat(100_000)
        );
        for cut in [0, 1, 20] {
            let buffer = Bytes::copy_from_slice(text.as_bytes());
            let mut heads = Heads::new(1024);
            heads.read(&buffer[..cut]);
            heads.read(&buffer[cut..]);
            assert_eq!(verdict(&mut heads, &buffer, 0), want);
        }
    }
}

#[test]
fn a_large_body_in_chunks_is_kept_within_a_limit() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (mut heads, buffer) = once(head);
    assert_eq!(verdict(&mut heads, &buffer, 0), Ok(()));
    for size in [9000, 100, 9000, 100_000, 5] {
        heads.read(&vec![b'x'; size]);
        assert!(heads.kept.len() <= heads.limit);
    }
    heads.read(b"0\r\n\r\n");
    heads.read(&buffer);
    assert_eq!(heads.kept, head.as_bytes());
    assert_eq!(verdict(&mut heads, &buffer, 0), Ok(()));
}

#[test]
fn a_head_that_was_not_kept_is_refused() {
    let text = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n";
    for begin in 1..text.len() {
        let buffer = Bytes::copy_from_slice(text.as_bytes());
        let mut heads = Heads::new(1024);
        heads.read(&buffer[begin..]);
        let want = if begin <= 7 { Ok(()) } else { UNCLEAR };
        assert_eq!(verdict(&mut heads, &buffer, 0), want, "from {begin}");
    }
}
