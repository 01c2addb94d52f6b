//! Replies that wait for a connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// After this long the Coordinator has given up and told its user so.
pub const USEFUL_FOR: Duration = Duration::from_secs(15);
/// More than a Coordinator can have waiting within [`USEFUL_FOR`], by far.
const MAX_REPLIES: usize = 1024;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Encoded replies, oldest first, bounded in number and size.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<(Instant, String)>,
    bytes: usize,
}

impl Outbox {
    /// Takes a reply in; tells how many old ones had to go for it.
    pub fn push(&mut self, now: Instant, reply: String) -> usize {
        self.bytes += reply.len();
        self.waiting.push_back((now, reply));
        let mut dropped = 0;
        // The newest stays, however large: it alone is bounded by what was received.
        while self.waiting.len() > 1 && (self.waiting.len() > MAX_REPLIES || self.bytes > MAX_BYTES)
        {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// Drops what is too old to be of use; tells how many those were.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut dropped = 0;
        while let Some((since, _)) = self.waiting.front()
            && now.saturating_duration_since(*since) >= USEFUL_FOR
        {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    pub fn first(&self) -> Option<&str> {
        self.waiting.front().map(|(_, reply)| reply.as_str())
    }

    /// Takes the first out if it still is the one that came in at that place: while it was being
    /// sent, it may have made room for others.
    pub fn sent(&mut self, reply: &str) {
        if self.first() == Some(reply) {
            self.pop();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    fn pop(&mut self) {
        if let Some((_, reply)) = self.waiting.pop_front() {
            self.bytes -= reply.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_in_number_and_in_size() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for number in 0..MAX_REPLIES {
            assert_eq!(outbox.push(now, number.to_string()), 0);
        }
        assert_eq!(outbox.push(now, "one more".to_owned()), 1);
        assert_eq!(outbox.first(), Some("1"));
        assert_eq!(outbox.push(now, "x".repeat(MAX_BYTES + 1)), MAX_REPLIES);
        assert_eq!((outbox.len(), outbox.bytes), (1, MAX_BYTES + 1));
        assert_eq!(outbox.push(now, "small".to_owned()), 1);
        assert_eq!((outbox.first(), outbox.bytes), (Some("small"), 5));
    }

    #[test]
    fn what_is_too_old_goes() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(start, "old".to_owned());
        outbox.push(start + Duration::from_secs(10), "new".to_owned());
        assert_eq!(outbox.expire(start + Duration::from_secs(14)), 0);
        assert_eq!(outbox.expire(start + Duration::from_secs(15)), 1);
        assert_eq!(outbox.first(), Some("new"));
        outbox.sent("old");
        assert_eq!(outbox.len(), 1, "another one was sent");
        outbox.sent("new");
        assert_eq!((outbox.len(), outbox.bytes), (0, 0));
    }
}
