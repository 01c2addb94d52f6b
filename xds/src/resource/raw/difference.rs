//! A message as what is different from another one.
//!
//! Where there are very many resources of a kind, a program has made them from a few patterns: all but
//! names and addresses are the same bytes. Written as the parts of a *model* that come again and the bytes
//! in between, such a message takes a fraction of its room, and a microsecond to be written or read.
//!
//! The form is a row of parts. Each begins with a number (a varint of protobuf): twice a length, for so many
//! bytes that follow, or twice a length and one, for so many bytes from earlier on; the next number is the
//! place where they begin, counted through the model and then through what was written so far.

use std::sync::Arc;

use prost::encoding::{decode_varint, encode_varint};

/// Bytes that have to be the same for a part to come from earlier on.
const GRAM: usize = 8;
/// Larger messages are kept whole: what is the same about them is not worth looking for.
const MAX: usize = 8192;
/// Smaller ones as well, as there is nothing to be gained.
const MIN: usize = 48;
/// Entries of the tables of places in a model, and in what is different in a message, which is little.
/// Powers of two.
const IN_MODEL: usize = 1024;
const IN_MESSAGE: usize = 128;

/// Where a few bytes were seen last, by what they are; 0 is nowhere, and places count from 1.
#[derive(Debug)]
struct Places<const N: usize>([u16; N]);

/// A message that others are compared with.
#[derive(Debug)]
pub struct Model {
    bytes: Arc<Box<[u8]>>,
    places: Box<Places<IN_MODEL>>,
}

impl<const N: usize> Places<N> {
    fn new() -> Self {
        Self([0; N])
    }

    fn slot(gram: u64) -> usize {
        // Fibonacci hashing: the upper bits of the product depend on all of the number.
        (gram.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - N.ilog2())) as usize
    }

    fn note(&mut self, gram: u64, place: usize) {
        self.0[Self::slot(gram)] = u16::try_from(place + 1).unwrap_or_default();
    }

    fn find(&self, gram: u64) -> Option<usize> {
        usize::from(self.0[Self::slot(gram)]).checked_sub(1)
    }
}

fn gram(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + GRAM)?;
    bytes.try_into().ok().map(u64::from_ne_bytes)
}

/// How many bytes are the same from these places on.
fn same(a: &[u8], b: &[u8]) -> usize {
    let (words_of_a, words_of_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let words = words_of_a.iter().zip(words_of_b);
    let done = 8 * words.take_while(|(a, b)| a == b).count();
    let rest = a[done..].iter().zip(&b[done..]);
    done + rest.take_while(|(a, b)| a == b).count()
}

impl Model {
    /// `None` for a message of a size that is not worth it.
    pub fn new(bytes: &Arc<Box<[u8]>>) -> Option<Self> {
        if !(MIN..=MAX).contains(&bytes.len()) {
            return None;
        }
        let mut places = Box::new(Places::new());
        for at in 0..bytes.len() {
            if let Some(gram) = gram(bytes, at) {
                places.note(gram, at);
            }
        }
        Some(Self {
            bytes: Arc::clone(bytes),
            places,
        })
    }

    pub fn bytes(&self) -> &Arc<Box<[u8]>> {
        &self.bytes
    }

    /// What makes `message` different; `None` if that would take more than half the room.
    pub fn difference(&self, message: &[u8]) -> Option<Vec<u8>> {
        if !(MIN..=MAX).contains(&message.len()) {
            return None;
        }
        let most = message.len() / 2;
        let mut own = Places::new();
        let mut out = Vec::with_capacity(most);
        let mut written = 0;
        let mut at = 0;
        while let Some(gram) = gram(message, at) {
            let Some((place, length)) = self.longest(&own, message, gram, at) else {
                own.note(gram, at);
                at += 1;
                continue;
            };
            // The same bytes may begin earlier than was looked at.
            let before = self.before(message, place, at, at - written);
            let (start, from) = (at - before, place - before);
            literal(&message[written..start], &mut out);
            encode_varint(((length + before) as u64) * 2 + 1, &mut out);
            encode_varint(from as u64, &mut out);
            if out.len() > most {
                return None;
            }
            at += length;
            written = at;
        }
        literal(&message[written..], &mut out);
        (out.len() <= most).then_some(out)
    }

    /// Where what is at `at` was seen before, and how much of it.
    fn longest(
        &self,
        own: &Places<IN_MESSAGE>,
        message: &[u8],
        gram: u64,
        at: usize,
    ) -> Option<(usize, usize)> {
        let in_model = self.places.find(gram).and_then(|place| {
            let length = same(self.bytes.get(place..)?, &message[at..]);
            Some((place, length))
        });
        let in_message = own.find(gram).and_then(|place| {
            let length = same(message.get(place..at)?, &message[at..]);
            Some((self.bytes.len() + place, length))
        });
        let found = in_model.into_iter().chain(in_message);
        found
            .max_by_key(|(_, length)| *length)
            .filter(|(_, length)| *length >= GRAM)
    }

    /// How many bytes, at most `most`, are the same right before two places.
    fn before(&self, message: &[u8], place: usize, at: usize, most: usize) -> usize {
        let earlier = match place.checked_sub(self.bytes.len()) {
            None => &self.bytes[..place],
            Some(place) => &message[..place],
        };
        let now = &message[at - most..at];
        let pairs = earlier.iter().rev().zip(now.iter().rev());
        pairs.take_while(|(a, b)| a == b).count()
    }
}

fn literal(bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        encode_varint(bytes.len() as u64 * 2, out);
        out.extend_from_slice(bytes);
    }
}

