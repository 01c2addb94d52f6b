//! Extensions of PROXY protocol headers (version 2): message to typed.

use super::context::{At, Context, each, enumeration, refuse};
use super::format::{Format, FormatString};
use crate::proto::core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
use crate::proto::core::{ProxyProtocolPassThroughTlVs, TlvEntry};
use crate::reject::Invalid;

/// An extension as it is sent: type and value (section 2.2 of the PROXY protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    pub kind: u8,
    pub value: Vec<u8>,
}

impl Tlv {
    /// What the length field can say.
    pub const MAX: usize = 65_535;
}

/// An extension to be sent.
#[derive(Clone, Debug, PartialEq)]
pub enum TlvSource {
    Static(Tlv),
    /// Made of what is known of the connection.
    Format {
        kind: u8,
        format: Format,
        /// A value that is not there leaves nothing; otherwise `-`.
        omit_empty: bool,
    },
}

/// Which extensions are passed on (`ProxyProtocolPassThroughTLVs`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PassTlvs {
    #[default]
    None,
    All,
    /// Those of these types.
    Only(Vec<u8>),
}

impl PassTlvs {
    pub fn includes(&self, kind: u8) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(kinds) => kinds.contains(&kind),
        }
    }

    pub(crate) fn decode(message: Option<ProxyProtocolPassThroughTlVs>) -> Result<Self, Invalid> {
        let Some(ProxyProtocolPassThroughTlVs {
            match_type,
            tlv_type,
        }) = message
        else {
            return Ok(Self::None);
        };
        let kinds = each("tlv_type", tlv_type, |kind| self::kind(kind, ""))?;
        Ok(match enumeration(match_type, "match_type")? {
            PassTlVsMatchType::IncludeAll => Self::All,
            PassTlVsMatchType::Include => Self::Only(kinds),
        })
    }
}

/// A type is one byte.
pub(crate) fn kind(value: u32, field: &str) -> Result<u8, Invalid> {
    u8::try_from(value).map_err(|_| Invalid::at(field, "must be 255 or less"))
}

impl Tlv {
    /// Where nothing is known that a format could be filled from.
    pub(crate) fn decode(message: TlvEntry) -> Result<Self, Invalid> {
        let TlvEntry {
            r#type,
            value,
            format_string,
        } = message;
        refuse!(format_string);
        Self::new(r#type, value)
    }

    fn new(kind: u32, value: Vec<u8>) -> Result<Self, Invalid> {
        let kind = self::kind(kind, "type")?;
        match value.len() {
            0 => Err(Invalid::at("value", "must not be empty")),
            1..=Self::MAX => Ok(Self { kind, value }),
            _ => Err(Invalid::at("value", "must be 65535 bytes or less")),
        }
    }
}

impl TlvSource {
    pub(crate) fn decode(message: TlvEntry, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let TlvEntry {
            r#type,
            value,
            format_string,
        } = message;
        let Some(format) = format_string else {
            return Tlv::new(r#type, value).map(Self::Static);
        };
        if !value.is_empty() {
            return Err(Invalid::at("format_string", "is given beside value"));
        }
        match FormatString::decode(format, ctx).at("format_string")? {
            FormatString::Text {
                format, omit_empty, ..
            } => Ok(Self::Format {
                kind: kind(r#type, "type")?,
                format,
                omit_empty,
            }),
            FormatString::Json { .. } => Err(Invalid::at("format_string", "must be a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_is_all_or_what_is_listed() {
        let message = |kind: PassTlVsMatchType, tlv_type: &[u32]| {
            Some(ProxyProtocolPassThroughTlVs {
                match_type: kind.into(),
                tlv_type: tlv_type.to_vec(),
            })
        };
        assert_eq!(PassTlvs::decode(None), Ok(PassTlvs::None));
        let all = PassTlvs::decode(message(PassTlVsMatchType::IncludeAll, &[1])).unwrap();
        assert!(all.includes(1) && all.includes(2));
        let some = PassTlvs::decode(message(PassTlVsMatchType::Include, &[1, 255])).unwrap();
        assert!(some.includes(255) && !some.includes(2));
        let wrong = PassTlvs::decode(message(PassTlVsMatchType::Include, &[256]));
        let expected = "tlv_type[0]: must be 255 or less";
        assert_eq!(wrong.unwrap_err().to_string(), expected);
    }

    #[test]
    fn an_extension_has_a_value_or_a_format() {
        let entry = |r#type, value: &[u8]| TlvEntry {
            r#type,
            value: value.to_vec(),
            format_string: None,
        };
        let tlv = Tlv::decode(entry(0xea, b"x")).unwrap();
        assert_eq!((tlv.kind, &*tlv.value), (0xea, &b"x"[..]));
        let ctx = Context::new(&crate::extension::Unchecked);
        for (message, expected) in [
            (entry(256, b"x"), "type: must be 255 or less"),
            (entry(1, b""), "value: must not be empty"),
            (entry(1, &[0; 65_536]), "value: must be 65535 bytes or less"),
        ] {
            let error = Tlv::decode(message.clone()).unwrap_err().to_string();
            assert_eq!(error, expected);
            assert_eq!(
                TlvSource::decode(message, &ctx).unwrap_err().to_string(),
                expected
            );
        }
    }
}
