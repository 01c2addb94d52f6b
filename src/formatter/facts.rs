//! What a template is filled from.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use causeway_xds::resource::format::{Fact, Holder, Point};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HeaderName, HeaderValue};

/// A header or a pseudo header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Method,
    Path,
    Authority,
    Scheme,
    Status,
    Field(HeaderName),
}

impl Key {
    /// `None` for what no message can have.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":status" => Self::Status,
            name => Self::Field(name.parse().ok()?),
        })
    }
}

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'f> {
    Missing,
    Text(Cow<'f, str>),
    /// A header, which may be any bytes.
    Bytes(Cow<'f, [u8]>),
    Number(u64),
    Metadata(Cow<'f, MetadataValue>),
}

impl Value<'static> {
    pub fn word(word: &'static str) -> Self {
        Self::Text(Cow::Borrowed(word))
    }

    /// As text, or missing.
    pub fn shown(value: Option<impl Display>) -> Self {
        let Some(value) = value else {
            return Self::Missing;
        };
        // Room for any address, which is written in pieces.
        let mut text = String::with_capacity(48);
        // Writing to a text cannot fail.
        write!(text, "{value}").ok();
        Self::Text(Cow::Owned(text))
    }

    pub fn number(value: Option<impl Into<u64>>) -> Self {
        value.map_or(Self::Missing, |v| Self::Number(v.into()))
    }

    /// Whole milliseconds.
    pub fn milliseconds(value: Option<Duration>) -> Self {
        Self::number(value.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl<'f> Value<'f> {
    pub fn text(text: Option<&'f str>) -> Self {
        text.map_or(Self::Missing, |text| Self::Text(Cow::Borrowed(text)))
    }

    pub fn header(value: Option<&'f HeaderValue>) -> Self {
        value.map_or(Self::Missing, |v| Self::Bytes(v.as_bytes().into()))
    }
}

/// What is known of a request, at the moment in which it is asked.
pub trait Facts {
    /// The first value of a request header.
    fn request(&self, key: &Key) -> Value<'_>;

    /// The first value of a response header.
    fn response(&self, key: &Key) -> Value<'_>;

    /// The first value of a response trailer.
    fn trailer(&self, name: &HeaderName) -> Value<'_>;

    fn fact(&self, fact: Fact) -> Value<'_>;

    /// When it began.
    fn start(&self) -> SystemTime;

    /// When it came to a point, counted from its beginning.
    fn point(&self, point: Point) -> Option<Duration>;

    /// What is at the end of a path of keys in a namespace.
    fn metadata(&self, of: Holder, namespace: &str, path: &[String]) -> Option<MetadataValue> {
        let _ = (of, namespace, path);
        None
    }

    /// What filters have set in a namespace.
    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let _ = namespace;
        None
    }

    /// What filters have set under a key.
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        let _ = key;
        None
    }
}
