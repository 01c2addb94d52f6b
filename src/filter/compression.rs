//! Content codings (RFC 9110 section 8.4.1): which there are, and how bodies get into them and out.
//!
//! What the compressor and the decompressor share; no filter by itself.

mod decode;
mod encode;
mod library;
#[cfg(test)]
mod tests;

pub use decode::Decompress;
pub use encode::Compress;
pub use library::{compressor, decompressor};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// As `content-encoding` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// As statistics name it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Brotli => "brotli",
            other => other.name(),
        }
    }
}

/// A coding, and how hard it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    pub coding: Coding,
    pub level: u32,
    /// The logarithm of the window, where the coding has one to choose.
    pub window: u32,
}

/// A coding to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoding {
    pub coding: Coding,
    /// So many times its own size may a body become.
    pub max_ratio: u64,
}
