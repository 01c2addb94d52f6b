//! Shares of requests, as configuration or the runtime says.

use causeway_xds::resource::fraction::{Fraction, RuntimeFraction};

use crate::runtime::layers::{Key, Layers};

#[derive(Debug)]
pub struct Share {
    default: Fraction,
    key: Option<Key>,
}

impl Share {
    pub fn compile(model: &RuntimeFraction, layers: &Layers) -> Self {
        let named = !model.runtime_key.is_empty();
        Self {
            default: model.default,
            key: named.then(|| layers.key(&model.runtime_key)),
        }
    }

    /// Whether a request with this random number is part of it.
    pub fn takes(&self, random: u64) -> bool {
        let told = self.key.as_ref().and_then(Key::fraction);
        told.unwrap_or(self.default).takes(random)
    }
}
