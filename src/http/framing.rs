//! Finding the `Content-Length` fields that the parser keeps to itself.
//!
//! hyper drops a `Content-Length` that comes with a `Transfer-Encoding`, and one that repeats the
//! one before it. RFC 9112 section 6.3 allows that, but whoever stands in front of us may have read
//! the other field, so such a request must not be forwarded. All that tells is the bytes on the way
//! in, which are kept here until the parser must be done with them.
//!
//! Where a head lies in them is never guessed from what they look like. The values of a parsed head
//! are slices of the buffer that was read into, so their addresses tell, whatever came before the
//! head and whatever follows it. Where that cannot be told, the request is refused.

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};

use crate::error::Failure;

/// Room for what is left of an earlier body before a head.
const SPARE: usize = 8 * 1024;
/// A buffer that grew beyond this is not kept for the next head: most heads are small, and most
/// connections are idle.
const USUAL: usize = 2 * 1024;

/// The bytes that may hold the next head of an HTTP/1 connection.
#[derive(Debug)]
pub struct Heads {
    limit: usize,
    /// What was read since the parser was last known to hold nothing; no more than `limit` of it.
    kept: Vec<u8>,
    /// Of how many bytes it is the beginning.
    read: usize,
    /// The address behind the last of them, where they were read to.
    end: usize,
    /// Of a body of known length, what is still to come. Nothing is kept while it comes.
    body: u64,
}

/// Where a head begins (the line of its first field that has a value) and ends, in what was kept.
struct Place {
    fields: usize,
    end: usize,
}

impl Heads {
    /// For heads of up to `head` bytes.
    pub fn new(head: usize) -> Self {
        Self {
            limit: head + SPARE,
            kept: Vec::new(),
            read: 0,
            end: 0,
            body: 0,
        }
    }

    /// Notes down what was just read, while it lies where it was read to.
    pub fn read(&mut self, mut bytes: &[u8]) {
        if self.body > 0 {
            let skipped = usize::try_from(self.body).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.body -= skipped as u64;
            bytes = &bytes[skipped..];
        }
        if bytes.is_empty() {
            return;
        }
        // The parser reads again only when it has used up what it had, or has the beginning of a
        // head. After an empty line it cannot be the latter; and after more than a head can have,
        // it would be one that came behind a body without waiting for an answer.
        if self.kept.ends_with(b"\n\r\n") || self.read > self.kept.len() {
            self.forget();
        }
        let room = self.limit - self.kept.len();
        self.kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.read += bytes.len();
        self.end = bytes.as_ptr_range().end.addr();
    }

    /// What is there of a head that could not be parsed.
    pub fn seen(&self) -> &[u8] {
        &self.kept
    }

    /// The byte that stood behind a piece of the head that was parsed last, if that can be told.
    pub fn behind(&self, piece: &[u8]) -> Option<u8> {
        let begin = self.end - self.read;
        let at = piece.as_ptr_range().end.addr();
        self.kept.get(at.checked_sub(begin)?).copied()
    }

    /// The parser holds nothing.
    pub fn forget(&mut self) {
        self.read = 0;
        self.kept.clear();
        if self.kept.capacity() > USUAL {
            self.kept = Vec::new();
        }
    }

    /// Call with the fields of a head that says how its body is framed, as they were parsed, before
    /// anything is read again.
    ///
    /// # Errors
    /// It had a `Content-Length` more than can be seen, or where it was is not known.
    pub fn check(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(place) = self.find(headers) else {
            return Err(Failure::bad_request("http1.framing_unclear"));
        };
        let after = lines(&self.kept[place.fields..place.end]);
        let found =
            after.filter(|line| is_length(line)).count() + self.unseen_before(place.fields)?;
        let chunked = headers.contains_key(TRANSFER_ENCODING);
        let length = headers.get(CONTENT_LENGTH);
        if found != usize::from(length.is_some()) {
            return Err(Failure::bad_request(if chunked {
                "http1.content_length_and_chunked"
            } else {
                "http1.invalid_content_length"
            }));
        }
        let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
        self.take(place.end, length.unwrap_or(0));
        Ok(())
    }

    /// The head is done with, and so is what is there of its body of `length` bytes.
    fn take(&mut self, head: usize, length: u64) {
        let rest = (self.read - head) as u64;
        if length >= rest {
            self.body = length - rest;
            return self.forget();
        }
        // Less than what was read, so it is a `usize`.
        let next = head + usize::try_from(length).unwrap_or_default();
        if next > self.kept.len() {
            return self.forget();
        }
        self.kept.drain(..next);
        self.read -= next;
    }

    fn find(&self, headers: &HeaderMap) -> Option<Place> {
        let begin = self.end - self.read;
        let mut first = self.end;
        for value in headers.values().filter(|v| !v.is_empty()) {
            let at = value.as_bytes().as_ptr().addr();
            if !(begin..self.end).contains(&at) {
                return None;
            }
            first = first.min(at);
        }
        // A field's line is never the first: that is the request line.
        let fields = self.kept.get(..first - begin)?.iter().rposition(newline)? + 1;
        let mut end = fields;
        loop {
            let line = self.kept[end..].iter().position(newline)?;
            let empty = matches!(&self.kept[end..end + line], b"" | b"\r");
            end += line + 1;
            if empty {
                return Some(Place { fields, end });
            }
        }
    }

    /// `Content-Length` fields between the request line and the first field that has a value and
    /// was not dropped, which begins at `fields`.
    fn unseen_before(&self, fields: usize) -> Result<usize, Failure> {
        let mut found = 0;
        let mut before = lines(&self.kept[..fields]);
        // All other fields that may be here are empty: only the request line ends like this.
        while let Some(line) = before.next_back() {
            if is_length(line) {
                found += 1;
            } else if line.ends_with(b"HTTP/1.1") || line.ends_with(b"HTTP/1.0") {
                return Ok(found);
            }
        }
        Err(Failure::bad_request("http1.framing_unclear"))
    }
}

fn newline(byte: &u8) -> bool {
    *byte == b'\n'
}

/// Lines that all end, without their ends.
fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes
        .split(newline)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The parser has refused names with a space behind them.
fn is_length(line: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length:";
    line.get(..NAME.len())
        .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests;
