//! Texts that a configuration leaves in the filter state, made of what is known of a stream or a
//! connection.

use causeway_xds::proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::format::FormatString;
use causeway_xds::resource::parts::{self, At, enumeration, not_empty, required};

use super::state::StreamState;
use crate::formatter::{Facts, Template, Wants};

/// Plain texts, which differ in how they are hashed.
const TEXTS: [&str; 2] = ["envoy.string", "envoy.hashable_string"];

/// See the module.
#[derive(Debug)]
pub struct StateValue {
    key: String,
    template: Template,
    skip_if_empty: bool,
}

impl StateValue {
    #[expect(deprecated, reason = "every field is looked at, the old ones too")]
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn decode(message: common::FilterStateValue) -> Result<Self, Invalid> {
        use common::filter_state_value::{Key, SharedWithUpstream, Value as V};
        let common::FilterStateValue {
            factory_key,
            // Nothing changes a value once it is set, but this filter itself.
            read_only: _,
            shared_with_upstream,
            skip_if_empty,
            key,
            value,
        } = message;
        let Key::ObjectKey(key) = required(key, "key")?;
        let key = not_empty(key, "object_key")?;
        // Who looks at a text is in this program, whatever it is shared with.
        let _: SharedWithUpstream = enumeration(shared_with_upstream, "shared_with_upstream")?;
        let factory = if factory_key.is_empty() {
            &key
        } else {
            &factory_key
        };
        if !TEXTS.contains(&factory.as_str()) {
            let reason = format!("objects of the kind {factory:?} are not supported");
            return Err(Invalid::at("factory_key", reason));
        }
        let V::FormatString(format) = required(value, "value")?;
        let FormatString::Text {
            format, omit_empty, ..
        } = parts::format_string(format).at("format_string")?
        else {
            return Err(Invalid::at("format_string", "must be a text"));
        };
        Ok(Self {
            key,
            template: Template::compile(&format, if omit_empty { "" } else { "-" }),
            skip_if_empty,
        })
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        self.template.note(wants);
    }

    /// Makes the text and leaves it.
    pub fn set(&self, facts: &dyn Facts, state: &StreamState) {
        let made = self.template.render(facts);
        if !made.is_empty() || !self.skip_if_empty {
            state.set_value(&self.key, &String::from_utf8_lossy(&made));
        }
    }
}
