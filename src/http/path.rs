//! One form of the path for matching, for filters and for the upstream.

use std::borrow::Cow;

use causeway_xds::resource::http_manager::{EscapedSlashes, PathRules};

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'p> {
    /// Goes on, perhaps rewritten.
    Path(Cow<'p, str>),
    /// The client is sent to the plain form first (307).
    Redirect(String),
    /// Refused: what it means is in doubt.
    Reject(&'static str),
}

/// Applies the connection manager's rules to a path without its query.
///
/// Most paths hold nothing that any rule looks for; those are returned as they are after one scan.
pub fn apply<'p>(path: &'p str, rules: &PathRules) -> Outcome<'p> {
    if *rules == PathRules::default() || !is_suspicious(path) {
        return Outcome::Path(Cow::Borrowed(path));
    }
    let mut path = Cow::Borrowed(path);
    let mut redirect = false;
    if has_escaped_slash(&path) {
        match rules.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return Outcome::Reject("path_escaped_slashes_rejected"),
            EscapedSlashes::UnescapeAndForward => path = Cow::Owned(unescape_slashes(&path)),
            EscapedSlashes::UnescapeAndRedirect => {
                path = Cow::Owned(unescape_slashes(&path));
                redirect = true;
            }
        }
    }
    if rules.normalize {
        match normalize(&path) {
            Some(normal) => path = Cow::Owned(normal),
            None => return Outcome::Reject("path_normalization_failed"),
        }
    }
    if rules.merge_slashes {
        path = Cow::Owned(merge_slashes(&path));
    }
    if redirect {
        Outcome::Redirect(path.into_owned())
    } else {
        Outcome::Path(path)
    }
}

fn is_suspicious(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes
        .iter()
        .zip(bytes.iter().skip(1).chain(b"/"))
        .any(|(a, b)| {
            matches!(a, b'%' | b'\\') || (*a == b'/' && matches!(b, b'/' | b'.') && bytes.len() > 1)
        })
}

/// `%2F` and `%5C`, in either case.
fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(is_escaped_slash)
}

fn is_escaped_slash(three: &[u8]) -> bool {
    three.eq_ignore_ascii_case(b"%2f") || three.eq_ignore_ascii_case(b"%5c")
}

fn unescape_slashes(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut from = 0;
    let mut at = 0;
    while at + 3 <= bytes.len() {
        if is_escaped_slash(&bytes[at..at + 3]) {
            out.push_str(&path[from..at]);
            out.push(if bytes[at + 1] == b'2' { '/' } else { '\\' });
            at += 3;
            from = at;
        } else {
            at += 1;
        }
    }
    out.push_str(&path[from..]);
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut slash = false;
    for c in path.chars() {
        if !(c == '/' && slash) {
            out.push(c);
        }
        slash = c == '/';
    }
    out
}

