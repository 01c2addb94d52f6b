//! The date of an answer.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::util::time;

thread_local! {
    /// The last one that was made, and its second.
    static MADE: RefCell<(u64, HeaderValue)> =
        const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

/// `Date` (RFC 9110 section 6.6.1), which is the same for all answers of a second.
pub fn now() -> HeaderValue {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let second = since.unwrap_or_default().as_secs();
    MADE.with_borrow_mut(|(made, value)| {
        if *made != second
            && let Ok(text) = HeaderValue::try_from(time::http_date(second))
        {
            (*made, *value) = (second, text);
        }
        value.clone()
    })
}
