//! What a template is filled from.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use causeway_xds::resource::format::{Fact, Holder, Point};
use causeway_xds::resource::metadata::MetadataValue;
use http::header::{HeaderName, HeaderValue};

use super::json;

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
    /// One that was kept.
    Kept(HeaderValue),
    Number(u64),
    Address(SocketAddr),
    Ip(IpAddr),
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

    pub fn address(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Missing, Self::Address)
    }

    /// The address without its port.
    pub fn ip(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Missing, |a| Self::Ip(a.ip().to_canonical()))
    }

    /// The port alone.
    pub fn port(address: Option<SocketAddr>) -> Self {
        Self::number(address.map(|a| a.port()))
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

    /// Of a header.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Kept(value) => Some(value.as_bytes()),
            _ => None,
        }
    }

    /// Puts it behind what is there, as text; nothing for what is missing.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Missing => {}
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Kept(value) => out.extend_from_slice(value.as_bytes()),
            Self::Number(number) => decimal(*number, out),
            Self::Address(address) => write_address(*address, out),
            Self::Ip(ip) => write_ip(*ip, out),
            Self::Metadata(value) => json::write_metadata_text(value, out),
        }
    }
}

/// Digits, without going through the formatting machinery: addresses and numbers are in nearly
/// every line of a log.
pub(super) fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            write_ip((*address.ip()).into(), out);
            out.push(b':');
            decimal(address.port().into(), out);
        }
        SocketAddr::V6(address) => {
            // Writing to memory cannot fail.
            std::io::Write::write_fmt(out, format_args!("{address}")).ok();
        }
    }
}

fn write_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            for (i, octet) in ip.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                decimal(octet.into(), out);
            }
        }
        IpAddr::V6(ip) => {
            std::io::Write::write_fmt(out, format_args!("{ip}")).ok();
        }
    }
}

/// What is known of a request, at the moment in which it is asked.
pub trait Facts {
    /// The first value of a request header; missing where there is no request.
    fn request(&self, key: &Key) -> Value<'_> {
        let _ = key;
        Value::Missing
    }

    /// The first value of a response header; missing where there is no response, or none yet.
    fn response(&self, key: &Key) -> Value<'_> {
        let _ = key;
        Value::Missing
    }

    /// The first value of a response trailer; missing as that of a header.
    fn trailer(&self, name: &HeaderName) -> Value<'_> {
        let _ = name;
        Value::Missing
    }

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

    /// As [`Self::filter_state`], where it is no text.
    fn filter_state_object(&self, key: &str) -> Option<Rc<MetadataValue>> {
        let _ = key;
        None
    }
}
