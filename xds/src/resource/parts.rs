//! What the configuration of extensions is made of, for decoders outside this crate.
//!
//! They take messages apart as the decoders here do: without `..`, every field read or refused.

use std::path::Path;

use ipnet::IpNet;

use super::context::Context;
use super::format::Format;
use super::fraction::RuntimeFraction;
use super::headers::{self, HeaderEdit};
use super::matcher::value::MetadataMatcher;
use super::matcher::{self, HeaderMatcher, StringMatcher};
use super::metadata::MetadataValue;
use super::route::PathTemplate;
use crate::extension::Unchecked;
use crate::proto::core::data_source::Specifier;
use crate::proto::core::{self, CidrRange, DataSource, HeaderValueOption, TypedExtensionConfig};
use crate::proto::envoy::r#type::matcher::v3 as messages;
use crate::proto::{Struct, route};
use crate::reject::Invalid;

pub use super::context::{
    At, duration, each, enumeration, fault, flag, is_default, not_empty, number, percent, required,
    unknown_type, unpack,
};

/// # Errors
/// The pattern is missing, empty, or does not compile.
pub fn string(message: messages::StringMatcher) -> Result<StringMatcher, Invalid> {
    StringMatcher::decode(message, &Context::new(&Unchecked))
}

/// # Errors
/// A part is missing, empty, or does not compile.
pub fn metadata_matcher(message: messages::MetadataMatcher) -> Result<MetadataMatcher, Invalid> {
    MetadataMatcher::decode(message, &Context::new(&Unchecked))
}

/// A pattern that has to match a whole text.
///
/// # Errors
/// It is empty or does not compile.
pub fn regex(message: messages::RegexMatcher) -> Result<String, Invalid> {
    matcher::whole_regex(message, &Context::new(&Unchecked))
}

/// Pattern and substitution, the latter in the syntax of the `regex` crate.
///
/// # Errors
/// The pattern does not compile, or the substitution names a group that it does not have.
pub fn substitution(
    message: messages::RegexMatchAndSubstitute,
) -> Result<(String, String), Invalid> {
    matcher::substitution(message, &Context::new(&Unchecked))
}

/// # Errors
/// The name is none that a header can have, or the value cannot be matched by.
pub fn header(message: route::HeaderMatcher) -> Result<HeaderMatcher, Invalid> {
    HeaderMatcher::decode(message, &Context::new(&Unchecked))
}

/// # Errors
/// A name or a value is none that a header can have; `field` is what the list is called.
pub fn header_edits(
    message: Vec<HeaderValueOption>,
    field: &str,
) -> Result<Vec<HeaderEdit>, Invalid> {
    headers::additions(message, field)
}

/// # Errors
/// As [`header_edits`].
pub fn header_edit(message: HeaderValueOption) -> Result<HeaderEdit, Invalid> {
    HeaderEdit::decode(message)
}

/// The name of a header, in lower case.
///
/// # Errors
/// It is none.
pub fn header_name(name: &str) -> Result<String, Invalid> {
    headers::header_name(name)
}

/// The name of a header that may be changed: not `host`, no pseudo header.
///
/// # Errors
/// It is none.
pub fn editable_name(name: String) -> Result<String, Invalid> {
    headers::editable_name(name)
}

/// A substitution format.
///
/// # Errors
/// It does not parse, or asks for something that is not known.
pub fn format(text: &str) -> Result<Format, Invalid> {
    Format::parse(text)
}

/// # Errors
/// What cannot be sent as the value of a header.
pub fn header_value(value: &str) -> Result<(), Invalid> {
    headers::header_value(value)
}

/// # Errors
/// The address is none, or the length too long for it.
pub fn network(message: CidrRange) -> Result<IpNet, Invalid> {
    super::address::network(message)
}

/// # Errors
/// There is no default, or its denominator is none.
pub fn fraction(message: core::RuntimeFractionalPercent) -> Result<RuntimeFraction, Invalid> {
    RuntimeFraction::decode(message)
}

/// # Errors
/// It is no template, or an extension that is not known.
pub fn path_template(message: TypedExtensionConfig) -> Result<PathTemplate, Invalid> {
    PathTemplate::decode(message)
}

pub fn metadata(message: Struct) -> MetadataValue {
    MetadataValue::object(message)
}

/// What a source holds now.
///
/// # Errors
/// It names a file that cannot be read, or a variable that is not set.
pub fn data(message: DataSource) -> Result<Vec<u8>, Invalid> {
    let DataSource {
        watched_directory,
        specifier,
    } = message;
    if watched_directory.is_some() {
        return Err(Invalid::at("watched_directory", "not supported yet"));
    }
    match required(specifier, "specifier")? {
        Specifier::InlineBytes(bytes) => Ok(bytes),
        Specifier::InlineString(text) => Ok(text.into_bytes()),
        Specifier::Filename(name) => std::fs::read(Path::new(&name))
            .map_err(|e| Invalid::at("filename", format!("{name}: {e}"))),
        Specifier::EnvironmentVariable(name) => {
            let held = !name.is_empty() && !name.contains(['=', '\0']);
            held.then(|| std::env::var(&name).ok())
                .flatten()
                .map(String::into_bytes)
                .ok_or_else(|| {
                    let reason = format!("{name:?} is not set");
                    Invalid::at("environment_variable", reason)
                })
        }
    }
}
