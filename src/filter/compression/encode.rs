//! Into a coding: what has come is flushed piece by piece, so that nobody waits for what is there.

use std::io::{self, Write};
use std::sync::Arc;

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http_body::Frame;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::{Coding, Encoding};
use crate::filter::body::{BodyError, Frames, Transform};
use crate::telemetry::stats::Counter;

pub struct Compress {
    encoder: Encoder,
    taken: Arc<Counter>,
    given: Arc<Counter>,
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Ended,
}

/// Bytes of the encoder's own buffer.
const BUFFER: usize = 4096;

impl Compress {
    /// # Errors
    /// The encoder cannot be had.
    pub fn new(
        encoding: &Encoding,
        taken: Arc<Counter>,
        given: Arc<Counter>,
    ) -> Result<Self, io::Error> {
        let sink = Vec::new();
        let encoder = match encoding.coding {
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(sink, Compression::new(encoding.level))),
            Coding::Brotli => {
                let writer = CompressorWriter::new(sink, BUFFER, encoding.level, encoding.window);
                Encoder::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                let level = i32::try_from(encoding.level).unwrap_or_default();
                Encoder::Zstd(ZstdEncoder::new(sink, level)?)
            }
        };
        Ok(Self {
            encoder,
            taken,
            given,
        })
    }

    fn put(&self, data: Bytes, out: &mut Frames) {
        if !data.is_empty() {
            self.given.add(data.len() as u64);
            out.push_back(Frame::data(data));
        }
    }
}

/// Takes what was written so far.
fn taken(sink: &mut Vec<u8>) -> Bytes {
    Bytes::from(std::mem::take(sink))
}

impl Encoder {
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
            Self::Ended => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn end(&mut self) -> io::Result<Bytes> {
        Ok(match std::mem::replace(self, Self::Ended) {
            Self::Gzip(writer) => writer.finish()?.into(),
            Self::Brotli(writer) => writer.into_inner().into(),
            Self::Zstd(writer) => writer.finish()?.into(),
            Self::Ended => Bytes::new(),
        })
    }
}

impl Transform for Compress {
    fn data(&mut self, data: Bytes, out: &mut Frames) -> Result<(), BodyError> {
        self.taken.add(data.len() as u64);
        if !data.is_empty() {
            let coded = self.encoder.write(&data).map_err(BodyError::new)?;
            self.put(coded, out);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        let coded = self.encoder.end().map_err(BodyError::new)?;
        self.put(coded, out);
        out.extend(trailers.map(Frame::trailers));
        Ok(())
    }
}
