//! RFC 9113 section 8: requests as HTTP/2 says them.

use super::wire::*;
use super::{Case, Expect, case};

/// A malformed request (section 8.1.1).
const MALFORMED: Expect = Expect::Stream(1, &[PROTOCOL]);
/// The same, found while fields are taken out of their tables: the connection ends with it, as it may
/// (section 5.4.1).
const UNREADABLE: Expect = Expect::Connection(&[PROTOCOL]);
const FINE: Expect = Expect::Answer(1, 200);

/// A request of these fields, whole.
fn of(list: &[(&str, &str)]) -> Vec<u8> {
    whole(1, &fields(list))
}

/// GET with these fields more.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    whole(1, &request("GET", "/", more))
}

pub fn cases() -> Vec<Case> {
    let mut all = exchanges();
    all.extend(names_and_values());
    all.extend(pseudo_fields());
    all.extend(connect());
    all
}

/// 8.1 and 8.6: the frames of a request.
fn exchanges() -> Vec<Case> {
    let body = |length: &str, parts: &[Vec<u8>]| {
        let head = request("POST", "/up", &[("content-length", length)]);
        let mut bytes = headers(1, END_HEADERS, &head);
        parts.iter().for_each(|part| bytes.extend(part));
        bytes
    };
    let trailers = |list: &[(&str, &str)]| whole(1, &fields(list));
    vec![
        case(
            "8.1 a body and trailers",
            all(&[post(1), data(1, 0, b"body"), trailers(&[("x", "y")])]),
            FINE,
        ),
        case(
            "8.1 trailers that do not end the stream",
            all(&[
                post(1),
                data(1, 0, b"x"),
                headers(1, END_HEADERS, &fields(&[("x", "y")])),
                data(1, END_STREAM, b""),
            ]),
            MALFORMED,
        ),
        case(
            "8.1 a pseudo field in trailers",
            all(&[post(1), data(1, 0, b"x"), trailers(&[(":method", "GET")])]),
            MALFORMED,
        ),
        case(
            "8.1 a body without an end is answered by none",
            all(&[post(1), data(1, 0, b"x"), get(3)]),
            Expect::Answer(3, 200),
        ),
        case(
            "8.1 an answer before the body has ended",
            all(&[
                headers(1, END_HEADERS, &request("POST", "/", &[])),
                data(1, 0, b"x"),
            ]),
            FINE,
        ),
        case(
            "8.1.1 content-length as long as the body",
            body("8", &[data(1, 0, b"four"), data(1, END_STREAM, b"more")]),
            FINE,
        ),
        case(
            "8.1.1 content-length of 0 with an empty frame",
            body("0", &[data(1, END_STREAM, b"")]),
            FINE,
        ),
        case(
            "8.1.1 content-length shorter than the body",
            body("3", &[data(1, END_STREAM, b"four")]),
            MALFORMED,
        ),
        case(
            "8.1.1 content-length longer than the body",
            body("5", &[data(1, END_STREAM, b"four")]),
            MALFORMED,
        ),
        case(
            "8.1.1 content-length shorter than several frames",
            body("6", &[data(1, 0, b"four"), data(1, END_STREAM, b"more")]),
            MALFORMED,
        ),
        case(
            "8.1.1 content-length without a body",
            with(&[("content-length", "1")]),
            MALFORMED,
        ),
        case(
            "8.1.1 content-length that is no number",
            with(&[("content-length", "one")]),
            MALFORMED,
        ),
        case(
            "8.1.1 content-length counts without padding",
            body("4", &[data(1, END_STREAM | PADDED, b"\x03four\0\0\0")]),
            FINE,
        ),
        case(
            "8.1 an informational answer is not needed",
            with(&[("expect", "100-continue")]),
            FINE,
        ),
        case(
            "8.5 a malformed request leaves others alone",
            all(&[of(&[(":method", "GET")]), get(3)]),
            Expect::Answer(3, 200),
        ),
    ]
}

