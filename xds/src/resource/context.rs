//! What the decoders share: the way they report a fault, and the small checks every message needs.
//!
//! A decoder takes its message apart without `..` and gives each field one of three fates: it is
//! read, it is named in [`refuse!`] (an error when it is set), or it is named in [`accept!`] (taken
//! without effect, and listed in [`super::ignored::IGNORED`]). Faults carry a path relative to the
//! message; the caller puts it into its place with [`At`], so the good case formats no path at all.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::extension::{Extensions, TypedExtension};
use crate::proto::{self, Any};
use crate::reject::{FieldPath, Invalid};
use crate::resource::tls::SecretRef;

/// What decoding needs besides the message.
pub(crate) struct Context<'a> {
    pub extensions: &'a dyn Extensions,
    /// The accepted-and-ignored fields that were really set.
    ignored: RefCell<BTreeSet<&'static str>>,
    /// What the filters of the resource, and what it says to filters, need.
    secrets: RefCell<Vec<SecretRef>>,
}

impl<'a> Context<'a> {
    pub fn new(extensions: &'a dyn Extensions) -> Self {
        Self {
            extensions,
            ignored: RefCell::default(),
            secrets: RefCell::default(),
        }
    }

    /// Remembers the secrets that the configuration of a filter names.
    pub fn note_secrets(&self, config: &TypedExtension) -> Result<(), Invalid> {
        for secret in self.extensions.filter_secrets(config) {
            let secret = SecretRef::decode(secret, self)?;
            let mut secrets = self.secrets.borrow_mut();
            if !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
        Ok(())
    }

    pub fn take_secrets(&self) -> Vec<SecretRef> {
        self.secrets.take()
    }

    /// Remembers that a field without effect was set.
    pub fn note(&self, field: &'static str) {
        self.ignored.borrow_mut().insert(field);
    }

    pub fn into_ignored(self) -> Vec<&'static str> {
        self.ignored.into_inner().into_iter().collect()
    }
}

/// Errors when one of the named fields is set to anything but its default.
#[macro_export]
macro_rules! refuse {
    ($($field:ident),+ $(,)?) => {$(
        if !$crate::resource::parts::is_default(&$field) {
            return Err($crate::reject::Invalid::unsupported(
                $crate::reject::FieldPath::root().field(stringify!($field)),
            ));
        }
    )+};
}

/// As [`refuse!`], for `BoolValue` fields whose `false` is the same as absent.
macro_rules! refuse_true {
    ($($field:ident),+ $(,)?) => {$(
        if $field.is_some_and(|flag| flag.value) {
            return Err($crate::reject::Invalid::unsupported(
                $crate::reject::FieldPath::root().field(stringify!($field)),
            ));
        }
    )+};
}

/// Takes the named fields without effect. Each must be in the public table, which the compiler
/// checks here.
macro_rules! accept {
    ($ctx:expr, $message:literal: $($field:ident),+ $(,)?) => {$(
        const _: () = assert!(
            $crate::resource::ignored::is_listed(concat!($message, ".", stringify!($field))),
            concat!($message, ".", stringify!($field), " is missing in IGNORED"),
        );
        if !$crate::resource::context::is_default(&$field) {
            $ctx.note(concat!($message, ".", stringify!($field)));
        }
    )+};
}

pub(crate) use {accept, refuse, refuse_true};

pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    value == &T::default()
}

/// A fault of the message itself.
pub fn fault(reason: impl Into<std::borrow::Cow<'static, str>>) -> Invalid {
    Invalid::new(FieldPath::root(), reason)
}

/// Puts a fault into its place in the enclosing message.
pub trait At<T> {
    fn at(self, field: &str) -> Result<T, Invalid>;
    fn at_index(self, field: &str, index: usize) -> Result<T, Invalid>;
    fn at_key(self, field: &str, key: &str) -> Result<T, Invalid>;
}

impl<T> At<T> for Result<T, Invalid> {
    fn at(self, field: &str) -> Self {
        self.map_err(|e| e.within(&FieldPath::root().field(field)))
    }

    fn at_index(self, field: &str, index: usize) -> Self {
        self.map_err(|e| e.within(&FieldPath::root().field(field).index(index)))
    }

    fn at_key(self, field: &str, key: &str) -> Self {
        self.map_err(|e| e.within(&FieldPath::root().field(&format!("{field}[\"{key}\"]"))))
    }
}

