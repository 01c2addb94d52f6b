//! RESP2, the form of what goes between a Redis and its clients.

/// One answer, encoded.
pub type Answer = Vec<u8>;

pub const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

pub fn status(text: &str) -> Answer {
    format!("+{text}\r\n").into_bytes()
}

pub fn error(text: &str) -> Answer {
    format!("-{text}\r\n").into_bytes()
}

pub fn number(number: i64) -> Answer {
    format!(":{number}\r\n").into_bytes()
}

pub fn bulk(bytes: &[u8]) -> Answer {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub fn array(items: &[Answer]) -> Answer {
    let head = format!("*{}\r\n", items.len()).into_bytes();
    [head, items.concat()].concat()
}

pub fn nil() -> Answer {
    b"$-1\r\n".to_vec()
}

pub fn nil_array() -> Answer {
    b"*-1\r\n".to_vec()
}

/// The first command of what came in, and its length; `None` until it is complete. What is no
/// command at all is one that nobody knows.
pub fn command(buffer: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (head, mut at) = line(buffer, 0)?;
    let Some(count) = head.strip_prefix(b"*").and_then(parse) else {
        return Some((vec![b"garbage".to_vec()], at));
    };
    let mut parts = Vec::new();
    for _ in 0..count {
        let (head, start) = line(buffer, at)?;
        let Some(length) = head.strip_prefix(b"$").and_then(parse) else {
            return Some((vec![b"garbage".to_vec()], start));
        };
        let end = start.checked_add(length)?;
        parts.push(buffer.get(start..end)?.to_vec());
        at = end + 2;
        if buffer.len() < at {
            return None;
        }
    }
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    Some((parts, at))
}

/// Matches names as `KEYS` does, for patterns with one star at most.
pub fn pattern(pattern: &str) -> impl Fn(&str) -> bool {
    let (before, after) = match pattern.split_once('*') {
        Some((before, after)) => (before.to_owned(), Some(after.to_owned())),
        None => (pattern.to_owned(), None),
    };
    move |name| match &after {
        Some(after) => name
            .strip_prefix(before.as_str())
            .is_some_and(|rest| rest.ends_with(after.as_str())),
        None => name == before,
    }
}

/// The line at `at`, without its end, and where the next begins.
fn line(buffer: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = buffer.get(at..)?;
    let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..length], at + length + 2))
}

fn parse(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
