//! Out of a coding, with an eye on how much comes of how little.

use std::io::{self, Write};

use brotli::DecompressorWriter;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http_body::Frame;
use zstd::stream::write::Decoder as ZstdDecoder;

use super::{Coding, Decoding};
use crate::filter::body::{BodyError, Frames, Transform};

/// Bytes that are taken in at once, so that no more than a bound comes of them unseen.
const STEP: usize = 4096;
/// The logarithm of the largest window that a body may ask for (RFC 9659).
const ZSTD_WINDOW: u32 = 23;
/// What a body may become in any case, however small it was.
const ALWAYS: u64 = 64 * 1024;

pub struct Decompress {
    decoder: Decoder,
    max_ratio: u64,
    taken: u64,
    given: u64,
}

enum Decoder {
    Gzip(MultiGzDecoder<Sink>),
    Brotli(Box<DecompressorWriter<Sink>>),
    Zstd(ZstdDecoder<'static, Sink>),
}

impl Decompress {
    /// # Errors
    /// The decoder cannot be had.
    pub fn new(decoding: &Decoding) -> Result<Self, io::Error> {
        let sink = Sink::default();
        let decoder = match decoding.coding {
            Coding::Gzip => Decoder::Gzip(MultiGzDecoder::new(sink)),
            Coding::Brotli => Decoder::Brotli(Box::new(DecompressorWriter::new(sink, STEP))),
            Coding::Zstd => {
                let mut decoder = ZstdDecoder::new(sink)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            max_ratio: decoding.max_ratio,
            taken: 0,
            given: 0,
        })
    }

    /// What comes of a step, within what may come of all so far.
    fn step(
        &mut self,
        out: &mut Frames,
        step: impl FnOnce(&mut Decoder) -> io::Result<()>,
    ) -> Result<(), BodyError> {
        let most = self.taken.saturating_mul(self.max_ratio).max(ALWAYS);
        self.decoder.sink().left = most.saturating_sub(self.given);
        step(&mut self.decoder).map_err(BodyError::new)?;
        let data = std::mem::take(&mut self.decoder.sink().data);
        self.given += data.len() as u64;
        if !data.is_empty() {
            out.push_back(Frame::data(data.into()));
        }
        Ok(())
    }
}

/// Takes no more than a bound: a few bytes may stand for millions.
#[derive(Default)]
struct Sink {
    data: Vec<u8>,
    left: u64,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(data.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("the body becomes too large"))?;
        self.data.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    fn sink(&mut self) -> &mut Sink {
        match self {
            Self::Gzip(writer) => writer.get_mut(),
            Self::Brotli(writer) => writer.get_mut(),
            Self::Zstd(writer) => writer.get_mut(),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let writer: &mut dyn Write = match self {
            Self::Gzip(writer) => writer,
            Self::Brotli(writer) => writer,
            Self::Zstd(writer) => writer,
        };
        writer.write_all(data)?;
        writer.flush()
    }

    /// What is left; a body that was cut short is an error where the coding can tell.
    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(writer) => writer.try_finish(),
            Self::Brotli(writer) => writer.close(),
            Self::Zstd(writer) => writer.flush(),
        }
    }
}

impl Transform for Decompress {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        for piece in data.chunks(STEP) {
            self.taken += piece.len() as u64;
            self.step(out, |decoder| decoder.write(piece))?;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        self.step(out, Decoder::end)?;
        out.extend(trailers.map(Frame::trailers));
        Ok(())
    }
}
