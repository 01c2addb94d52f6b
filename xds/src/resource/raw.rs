//! A resource as it was delivered, in the room that its bytes take.

use std::sync::Arc;

use crate::proto::Any;
use crate::type_url::ResourceType;

/// A packed message of a known kind. Copies share the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    value: Arc<[u8]>,
    kind: ResourceType,
    /// Where it is not the usual one of the kind.
    type_url: Option<Box<str>>,
}

impl Raw {
    pub fn new(kind: ResourceType, any: Any) -> Self {
        let usual = is_usual(kind, &any.type_url);
        Self {
            value: any.value.into(),
            kind,
            type_url: (!usual).then(|| any.type_url.into()),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.value
    }

    /// The message as it came.
    pub fn any(&self) -> Any {
        let usual = || self.kind.type_url();
        Any {
            type_url: self.type_url.as_deref().map_or_else(usual, str::to_owned),
            value: self.value.to_vec(),
        }
    }

    /// Whether it is this message.
    pub fn is(&self, any: &Any) -> bool {
        let same_type = match &self.type_url {
            Some(own) => **own == any.type_url,
            None => is_usual(self.kind, &any.type_url),
        };
        same_type && *self.value == *any.value
    }
}

fn is_usual(kind: ResourceType, type_url: &str) -> bool {
    let name = type_url.strip_prefix(crate::type_url::PREFIX);
    name == Some(kind.message_name())
}
