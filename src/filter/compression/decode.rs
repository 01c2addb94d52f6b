//! Out of a coding, with an eye on how much comes of how little.

use std::io::{self, Write};

use brotli::DecompressorWriter;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http_body::Frame;
use zstd::stream::write::Decoder as ZstdDecoder;

use super::{Coding, Decoding, taken};
use crate::filter::body::{BodyError, Frames, Transform};

/// Bytes that are taken in at once, so that no more than a bound comes of them unseen.
const STEP: usize = 4096;
/// What a body may become in any case, however small it was.
const ALWAYS: u64 = 64 * 1024;

pub struct Decompress {
    decoder: Decoder,
    max_ratio: u64,
    taken: u64,
    given: u64,
}

enum Decoder {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Brotli(Box<DecompressorWriter<Vec<u8>>>),
    Zstd(ZstdDecoder<'static, Vec<u8>>),
}

impl Decompress {
    /// # Errors
    /// The decoder cannot be had.
    pub fn new(decoding: &Decoding) -> Result<Self, io::Error> {
        let sink = Vec::new();
        let decoder = match decoding.coding {
            Coding::Gzip => Decoder::Gzip(MultiGzDecoder::new(sink)),
            Coding::Brotli => Decoder::Brotli(Box::new(DecompressorWriter::new(sink, STEP))),
            Coding::Zstd => Decoder::Zstd(ZstdDecoder::new(sink)?),
        };
        Ok(Self {
            decoder,
            max_ratio: decoding.max_ratio,
            taken: 0,
            given: 0,
        })
    }

    fn put(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.given += data.len() as u64;
        let most = self.taken.saturating_mul(self.max_ratio).max(ALWAYS);
        if self.given > most {
            return Err(BodyError::new("the body becomes too large"));
        }
        if !data.is_empty() {
            out.push_back(Frame::data(data));
        }
        Ok(())
    }
}

impl Decoder {
    fn write(&mut self, data: &[u8]) -> io::Result<Bytes> {
        match self {
            Self::Gzip(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                Ok(taken(writer.get_mut()))
            }
            Self::Brotli(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                Ok(taken(writer.get_mut()))
            }
            Self::Zstd(writer) => {
                writer.write_all(data)?;
                writer.flush()?;
                Ok(taken(writer.get_mut()))
            }
        }
    }

    /// What is left; a body that was cut short is an error where the coding can tell.
    fn end(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Gzip(writer) => {
                writer.try_finish()?;
                Ok(taken(writer.get_mut()))
            }
            Self::Brotli(writer) => {
                writer.close()?;
                Ok(taken(writer.get_mut()))
            }
            Self::Zstd(writer) => {
                writer.flush()?;
                Ok(taken(writer.get_mut()))
            }
        }
    }
}

impl Transform for Decompress {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        for piece in data.chunks(STEP) {
            self.taken += piece.len() as u64;
            let plain = self.decoder.write(piece).map_err(BodyError::new)?;
            self.put(plain, out)?;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        let plain = self.decoder.end().map_err(BodyError::new)?;
        self.put(plain, out)?;
        out.extend(trailers.map(Frame::trailers));
        Ok(())
    }
}
