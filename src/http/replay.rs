//! The head of a request, kept in case it has to be sent again.

use std::cell::RefCell;

use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri};

/// Lists that a thread keeps for the next request.
const SPARE: usize = 64;

type Fields = Vec<(HeaderName, HeaderValue)>;

thread_local! {
    static SPARES: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
}

/// Enough to make a head again. A list instead of a map: nearly every one of these is thrown away
/// unused, so it must cost neither hashing nor an allocation.
pub struct Replay {
    method: Method,
    uri: Uri,
    fields: Fields,
}

impl Replay {
    pub fn of(parts: &Parts) -> Self {
        let mut fields = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        fields.extend(
            parts
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            fields,
        }
    }

    pub fn to_parts(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = self.uri.clone();
        for (name, value) in &self.fields {
            parts.headers.append(name.clone(), value.clone());
        }
        parts
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(fields);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_made_again_with_repeated_fields_in_order() {
        let request = Request::put("/a?b")
            .header("x", "1")
            .header("x", "2")
            .header("y", "3");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let again = Replay::of(&parts).to_parts();
        assert_eq!((&again.method, &again.uri), (&parts.method, &parts.uri));
        assert_eq!(again.headers, parts.headers);
        let (other, ()) = Request::get("/").body(()).unwrap().into_parts();
        assert!(
            Replay::of(&other).to_parts().headers.is_empty(),
            "a used list is empty again"
        );
    }
}
