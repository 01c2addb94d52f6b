//! How a connection of HTTP/2 begins: with the preface, which the codec checks, and a SETTINGS frame,
//! which it does not ask for (RFC 9113 section 3.4).

use std::io;

/// Of the preface.
const PREFACE: usize = 24;
/// Where the first frame says its type, and its flags.
const TYPE: usize = PREFACE + 3;
const FLAGS: usize = TYPE + 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Looks at the first bytes of a connection as they come.
#[derive(Debug, Default)]
pub struct Opening {
    /// How many have come, up to the last that counts.
    seen: usize,
}

impl Opening {
    /// # Errors
    /// `InvalidData`: the first frame is none of SETTINGS, or acknowledges some. The connection ends
    /// without a GOAWAY, as it may.
    pub fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.seen > FLAGS {
            return Ok(());
        }
        let at = |place: usize| place.checked_sub(self.seen).and_then(|i| bytes.get(i));
        let other = at(TYPE).is_some_and(|kind| *kind != SETTINGS)
            || at(FLAGS).is_some_and(|flags| flags & ACK != 0);
        self.seen += bytes.len().min(FLAGS + 1);
        match other {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the first frame is not SETTINGS",
            )),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(kind: u8, flags: u8) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 0, kind, flags, 0, 0, 0, 0]);
        bytes
    }

    fn pass(bytes: &[u8], step: usize) -> bool {
        let mut opening = Opening::default();
        let mut pieces = bytes.chunks(step);
        pieces.all(|piece| opening.look(piece).is_ok())
    }

    #[test]
    fn settings_come_first_in_pieces_of_any_size() {
        for step in 1..40 {
            assert!(pass(&opening(SETTINGS, 0), step), "{step}");
            for (kind, flags) in [(1, 5), (6, 0), (8, 0), (0x77, 0), (SETTINGS, ACK)] {
                assert!(!pass(&opening(kind, flags), step), "{kind} {flags} {step}");
            }
        }
    }

    #[test]
    fn what_follows_is_not_looked_at() {
        let mut bytes = opening(SETTINGS, 0);
        bytes.extend([1; 200]);
        assert!(pass(&bytes, 7) && pass(&bytes, 1000));
    }
}
