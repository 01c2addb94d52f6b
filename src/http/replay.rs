//! The head of a request, kept in case it has to be sent again.

use std::cell::RefCell;

use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};

/// Buffers that a thread keeps for the next request.
const SPARE: usize = 64;
/// A buffer that grew beyond this is not kept.
const USUAL: usize = 8 * 1024;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Enough to make a head again. Bytes instead of a map: nearly every one of these is thrown away
/// unused, so it must cost neither hashing nor an allocation nor a count of references, of which
/// each field would have two.
pub struct Replay {
    method: Method,
    version: Version,
    uri: Target,
    /// Field after field: both lengths, name, value.
    fields: Vec<u8>,
}

/// What is asked for.
enum Target {
    /// A path, as in nearly all requests: so many bytes at the end of the fields.
    Path(usize),
    Other(Uri),
}

impl Replay {
    pub fn of(parts: &Parts) -> Self {
        let mut fields = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        for (name, value) in &parts.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            fields.extend_from_slice(&lengths(name.len(), value.len()));
            fields.extend_from_slice(name);
            fields.extend_from_slice(value);
        }
        let uri = match (parts.uri.authority(), parts.uri.path_and_query()) {
            (None, Some(path)) => {
                fields.extend_from_slice(path.as_str().as_bytes());
                Target::Path(path.as_str().len())
            }
            _ => Target::Other(parts.uri.clone()),
        };
        Self {
            method: parts.method.clone(),
            version: parts.version,
            uri,
            fields,
        }
    }

    pub fn to_parts(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.version = self.version;
        let (mut fields, uri) = match &self.uri {
            Target::Other(uri) => (&self.fields[..], uri.clone()),
            Target::Path(length) => {
                let (fields, path) = self.fields.split_at(self.fields.len() - length);
                (fields, Uri::try_from(path).unwrap_or_default())
            }
        };
        parts.uri = uri;
        while let Some((head, rest)) = fields.split_first_chunk() {
            let (name, value) = parse_lengths(*head);
            let (name, rest) = rest.split_at(name);
            let (value, rest) = rest.split_at(value);
            fields = rest;
            // They were a name and a value before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                parts.headers.append(name, value);
            }
        }
        parts
    }
}

fn lengths(name: usize, value: usize) -> [u8; 8] {
    // A head has far fewer bytes than fit.
    let both = (name as u64) << 32 | value as u64;
    both.to_ne_bytes()
}

fn parse_lengths(bytes: [u8; 8]) -> (usize, usize) {
    let both = u64::from_ne_bytes(bytes);
    ((both >> 32) as usize, (both & 0xffff_ffff) as usize)
}

impl Drop for Replay {
    fn drop(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        if fields.capacity() > USUAL {
            return;
        }
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
        for uri in ["/a?b", "http://h:1/a?b", "*", "/"] {
            let request = Request::put(uri)
                .header("x", "1")
                .header("host", "h")
                .header("x", "2")
                .header("y", "")
                .header("z", HeaderValue::from_bytes(b"\xe9\t ").unwrap());
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let again = Replay::of(&parts).to_parts();
            assert_eq!((&again.method, &again.uri), (&parts.method, &parts.uri));
            assert_eq!(again.headers, parts.headers);
        }
        let (other, ()) = Request::get("/").body(()).unwrap().into_parts();
        assert!(
            Replay::of(&other).to_parts().headers.is_empty(),
            "a used buffer is empty again"
        );
    }
}
