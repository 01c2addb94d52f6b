//! The libraries that configuration names.

use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::compression as proto;
use causeway_xds::proto::{Any, Message};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, enumeration, fault, number, required};
use causeway_xds::type_url::message_name;
use proto::gzip::compressor::v3::gzip::CompressionLevel;

use super::{Coding, Decoding, Encoding};

/// `max_inflate_ratio` when it is not given; of the other codings in any case.
const MAX_RATIO: u32 = 100;

fn message<M: Message + Default>(any: &Any) -> Result<M, Invalid> {
    M::decode(any.value.as_slice()).map_err(|e| fault(e.to_string()))
}

/// Also the name, for statistics.
pub fn compressor(message: TypedExtensionConfig) -> Result<(String, Encoding), Invalid> {
    let TypedExtensionConfig { name, typed_config } = message;
    let any = required(typed_config, "typed_config")?;
    let encoding = match message_name(&any.type_url) {
        "envoy.extensions.compression.gzip.compressor.v3.Gzip" => gzip(&any),
        "envoy.extensions.compression.brotli.compressor.v3.Brotli" => brotli(&any),
        "envoy.extensions.compression.zstd.compressor.v3.Zstd" => zstd(&any),
        other => Err(fault(format!("compressor \"{other}\" is not supported"))),
    };
    Ok((name, encoding.at("typed_config")?))
}

/// As [`compressor`].
pub fn decompressor(message: TypedExtensionConfig) -> Result<(String, Decoding), Invalid> {
    let TypedExtensionConfig { name, typed_config } = message;
    let any = required(typed_config, "typed_config")?;
    let decoding = match message_name(&any.type_url) {
        "envoy.extensions.compression.gzip.decompressor.v3.Gzip" => ungzip(&any),
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli" => unbrotli(&any),
        "envoy.extensions.compression.zstd.decompressor.v3.Zstd" => unzstd(&any),
        other => Err(fault(format!("decompressor \"{other}\" is not supported"))),
    };
    Ok((name, decoding.at("typed_config")?))
}

// How much memory the encoders use and how they cut their output is their own business: the fields
// about it are checked and not followed.

fn gzip(any: &Any) -> Result<Encoding, Invalid> {
    let proto::gzip::compressor::v3::Gzip {
        memory_level,
        compression_level,
        compression_strategy: _,
        window_bits,
        chunk_size,
    } = message(any)?;
    number(memory_level, "memory_level", 1..=9)?;
    number(chunk_size, "chunk_size", 4096..=65536)?;
    let window = number(window_bits, "window_bits", 9..=15)?;
    let level = match enumeration(compression_level, "compression_level")? {
        CompressionLevel::DefaultCompression => 6,
        level => level as u32,
    };
    Ok(Encoding {
        coding: Coding::Gzip,
        level,
        window: window.unwrap_or(15),
    })
}

fn brotli(any: &Any) -> Result<Encoding, Invalid> {
    let proto::brotli::compressor::v3::Brotli {
        quality,
        encoder_mode: _,
        window_bits,
        input_block_bits,
        chunk_size,
        disable_literal_context_modeling: _,
    } = message(any)?;
    number(input_block_bits, "input_block_bits", 16..=24)?;
    number(chunk_size, "chunk_size", 4096..=65536)?;
    Ok(Encoding {
        coding: Coding::Brotli,
        level: number(quality, "quality", 0..=11)?.unwrap_or(3),
        window: number(window_bits, "window_bits", 10..=24)?.unwrap_or(18),
    })
}

fn zstd(any: &Any) -> Result<Encoding, Invalid> {
    let proto::zstd::compressor::v3::Zstd {
        compression_level,
        enable_checksum,
        strategy: _,
        dictionary,
        chunk_size,
    } = message(any)?;
    refuse!(enable_checksum, dictionary);
    number(chunk_size, "chunk_size", 4096..=65536)?;
    Ok(Encoding {
        coding: Coding::Zstd,
        level: number(compression_level, "compression_level", 1..=22)?.unwrap_or(3),
        window: 0,
    })
}

fn ungzip(any: &Any) -> Result<Decoding, Invalid> {
    let proto::gzip::decompressor::v3::Gzip {
        window_bits,
        chunk_size,
        max_inflate_ratio,
    } = message(any)?;
    number(window_bits, "window_bits", 9..=15)?;
    number(chunk_size, "chunk_size", 4096..=65536)?;
    let ratio = number(max_inflate_ratio, "max_inflate_ratio", 1..=1032)?;
    Ok(Decoding {
        coding: Coding::Gzip,
        max_ratio: ratio.unwrap_or(MAX_RATIO).into(),
    })
}

fn unbrotli(any: &Any) -> Result<Decoding, Invalid> {
    let proto::brotli::decompressor::v3::Brotli {
        disable_ring_buffer_reallocation: _,
        chunk_size,
    } = message(any)?;
    number(chunk_size, "chunk_size", 4096..=65536)?;
    Ok(Decoding {
        coding: Coding::Brotli,
        max_ratio: MAX_RATIO.into(),
    })
}

fn unzstd(any: &Any) -> Result<Decoding, Invalid> {
    let proto::zstd::decompressor::v3::Zstd {
        dictionaries,
        chunk_size,
    } = message(any)?;
    refuse!(dictionaries);
    number(chunk_size, "chunk_size", 4096..=65536)?;
    Ok(Decoding {
        coding: Coding::Zstd,
        max_ratio: MAX_RATIO.into(),
    })
}
