//! Switches that the runtime may turn.

use causeway_xds::proto::core::RuntimeFeatureFlag;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::feature_flag;

use crate::runtime::layers::{Key, Layers};

/// `envoy.config.core.v3.RuntimeFeatureFlag`.
#[derive(Debug)]
pub struct Flag {
    default: bool,
    key: Option<Key>,
}

impl Flag {
    pub const fn fixed(value: bool) -> Self {
        Self {
            default: value,
            key: None,
        }
    }

    /// # Errors
    /// What is wrong with the message.
    pub fn decode(message: RuntimeFeatureFlag, layers: &Layers) -> Result<Self, Invalid> {
        let (default, key) = feature_flag(message)?;
        Ok(Self {
            default,
            key: Some(layers.key(&key)),
        })
    }

    pub fn is_on(&self) -> bool {
        let told = self.key.as_ref().and_then(Key::switch);
        told.unwrap_or(self.default)
    }
}
