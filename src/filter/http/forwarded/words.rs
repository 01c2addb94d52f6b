//! What follows from the name that a client gave: the port, and the field of RFC 7239.
//!
//! A thread sees the same few names for ever, so it keeps what follows from them. Nothing but the
//! words themselves decides it, so it cannot grow old.

use std::cell::RefCell;

use http::header::HeaderValue;

/// Names that a thread keeps; a power of two. Two that share a place take turns.
const PLACES: usize = 64;
/// Longer names and schemes are worked out anew each time: nobody can make a thread keep much.
const LONGEST_NAME: usize = 128;
const LONGEST_SCHEME: usize = 8;

thread_local! {
    static KNOWN: RefCell<Vec<Option<Known>>> = const { RefCell::new(Vec::new()) };
}

/// The values of two fields.
#[derive(Clone, Debug)]
pub struct Words {
    pub port: HeaderValue,
    pub forwarded: HeaderValue,
}

struct Known {
    name: Box<[u8]>,
    scheme: Box<str>,
    words: Words,
}

/// `None` when `name`, the value of `Host` or of `x-forwarded-host`, cannot be a host.
pub fn of(name: &HeaderValue, scheme: &str) -> Option<Words> {
    let bytes = name.as_bytes();
    if bytes.len() > LONGEST_NAME || scheme.len() > LONGEST_SCHEME {
        return work_out(name, scheme);
    }
    KNOWN.with_borrow_mut(|all| {
        if all.is_empty() {
            all.resize_with(PLACES, || None);
        }
        let place = &mut all[place(bytes)];
        if let Some(known) = place
            && *known.name == *bytes
            && *known.scheme == *scheme
        {
            return Some(known.words.clone());
        }
        let words = work_out(name, scheme)?;
        *place = Some(Known {
            name: bytes.into(),
            scheme: scheme.into(),
            words: words.clone(),
        });
        Some(words)
    })
}

/// Both ends of a name tell most names apart: one is the label of a circuit, the other its port.
fn place(name: &[u8]) -> usize {
    let start = name.first_chunk().copied().map_or(0, u64::from_ne_bytes);
    let end = name.last_chunk().copied().map_or(0, u64::from_ne_bytes);
    let mixed =
        (start ^ end.rotate_left(23) ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize % PLACES
}

fn work_out(name: &HeaderValue, scheme: &str) -> Option<Words> {
    let host = told(name)?;
    let port = match port(host) {
        Some(port) => HeaderValue::from(port),
        None if matches!(scheme, "https" | "wss") => HeaderValue::from_static("443"),
        None => HeaderValue::from_static("80"),
    };
    let forwarded = forwarded(host, scheme)?;
    Some(Words { port, forwarded })
}

/// The first of what a field lists, if it can be a host with or without a port.
pub fn told(value: &HeaderValue) -> Option<&str> {
    let first = value.to_str().ok()?.split(',').next()?.trim();
    let of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b);
    (!first.is_empty() && first.bytes().all(of_host)).then_some(first)
}

/// The port of `name:port` or `[address]:port`.
fn port(host: &str) -> Option<u16> {
    let after = match host.rsplit_once(']') {
        Some((_, after)) => after,
        None => &host[host.find(':')?..],
    };
    after.strip_prefix(':')?.parse().ok()
}

/// RFC 7239 section 4: a value that is no token is quoted. Neither quotes nor backslashes can be
/// part of a host.
fn forwarded(host: &str, scheme: &str) -> Option<HeaderValue> {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let quote = match host.bytes().all(of_token) {
        true => "",
        false => "\"",
    };
    let value = ["host=", quote, host, quote, ";proto=", scheme].concat();
    HeaderValue::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, scheme: &str) -> (String, String) {
        let words = of(&HeaderValue::from_str(name).unwrap(), scheme).unwrap();
        let text = |value: HeaderValue| value.to_str().unwrap().to_owned();
        (text(words.port), text(words.forwarded))
    }

    #[test]
    fn what_is_kept_is_what_would_be_worked_out() {
        // All in one place of the table, one more often than the other.
        let names = ["a", "b", "c"];
        assert!(
            names
                .iter()
                .all(|name| place(name.as_bytes()) == place(b"a"))
        );
        for _ in 0..2 {
            for (name, scheme) in [("a", "http"), ("a", "http"), ("b", "http"), ("a", "https")] {
                let port = if scheme == "http" { "80" } else { "443" };
                let forwarded = format!("host={name};proto={scheme}");
                assert_eq!(said(name, scheme), (port.to_owned(), forwarded));
            }
        }
        let long = "l".repeat(LONGEST_NAME + 1);
        assert_eq!(said(&long, "ws").1, format!("host={long};proto=ws"));
        assert!(of(&HeaderValue::from_static("no host"), "http").is_none());
    }
}
