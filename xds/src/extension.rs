//! Extensions: pieces of configuration whose meaning belongs to the program, not to this crate.

use std::path::Path;

use bytes::Bytes;

use crate::proto::Any;
use crate::proto::tls::SdsSecretConfig;
use crate::reject::Invalid;
use crate::resource::config_source::Place;
use crate::resource::parts::unknown_type;
use crate::resource::tls::TlsCertificate;
use crate::type_url::message_name;

/// A named extension with its configuration still packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedExtension {
    /// Name in the configuration; only a label, the type decides.
    pub name: String,
    pub type_url: String,
    pub value: Bytes,
}

impl TypedExtension {
    pub fn new(name: impl Into<String>, any: &Any) -> Self {
        Self {
            name: name.into(),
            type_url: any.type_url.clone(),
            value: Bytes::copy_from_slice(&any.value),
        }
    }

    /// As [`TypedExtension::new`], without copying the configuration.
    pub fn from_any(name: impl Into<String>, any: Any) -> Self {
        Self {
            name: name.into(),
            type_url: any.type_url,
            value: any.value.into(),
        }
    }

    /// The message name, without the prefix of the type URL.
    pub fn message_name(&self) -> &str {
        message_name(&self.type_url)
    }
}

/// Checks extension configuration when a resource is decoded, so that a wrong one is a rejection
/// with a path and never a surprise at request time.
///
/// The path of a fault starts inside the configuration message: the caller puts in front of it
/// where that message stands, its `typed_config` included.
pub trait Extensions: Send + Sync {
    /// Whether a resource that sets a field of [`crate::resource::IGNORED`] is refused.
    fn is_strict(&self) -> bool {
        false
    }

    /// A file that a resource names. Envoy takes no resource that names one which is not there.
    fn check_file(&self, path: &Path) -> Result<(), Invalid> {
        let _ = path;
        Ok(())
    }

    /// A place that a resource names for others to come from: whether anything can come from there.
    fn check_place(&self, place: &Place) -> Result<(), Invalid> {
        let _ = place;
        Ok(())
    }

    /// A certificate and its key that are given in place. Whether they parse was looked at before.
    fn check_certificate(&self, certificate: &TlsCertificate) -> Result<(), Invalid> {
        let _ = certificate;
        Ok(())
    }

    /// Whether there is an HTTP filter that is configured by this message. A filter that is not
    /// known is left out when its configuration says `is_optional`, and refused otherwise.
    fn knows_http_filter(&self, message_name: &str) -> bool {
        let _ = message_name;
        true
    }

    /// The secrets that the configuration of an HTTP filter names, or what a route says to one.
    fn filter_secrets(&self, config: &TypedExtension) -> Vec<SdsSecretConfig> {
        let _ = config;
        Vec::new()
    }

    /// An HTTP filter of a connection manager.
    fn check_http_filter(&self, filter: &TypedExtension) -> Result<(), Invalid>;

    /// A network filter that stands before the last one of its chain.
    fn check_network_filter(&self, filter: &TypedExtension) -> Result<(), Invalid> {
        Err(unknown_type(&filter.type_url))
    }

    /// Per-route configuration of the filter that the key names.
    fn check_per_route(&self, key: &str, config: &TypedExtension) -> Result<(), Invalid>;

    /// Whether what a route says to a filter is made of nothing but its message, in no time: no file
    /// is read for it, nothing is counted. It need not be made before a request wants it.
    fn is_light_per_route(&self, config: &TypedExtension) -> bool {
        let _ = config;
        false
    }
}

/// Takes every extension as it comes: for tools that only look at configuration, and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchecked;

impl Extensions for Unchecked {
    fn check_http_filter(&self, _: &TypedExtension) -> Result<(), Invalid> {
        Ok(())
    }

    fn check_network_filter(&self, _: &TypedExtension) -> Result<(), Invalid> {
        Ok(())
    }

    fn check_per_route(&self, _: &str, _: &TypedExtension) -> Result<(), Invalid> {
        Ok(())
    }
}
