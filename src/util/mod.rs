//! Small things with no opinion and no dependency on the rest.

pub mod time;

/// A secret that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Compares without telling by its duration how much was right.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), candidate).is_ok()
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Appends a text to a page, for between tags and inside quoted attributes.
pub fn escape_html(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

/// The bytes that a text of a URL stands for; what is no escape stays as it is.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let hex = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Whether a text is the origin of a page, as `Origin` fields write it: `SCHEME://HOST[:PORT]`
/// (RFC 6454 section 6.2).
pub fn is_origin(text: &str) -> bool {
    let parts = text.split_once("://");
    parts.is_some_and(|(scheme, host)| {
        !scheme.is_empty()
            && !host.is_empty()
            && !host.contains(['/', '?', '#', '@'])
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_no_more() {
        for good in ["https://a.test", "http://a.test:80", "https://[::1]:1"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "a.test",
            "://a",
            "https://",
            "https://a/",
            "https://a b",
            "https://u@a",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(percent_decoded(b"a%20b%2"), b"a b%2");
        assert_eq!(percent_decoded(b"%zz%+1"), b"%zz%+1");
    }
}