/// 8.2.
fn names_and_values() -> Vec<Case> {
    vec![
        case(
            "8.2 a name in upper case",
            with(&[("X-Upper", "y")]),
            UNREADABLE,
        ),
        case("8.2.1 an empty name", with(&[("", "y")]), UNREADABLE),
        case("8.2.1 a space in a name", with(&[("x y", "z")]), UNREADABLE),
        case(
            "8.2.1 a control character in a name",
            with(&[("x\u{1}", "z")]),
            UNREADABLE,
        ),
        case(
            "8.2.1 a delete character in a name",
            with(&[("x\u{7f}", "z")]),
            UNREADABLE,
        ),
        case(
            "8.2.1 a byte beyond ASCII in a name",
            with(&[("\u{e9}", "z")]),
            UNREADABLE,
        ),
        case("8.2.1 a colon in a name", with(&[("x:y", "z")]), UNREADABLE),
        case(
            "8.2.1 a zero byte in a value",
            with(&[("x", "a\0b")]),
            UNREADABLE,
        ),
        case(
            "8.2.1 a line feed in a value",
            with(&[("x", "a\nb")]),
            UNREADABLE,
        ),
        case(
            "8.2.1 a carriage return in a value",
            with(&[("x", "a\rb")]),
            UNREADABLE,
        ),
        case("8.2.1 an empty value", with(&[("x", "")]), FINE),
        case("8.2.1 a tab inside a value", with(&[("x", "a\tb")]), FINE),
        case(
            "8.2.1 bytes beyond ASCII in a value",
            with(&[("x", "\u{e9}")]),
            FINE,
        ),
        case(
            "8.2.2 connection",
            with(&[("connection", "close")]),
            MALFORMED,
        ),
        case(
            "8.2.2 keep-alive",
            with(&[("keep-alive", "timeout=5")]),
            MALFORMED,
        ),
        case(
            "8.2.2 proxy-connection",
            with(&[("proxy-connection", "keep-alive")]),
            MALFORMED,
        ),
        case(
            "8.2.2 transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            MALFORMED,
        ),
        case(
            "8.2.2 upgrade",
            with(&[("upgrade", "websocket")]),
            MALFORMED,
        ),
        case(
            "8.2.2 TE with something else",
            with(&[("te", "gzip")]),
            MALFORMED,
        ),
        case(
            "8.2.2 TE with trailers and something else",
            with(&[("te", "trailers, deflate;q=0.5")]),
            MALFORMED,
        ),
        case("8.2.2 TE with trailers", with(&[("te", "trailers")]), FINE),
        case(
            "8.2.3 a cookie in several fields",
            with(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]),
            FINE,
        ),
    ]
}

