//! Tests of one text: a header, a query parameter, a cookie.

use std::fmt;

use causeway_xds::resource::matcher::{StringMatcher, StringPattern};
use regex::bytes::Regex;

/// What a value must be.
#[derive(Debug)]
pub enum Test {
    Present,
    Absent,
    Range { start: i64, end: i64 },
    Exact { text: Vec<u8>, ignore_case: bool },
    Prefix { text: Vec<u8>, ignore_case: bool },
    Suffix { text: Vec<u8>, ignore_case: bool },
    Contains { text: Vec<u8>, ignore_case: bool },
    Regex(Regex),
}

/// Matches the whole text, as RE2's full match does. The pattern was checked to compile when the
/// resource was decoded, so the fallback (which matches nothing) is never reached.
fn whole(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$"))
        .unwrap_or_else(|_| Regex::new("[^\\s\\S]").expect("a class that is empty"))
}

pub fn starts(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    text.get(..prefix.len())
        .is_some_and(|head| same(head, prefix, ignore_case))
}

pub fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        a.eq_ignore_ascii_case(b)
    } else {
        a == b
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, text, ignore_case) = match self {
            Self::Present => return f.write_str("is there"),
            Self::Absent => return f.write_str("is not there"),
            Self::Range { start, end } => return write!(f, "is a number in {start}..{end}"),
            Self::Regex(regex) => return write!(f, "matches {:?}", regex.as_str()),
            Self::Exact { text, ignore_case } => ("is", text, ignore_case),
            Self::Prefix { text, ignore_case } => ("begins with", text, ignore_case),
            Self::Suffix { text, ignore_case } => ("ends with", text, ignore_case),
            Self::Contains { text, ignore_case } => ("contains", text, ignore_case),
        };
        let case = if *ignore_case { " in any case" } else { "" };
        write!(f, "{what} {:?}{case}", String::from_utf8_lossy(text))
    }
}

/// Whether a value that is no UTF-8 matches with each byte of it taken for a character (of Latin-1):
/// a dot in a pattern would not match such bytes otherwise, and a value could hide behind them.
fn hides(regex: &Regex, value: &[u8]) -> bool {
    std::str::from_utf8(value).is_err()
        && regex.is_match(
            value
                .iter()
                .map(|b| char::from(*b))
                .collect::<String>()
                .as_bytes(),
        )
}

impl Test {
    pub fn string(matcher: &StringMatcher) -> Self {
        let ignore_case = matcher.ignore_case;
        match &matcher.pattern {
            StringPattern::Exact(t) => Self::Exact {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Prefix(t) => Self::Prefix {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Suffix(t) => Self::Suffix {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Contains(t) => Self::Contains {
                text: t.clone().into_bytes(),
                ignore_case,
            },
            StringPattern::Regex(pattern) => Self::Regex(whole(pattern)),
        }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok())
                .is_some_and(|n| (*start..*end).contains(&n)),
            Self::Exact { text, ignore_case } => same(value, text, *ignore_case),
            Self::Prefix { text, ignore_case } => starts(value, text, *ignore_case),
            Self::Suffix { text, ignore_case } => value
                .len()
                .checked_sub(text.len())
                .is_some_and(|from| same(&value[from..], text, *ignore_case)),
            Self::Contains { text, ignore_case } => {
                text.is_empty()
                    || value
                        .windows(text.len())
                        .any(|part| same(part, text, *ignore_case))
            }
            Self::Regex(regex) => regex.is_match(value) || hides(regex, value),
        }
    }
}
