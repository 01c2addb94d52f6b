//! A digit for the rules, then a path: brought into its one form, which has to stay as it is.
#![no_main]

use causeway::http::path::{Outcome, apply};
use causeway_xds::resource::http_manager::{EscapedSlashes, PathRules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let Ok(path) = std::str::from_utf8(rest) else {
        return;
    };
    if !path.starts_with('/') {
        return;
    }
    let rules = PathRules {
        normalize: first & 1 > 0,
        merge_slashes: first & 2 > 0,
        escaped_slashes: match first >> 2 & 3 {
            0 => EscapedSlashes::Keep,
            1 => EscapedSlashes::Reject,
            2 => EscapedSlashes::UnescapeAndForward,
            _ => EscapedSlashes::UnescapeAndRedirect,
        },
    };
    let once = match apply(path, &rules) {
        Outcome::Path(path) => path.into_owned(),
        Outcome::Redirect(path) => path,
        Outcome::Reject(_) => return,
    };
    assert!(once.starts_with('/'));
    assert_eq!(apply(&once, &rules), Outcome::Path(once.as_str().into()));
});