/// RFC 3986 section 6.2.2: unreserved characters are decoded, dot segments resolved; `\` counts
/// as `/`, as browsers have it. `None` for a path that holds an encoded NUL.
fn normalize(path: &str) -> Option<String> {
    let decoded = decode_unreserved(path)?;
    let mut out: Vec<&str> = Vec::new();
    let mut trailing = false;
    for segment in decoded.split('/').skip(1) {
        trailing = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &out {
        normal.push('/');
        normal.push_str(segment);
    }
    if trailing || normal.is_empty() {
        normal.push('/');
    }
    Some(normal)
}

fn decode_unreserved(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = String::with_capacity(path.len());
    let mut chars = path.char_indices();
    // Where the last `%` is that begins nothing.
    let mut lone = None;
    while let Some((at, c)) = chars.next() {
        let code = match c {
            '%' => hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2))),
            _ => None,
        };
        match (c, code) {
            ('\\', _) => out.push('/'),
            (_, Some((0, 0))) => return None,
            (_, Some((high, low))) => {
                let decoded = char::from_u32(high * 16 + low).unwrap_or('%');
                if decoded.is_ascii_alphanumeric() || matches!(decoded, '-' | '.' | '_' | '~') {
                    out.push(decoded);
                    chars.nth(1);
                } else {
                    out.push('%');
                }
            }
            ('%', None) => {
                lone = Some(out.len());
                out.push('%');
            }
            _ => out.push(c),
        }
        // `%2%65` must not become `%2e`, which the next reader would decode once more.
        if let Some(at) = lone
            && out.len() - at == 3
            && out.as_bytes()[at + 1..].iter().all(u8::is_ascii_hexdigit)
        {
            out.insert_str(at + 1, "25");
            lone = None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(escaped_slashes: EscapedSlashes) -> PathRules {
        PathRules {
            normalize: true,
            merge_slashes: true,
            escaped_slashes,
        }
    }

    #[test]
    fn paths_have_one_form() {
        for (given, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/../../x", "/x"),
            ("/%61/%2e%2E/b", "/b"),
            ("/a//b///c", "/a/b/c"),
            ("/a\\b", "/a/b"),
            ("/%7Euser/%20x", "/~user/%20x"),
            ("/%zz", "/%zz"),
            ("/a%2fb", "/a%2fb"),
            ("/é/./x", "/é/x"),
            ("//", "/"),
            ("/%2%65%2%65/x", "/%252e%252e/x"),
            ("/%%32F", "/%252F"),
            ("/%%326", "/%2526"),
            ("/%2", "/%2"),
        ] {
            let got = apply(given, &rules(EscapedSlashes::Keep));
            assert_eq!(got, Outcome::Path(normal.into()), "{given}");
        }
    }

    #[test]
    fn escaped_slashes_are_kept_refused_or_undone() {
        let with = |escaped| apply("/a%2Fb%5cc", &rules(escaped));
        assert!(matches!(with(EscapedSlashes::Reject), Outcome::Reject(_)));
        assert_eq!(
            with(EscapedSlashes::UnescapeAndForward),
            Outcome::Path("/a/b/c".into())
        );
        assert_eq!(
            with(EscapedSlashes::UnescapeAndRedirect),
            Outcome::Redirect("/a/b/c".into())
        );
        assert!(matches!(
            apply("/a%00", &rules(EscapedSlashes::Keep)),
            Outcome::Reject(_)
        ));
    }

    #[test]
    fn a_path_in_its_one_form_stays_as_it_is() {
        let mut random = fastrand::Rng::with_seed(1);
        let slashes = [
            EscapedSlashes::Keep,
            EscapedSlashes::UnescapeAndForward,
            EscapedSlashes::UnescapeAndRedirect,
            EscapedSlashes::Reject,
        ];
        let mut changed = 0;
        for _ in 0..200_000 {
            let mut path = "/".to_owned();
            for _ in 0..random.usize(..12) {
                let pieces = [
                    "/", "%", "2", "3", "5", "6", "f", "C", "e", ".", "\\", "a", "é", "%2f", "%2E",
                ];
                path.push_str(random.choice(pieces).unwrap());
            }
            let rules = PathRules {
                normalize: random.bool(),
                merge_slashes: random.bool(),
                escaped_slashes: random.choice(slashes).unwrap(),
            };
            let once = match apply(&path, &rules) {
                Outcome::Path(once) => once.into_owned(),
                Outcome::Redirect(once) => once,
                Outcome::Reject(_) => continue,
            };
            changed += usize::from(once != path);
            assert!(once.starts_with('/'), "{path} became {once}");
            let twice = apply(&once, &rules);
            assert_eq!(
                twice,
                Outcome::Path(once.as_str().into()),
                "{path} by {rules:?}"
            );
        }
        assert!(changed > 10_000);
    }

    #[test]
    fn without_rules_a_path_is_not_touched() {
        let untouched = apply("/a/../%41//b", &PathRules::default());
        assert_eq!(untouched, Outcome::Path("/a/../%41//b".into()));
    }
}
