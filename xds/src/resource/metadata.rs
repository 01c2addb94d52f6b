//! Metadata: structured values that a resource carries for whoever asks for them.

use crate::proto::Struct;
use crate::proto::google::protobuf::{ListValue, Value, value};

/// `google.protobuf.Value`.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    /// Sorted by key.
    Object(Vec<(String, Self)>),
}

impl MetadataValue {
    pub(crate) fn object(message: Struct) -> Self {
        let fields = message.fields.into_iter();
        let mut fields: Vec<_> = fields.map(|(key, v)| (key, Self::of(v))).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Object(fields)
    }

    fn of(message: Value) -> Self {
        match message.kind {
            None | Some(value::Kind::NullValue(_)) => Self::Null,
            Some(value::Kind::BoolValue(value)) => Self::Bool(value),
            Some(value::Kind::NumberValue(value)) => Self::Number(value),
            Some(value::Kind::StringValue(text)) => Self::Text(text),
            Some(value::Kind::StructValue(value)) => Self::object(value),
            Some(value::Kind::ListValue(ListValue { values })) => {
                Self::List(values.into_iter().map(Self::of).collect())
            }
        }
    }

    /// The value at the end of a path of keys.
    pub fn get(&self, path: &[String]) -> Option<&Self> {
        let Some((key, rest)) = path.split_first() else {
            return Some(self);
        };
        match self {
            Self::Object(fields) => {
                let (_, value) = fields.iter().find(|(name, _)| name == key)?;
                value.get(rest)
            }
            _ => None,
        }
    }
}