/// Decodes a list; a fault names the element.
pub fn each<M, T>(
    field: &str,
    messages: Vec<M>,
    mut decode: impl FnMut(M) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    // Exactly as many: what is decoded stays for as long as it is in force, and there is much of it.
    let mut decoded = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        decoded.push(decode(message).at_index(field, index)?);
    }
    Ok(decoded)
}

pub fn required<T>(value: Option<T>, field: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::at(field, "must be given"))
}

pub fn not_empty(text: String, field: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Invalid::at(field, "must not be empty"));
    }
    Ok(text)
}

/// A value of a closed enumeration; protobuf lets any number through.
pub fn enumeration<E: TryFrom<i32>>(value: i32, field: &str) -> Result<E, Invalid> {
    E::try_from(value).map_err(|_| Invalid::at(field, format!("{value} is not a known value")))
}

pub fn flag(value: Option<proto::BoolValue>, default: bool) -> bool {
    value.map_or(default, |v| v.value)
}

/// A number within bounds, or nothing if it is not given.
pub fn number(
    value: Option<proto::UInt32Value>,
    field: &str,
    bounds: std::ops::RangeInclusive<u32>,
) -> Result<Option<u32>, Invalid> {
    match value {
        Some(v) if !bounds.contains(&v.value) => Err(Invalid::at(
            field,
            format!(
                "{} is not within {} and {}",
                v.value,
                bounds.start(),
                bounds.end()
            ),
        )),
        other => Ok(other.map(|v| v.value)),
    }
}

/// `envoy.type.v3.Percent`, or nothing if it is not given.
pub fn percent(
    value: Option<proto::envoy::r#type::v3::Percent>,
    field: &str,
) -> Result<Option<f64>, Invalid> {
    match value.map(|p| p.value) {
        Some(v) if !(0.0..=100.0).contains(&v) => {
            Err(Invalid::at(field, format!("{v} is not within 0 and 100")))
        }
        other => Ok(other),
    }
}

/// A duration that is not negative, or nothing if it is not given.
///
/// # Errors
/// It is negative or beyond what a duration may be.
pub fn duration(value: Option<proto::Duration>, field: &str) -> Result<Option<Duration>, Invalid> {
    value.map(|d| checked_duration(&d)).transpose().at(field)
}

/// The bounds that `google.protobuf.Duration` states: about 10 000 years, and nanoseconds that are
/// less than a second and of the same sign.
fn checked_duration(value: &proto::Duration) -> Result<Duration, Invalid> {
    const MAX_SECONDS: u64 = 315_576_000_000;
    if value.seconds < 0 || value.nanos < 0 {
        return Err(fault("must not be negative"));
    }
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds @ ..=MAX_SECONDS), Ok(nanos @ ..1_000_000_000)) => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(fault("is not a valid duration")),
    }
}

/// Opens an `Any` whose type was already looked at.
pub fn unpack<M: proto::Message + Default>(any: &Any) -> Result<M, Invalid> {
    M::decode(any.value.as_slice()).map_err(|e| fault(format!("bytes do not parse: {e}")))
}

/// The refusal of an extension whose type nobody knows.
pub fn unknown_type(type_url: &str) -> Invalid {
    fault(format!("extension type {type_url:?} is not supported"))
}

/// A map of typed configuration by filter name, sorted so that equal maps are equal lists.
pub(crate) fn filter_config(
    map: std::collections::HashMap<String, Any>,
    ctx: &Context<'_>,
) -> Result<Vec<(String, TypedExtension)>, Invalid> {
    const FIELD: &str = "typed_per_filter_config";
    let mut sorted: Vec<_> = map.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut decoded = Vec::with_capacity(sorted.len());
    for (key, any) in sorted {
        let config = TypedExtension::from_any(key.as_str(), any);
        ctx.extensions
            .check_per_route(&key, &config)
            .and_then(|()| ctx.note_secrets(&config))
            .at_key(FIELD, &key)?;
        decoded.push((key, config));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_stays_within_its_bounds() {
        let of = |seconds, nanos| duration(Some(proto::Duration { seconds, nanos }), "timeout");
        assert_eq!(of(1, 500_000_000), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(of(0, 0), Ok(Some(Duration::ZERO)));
        for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, i32::MIN)] {
            let error = of(seconds, nanos).unwrap_err();
            assert_eq!(error.to_string(), "timeout: must not be negative");
        }
        for (seconds, nanos) in [(0, 1_000_000_000), (i64::MAX, 0), (315_576_000_001, 0)] {
            let error = of(seconds, nanos).unwrap_err();
            assert_eq!(error.to_string(), "timeout: is not a valid duration");
        }
        assert_eq!(duration(None, "timeout"), Ok(None));
    }
}