/// 8.3.1.
fn pseudo_fields() -> Vec<Case> {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const P: (&str, &str) = (":path", "/");
    const A: (&str, &str) = (":authority", "h");
    vec![
        case(
            "8.3 an unknown pseudo field",
            of(&[M, S, P, A, (":x", "y")]),
            UNREADABLE,
        ),
        case(
            "8.3 a pseudo field of answers",
            of(&[M, S, P, A, (":status", "200")]),
            MALFORMED,
        ),
        case(
            "8.3 a pseudo field behind others",
            of(&[M, S, P, ("x", "y"), A]),
            MALFORMED,
        ),
        case("8.3 fields in any order", of(&[A, P, S, M]), FINE),
        case("8.3.1 no method", of(&[S, P, A]), MALFORMED),
        case("8.3.1 no scheme", of(&[M, P, A]), MALFORMED),
        case("8.3.1 no path", of(&[M, S, A]), MALFORMED),
        case("8.3.1 two methods", of(&[M, M, S, P, A]), MALFORMED),
        case("8.3.1 two schemes", of(&[M, S, S, P, A]), MALFORMED),
        case("8.3.1 two paths", of(&[M, S, P, P, A]), MALFORMED),
        case("8.3.1 two authorities", of(&[M, S, P, A, A]), MALFORMED),
        case(
            "8.3.1 an empty path",
            of(&[M, S, (":path", ""), A]),
            MALFORMED,
        ),
        case(
            "8.3.1 an empty method",
            of(&[(":method", ""), S, P, A]),
            UNREADABLE,
        ),
        case(
            "8.3.1 a method that is no token",
            of(&[(":method", "GE T"), S, P, A]),
            UNREADABLE,
        ),
        case(
            "8.3.1 a path that does not begin with a slash",
            of(&[M, S, (":path", "x"), A]),
            Expect::Seen(refused),
        ),
        case(
            "8.3.1 a space in a path",
            of(&[M, S, (":path", "/a b"), A]),
            MALFORMED,
        ),
        case(
            "8.3.1 a control character in a path",
            of(&[M, S, (":path", "/a\u{1}"), A]),
            MALFORMED,
        ),
        case(
            "8.3.1 OPTIONS of everything",
            of(&[(":method", "OPTIONS"), S, (":path", "*"), A]),
            Expect::Seen(answered),
        ),
        case(
            "8.3.1 host instead of an authority",
            of(&[M, S, P, ("host", "h")]),
            FINE,
        ),
        case(
            "8.3.1 host equal to the authority",
            of(&[M, S, P, A, ("host", "h")]),
            FINE,
        ),
        case(
            "8.3.1 no host at all",
            of(&[M, S, P]),
            Expect::Answer(1, 400),
        ),
        case(
            "8.3.1 userinfo in the authority",
            of(&[M, S, P, (":authority", "a@h")]),
            Expect::Seen(refused),
        ),
        case(
            "8.3.1 an authority that is none",
            of(&[M, S, P, (":authority", "h/x")]),
            Expect::Seen(refused),
        ),
        case(
            "8.3.1 a query",
            of(&[M, S, (":path", "/?x=1&y=%20"), A]),
            FINE,
        ),
        case(
            "8.4 PUSH is not asked for",
            all(&[settings(&[(2, 1)]), get(1)]),
            Expect::Seen(|seen| answered(seen) && seen.iter().all(|f| f.kind != PUSH_PROMISE)),
        ),
    ]
}

/// 8.5, and RFC 8441.
fn connect() -> Vec<Case> {
    const M: (&str, &str) = (":method", "CONNECT");
    const A: (&str, &str) = (":authority", "h:443");
    let tunnel = |list: &[(&str, &str)]| headers(1, END_HEADERS, &fields(list));
    vec![
        case(
            "8.5 CONNECT with a scheme",
            tunnel(&[M, (":scheme", "http"), A]),
            Expect::Seen(refused),
        ),
        case(
            "8.5 CONNECT with a path",
            tunnel(&[M, (":path", "/"), A]),
            Expect::Seen(refused),
        ),
        case(
            "8.5 CONNECT without an authority",
            tunnel(&[M]),
            Expect::Seen(refused),
        ),
        case(
            "8.5 CONNECT that nobody allows",
            tunnel(&[M, A]),
            Expect::Seen(refused),
        ),
        case(
            "RFC 8441 section 4: :protocol where it was not offered",
            tunnel(&[
                M,
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            Expect::Seen(refused),
        ),
        case(
            "RFC 8441 section 4: :protocol of another method",
            with(&[(":protocol", "websocket")]),
            MALFORMED,
        ),
    ]
}

fn answered(seen: &[Frame]) -> bool {
    seen.iter().any(|f| f.kind == HEADERS && f.stream == 1)
}

/// By an answer of the 400s, or by a reset of the stream.
fn refused(seen: &[Frame]) -> bool {
    seen.iter().filter(|f| f.stream == 1).any(|f| match f.kind {
        HEADERS => f
            .status()
            .is_some_and(|status| (400..500).contains(&status)),
        RST_STREAM => f.code() == PROTOCOL,
        _ => false,
    })
}