/// The message that is so different from the model.
pub fn apply(model: &[u8], difference: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(model.len() + difference.len());
    let whole = parts(difference, |part| {
        match part {
            Part::Bytes(bytes) => out.extend_from_slice(bytes),
            Part::Earlier { from, length } => match from.checked_sub(model.len()) {
                None => out.extend_from_slice(model.get(from..from + length)?),
                Some(from) if from + length <= out.len() => {
                    out.extend_from_within(from..from + length)
                }
                Some(_) => return None,
            },
        }
        Some(())
    });
    debug_assert!(
        whole.is_some(),
        "a difference is what `Model::difference` wrote"
    );
    out
}

/// Whether that is this message; nothing is put together for it.
pub fn is(model: &[u8], difference: &[u8], message: &[u8]) -> bool {
    let mut rest = message;
    let same = parts(difference, |part| {
        let done = message.len() - rest.len();
        let expected = match part {
            Part::Bytes(bytes) => bytes,
            Part::Earlier { from, length } => match from.checked_sub(model.len()) {
                None => model.get(from..from + length)?,
                // Up to here the two are the same.
                Some(from) => message[..done].get(from..from + length)?,
            },
        };
        rest = rest.strip_prefix(expected)?;
        Some(())
    });
    same.is_some() && rest.is_empty()
}

enum Part<'d> {
    Bytes(&'d [u8]),
    Earlier { from: usize, length: usize },
}

/// `None` as soon as `each` says so, or something is wrong with what is read.
fn parts<'d>(mut difference: &'d [u8], mut each: impl FnMut(Part<'d>) -> Option<()>) -> Option<()> {
    let number = |rest: &mut &'d [u8]| usize::try_from(decode_varint(rest).ok()?).ok();
    while !difference.is_empty() {
        let begin = number(&mut difference)?;
        let length = begin / 2;
        each(if begin % 2 == 1 {
            let from = number(&mut difference)?;
            Part::Earlier { from, length }
        } else {
            let (bytes, rest) = difference.split_at_checked(length)?;
            difference = rest;
            Part::Bytes(bytes)
        })?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bytes: &[u8]) -> Option<Model> {
        Model::new(&Arc::new(bytes.into()))
    }

    /// Kept as a difference, and back.
    fn kept(bytes: &[u8], message: &[u8]) -> Option<usize> {
        let difference = model(bytes)?.difference(message)?;
        let model = bytes;
        assert_eq!(apply(model, &difference), message);
        assert!(is(model, &difference, message));
        for other in [&message[1..], &message[..message.len() - 1], model] {
            assert_eq!(is(model, &difference, other), other == message);
        }
        let mut longer = message.to_vec();
        longer.push(0);
        assert!(!is(model, &difference, &longer));
        Some(difference.len())
    }

    fn of(name: &str) -> Vec<u8> {
        let text = format!(
            "name {name}, a great deal that is the same for all of them, then {name} once more and \
             a lot of text that nobody would like to keep a hundred thousand times over again"
        );
        text.into_bytes()
    }

    #[test]
    fn what_comes_again_takes_little_room() {
        let (a, b) = (
            of("circuit/0123456789abcdef"),
            of("circuit/fedcba9876543210"),
        );
        // The name once, and where the rest is.
        let size = kept(&a, &b).unwrap();
        assert!(size < 35, "{size}");
        assert!(kept(&a, &a).unwrap() <= 4);
        assert!(kept(&a, &of("x")).is_some() && kept(&of("x"), &a).is_some());
    }

    #[test]
    fn what_is_different_throughout_is_not_worth_it() {
        let noise = |seed: u64| -> Vec<u8> {
            let mut state = seed;
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(seed);
                (state >> 56) as u8
            };
            (0..500).map(|_| next()).collect()
        };
        assert_eq!(kept(&noise(1), &noise(3)), None);
        assert_eq!(kept(&of("a"), &noise(3)), None);
        assert!(model(&[0; MIN - 1]).is_none() && model(&[0; MAX + 1]).is_none());
        assert_eq!(kept(&of("a"), &[0; MIN - 1]), None);
    }

    #[test]
    fn any_two_messages_come_back() {
        let mut state = 7_u64;
        let mut random = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let mut found = 0;
        for _ in 0..3_000 {
            // Few different bytes, so that parts come again everywhere.
            let model: Vec<u8> = (0..MIN + random(300)).map(|_| random(3) as u8).collect();
            let mut message = model.clone();
            for _ in 0..random(6) {
                let at = random(message.len());
                match random(3) {
                    0 => message[at] = random(256) as u8,
                    1 => drop(message.splice(at..at, (0..random(20)).map(|n| n as u8))),
                    _ => message.truncate(at.max(MIN)),
                }
            }
            found += usize::from(kept(&model, &message).is_some());
        }
        assert!(found > 1_000, "{found}");
    }
}
