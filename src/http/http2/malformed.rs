//! Malformed requests, where they end their connection (RFC 9113 section 8.1.1 has them end their
//! stream, and allows this; it is Envoy's default).
//!
//! The codec answers them by itself: by a reset of a stream that nobody gets to see, or by a GOAWAY
//! where it could not read a head to its end. Neither is told to anybody but the client. So the
//! frames that it writes are followed here, and those two are held back, until it is known whose
//! they are: the connection then ends without a word, as Envoy's do.

const HEADER: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const PROTOCOL_ERROR: u32 = 1;

/// Follows the frames that a server writes.
#[derive(Debug, Default)]
pub struct Malformed {
    /// Of a frame whose header has come: bytes that follow.
    passing: usize,
    /// The beginning of a frame that is not decided on.
    frame: Vec<u8>,
    /// The last stream whose request was handed over.
    accepted: u32,
    /// The last stream whose answer has begun.
    answered: u32,
    /// Streams that are reset without having been handed over.
    resets: Vec<u32>,
    /// Frames for which there was no place yet: one that is on its way must not be torn apart.
    owed: Vec<u8>,
    /// The codec ends the connection.
    ended: bool,
}

impl Malformed {
    /// Passes on what is written.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (now, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(now);
                self.passing -= now.len();
                bytes = rest;
                self.pay(out);
                continue;
            }
            let missing = self.length().saturating_sub(self.frame.len());
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.frame.extend_from_slice(now);
            bytes = rest;
            if self.frame.len() == self.length() {
                self.decide(out);
                self.pay(out);
            }
        }
    }

    /// Of what has to be there for a decision.
    fn length(&self) -> usize {
        match self.frame.get(3) {
            Some(&(RST_STREAM | GOAWAY)) => HEADER + self.payload(),
            _ => HEADER,
        }
    }

    fn payload(&self) -> usize {
        let [a, b, c] = [0, 1, 2].map(|at| usize::from(self.frame[at]));
        a << 16 | b << 8 | c
    }

    /// The four bytes at that place; zero if there are none.
    fn number(&self, at: usize) -> u32 {
        let bytes = self.frame.get(at..at + 4);
        bytes.map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn decide(&mut self, out: &mut Vec<u8>) {
        let stream = self.number(5);
        match self.frame[3] {
            RST_STREAM => {
                let unseen = stream > self.accepted && stream != self.answered;
                if unseen && self.number(HEADER) == PROTOCOL_ERROR {
                    self.resets.push(stream);
                    return self.frame.clear();
                }
            }
            GOAWAY if self.number(HEADER + 4) == PROTOCOL_ERROR => {
                self.ended = true;
                return self.frame.clear();
            }
            GOAWAY => {}
            kind => {
                if kind == HEADERS {
                    self.answered = stream;
                }
                self.passing = self.payload();
            }
        }
        out.extend_from_slice(&self.frame);
        self.frame.clear();
    }

    /// A request was handed over. Was its stream reset before that, the request was none the less
    /// well-formed (its body may not be), and the reset goes to the client.
    pub fn accepted(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.accepted = stream;
        let before = self.resets.len();
        self.resets.retain(|reset| *reset != stream);
        if self.resets.len() < before {
            self.owed.extend_from_slice(&[0, 0, 4, RST_STREAM, 0]);
            self.owed.extend_from_slice(&stream.to_be_bytes());
            self.owed.extend_from_slice(&PROTOCOL_ERROR.to_be_bytes());
            self.pay(out);
        }
    }

    fn pay(&mut self, out: &mut Vec<u8>) {
        if self.passing == 0 && self.frame.is_empty() {
            out.append(&mut self.owed);
        }
    }

    /// Whether the connection is to end. Ask when all requests that came have been handed over.
    pub fn is_over(&self) -> bool {
        self.ended || !self.resets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn reset(stream: u32, code: u32) -> Vec<u8> {
        frame(RST_STREAM, stream, &code.to_be_bytes())
    }

    fn goaway(code: u32) -> Vec<u8> {
        let mut payload = 9_u32.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        payload.extend(b"why");
        frame(GOAWAY, 0, &payload)
    }

    /// What comes out, for pieces of any size alike.
    fn passed(bytes: &[u8], accepted: u32) -> (Vec<u8>, bool) {
        let run = |step| {
            let mut malformed = Malformed::default();
            let mut out = Vec::new();
            malformed.accepted(accepted, &mut out);
            for piece in bytes.chunks(step) {
                malformed.pass(piece, &mut out);
            }
            (out, malformed.is_over())
        };
        let whole = run(bytes.len());
        for step in 1..bytes.len() {
            assert_eq!(run(step), whole, "{step}");
        }
        whole
    }

    #[test]
    fn what_is_not_about_malformed_requests_passes() {
        let frames = [
            frame(4, 0, &[0; 18]),
            frame(HEADERS, 1, b"head"),
            frame(0, 1, &[7; 300]),
            frame(0, 1, b""),
            // Of a stream that is known, with another code, after an answer.
            reset(1, PROTOCOL_ERROR),
            reset(5, 8),
            frame(HEADERS, 7, b"431"),
            reset(7, PROTOCOL_ERROR),
            goaway(0),
            goaway(11),
        ]
        .concat();
        assert_eq!(passed(&frames, 3), (frames, false));
    }

    #[test]
    fn a_reset_of_a_stream_that_nobody_saw_is_held_back() {
        let (ping, data) = (frame(6, 0, &[1; 8]), frame(0, 1, b"more"));
        let frames = [&ping[..], &reset(3, PROTOCOL_ERROR), &data].concat();
        assert_eq!(passed(&frames, 1), ([ping, data].concat(), true));
    }

    #[test]
    fn so_is_the_end_of_the_connection() {
        assert_eq!(passed(&goaway(PROTOCOL_ERROR), 1), (Vec::new(), true));
    }

    #[test]
    fn the_reset_of_a_request_that_is_handed_over_is_let_go_between_frames() {
        let mut malformed = Malformed::default();
        let mut out = Vec::new();
        malformed.pass(&reset(1, PROTOCOL_ERROR), &mut out);
        assert!(malformed.is_over() && out.is_empty());
        let data = frame(0, 9, b"long");
        malformed.pass(&data[..11], &mut out);
        malformed.accepted(1, &mut out);
        assert!(!malformed.is_over());
        malformed.pass(&data[11..], &mut out);
        assert_eq!(out, [data, reset(1, PROTOCOL_ERROR)].concat());
    }
}
