//! Metadata: structured values that a resource carries for whoever asks for them.

use std::collections::HashMap;

use crate::proto::Struct;
use crate::proto::core::Metadata;
use crate::proto::google::protobuf::{ListValue, Value, value};
use crate::resource::sorted::Sorted;

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

/// Values by key that are only compared: those that Envoy takes for equal are equal.
pub type Labels = Sorted<Label>;

/// What a resource carries, by namespace (`filter_metadata`).
pub type Namespaces = Sorted<Labels>;

/// Of a message; what is empty is left out.
pub(crate) fn namespaces(message: HashMap<String, Struct>) -> Namespaces {
    let all = message.into_iter();
    let all = all.filter(|(_, values)| !values.fields.is_empty());
    all.map(|(name, values)| (name, Label::all(Some(values))))
        .collect()
}

/// The message that holds these.
pub fn to_metadata(namespaces: &Namespaces) -> Option<Metadata> {
    let all = namespaces.iter();
    let all = all.map(|(name, labels)| (name.clone(), Label::to_struct(labels)));
    (!namespaces.is_empty()).then(|| Metadata {
        filter_metadata: all.collect(),
        ..Metadata::default()
    })
}

/// The value at the end of a path of keys in a namespace.
pub fn find(namespaces: &Namespaces, namespace: &str, path: &[String]) -> Option<MetadataValue> {
    let labels = namespaces.get(namespace)?;
    let Some((key, rest)) = path.split_first() else {
        return Some(MetadataValue::object(Label::to_struct(labels)));
    };
    let found = labels.get(key)?.get(rest)?;
    Some(MetadataValue::of(found.to_value()))
}

/// As [`MetadataValue`], with an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    Null,
    Bool(bool),
    /// The bits of the number.
    Number(u64),
    Text(String),
    List(Vec<Self>),
    Object(Labels),
}

impl Label {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn get(&self, path: &[String]) -> Option<&Self> {
        let Some((key, rest)) = path.split_first() else {
            return Some(self);
        };
        match self {
            Self::Object(labels) => labels.get(key)?.get(rest),
            _ => None,
        }
    }

    /// Values by key; none without a message.
    pub(crate) fn all(message: Option<Struct>) -> Labels {
        let fields = message.unwrap_or_default().fields.into_iter();
        fields.map(|(key, v)| (key, Self::of(v))).collect()
    }

    fn of(message: Value) -> Self {
        match message.kind {
            None | Some(value::Kind::NullValue(_)) => Self::Null,
            Some(value::Kind::BoolValue(value)) => Self::Bool(value),
            // There is one zero.
            Some(value::Kind::NumberValue(value)) => Self::Number((value + 0.0).to_bits()),
            Some(value::Kind::StringValue(text)) => Self::Text(text),
            Some(value::Kind::StructValue(value)) => Self::Object(Self::all(Some(value))),
            Some(value::Kind::ListValue(ListValue { values })) => {
                Self::List(values.into_iter().map(Self::of).collect())
            }
        }
    }

    /// The message that holds these.
    pub fn to_struct(labels: &Labels) -> Struct {
        let fields = labels.iter();
        let fields = fields.map(|(key, label)| (key.clone(), label.to_value()));
        Struct {
            fields: fields.collect(),
        }
    }

    fn to_value(&self) -> Value {
        let kind = match self {
            Self::Null => value::Kind::NullValue(0),
            Self::Bool(value) => value::Kind::BoolValue(*value),
            Self::Number(bits) => value::Kind::NumberValue(f64::from_bits(*bits)),
            Self::Text(text) => value::Kind::StringValue(text.clone()),
            Self::List(values) => value::Kind::ListValue(ListValue {
                values: values.iter().map(Self::to_value).collect(),
            }),
            Self::Object(labels) => value::Kind::StructValue(Self::to_struct(labels)),
        };
        Value { kind: Some(kind) }
    }

    /// Whether all that is wanted is among what there is.
    pub fn has_all(there: &Labels, wanted: &Labels) -> bool {
        wanted
            .iter()
            .all(|(key, label)| there.get(key) == Some(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_equal_where_values_are_and_survive_the_way_back() {
        let value = |kind| Value { kind: Some(kind) };
        let list = ListValue {
            values: vec![value(value::Kind::NumberValue(-0.0)), Value::default()],
        };
        let inner = Struct {
            fields: [("b".to_owned(), value(value::Kind::BoolValue(true)))].into(),
        };
        let message = Struct {
            fields: [
                ("l".to_owned(), value(value::Kind::ListValue(list))),
                ("o".to_owned(), value(value::Kind::StructValue(inner))),
                ("t".to_owned(), value(value::Kind::StringValue("x".into()))),
            ]
            .into(),
        };
        let labels = Label::all(Some(message));
        let zero = Label::Number(0.0_f64.to_bits());
        assert_eq!(labels["l"], Label::List(vec![zero, Label::Null]));
        assert_eq!(Label::all(Some(Label::to_struct(&labels))), labels);
        let wanted = Labels::from([("t".to_owned(), Label::text("x"))]);
        assert!(Label::has_all(&labels, &wanted));
        assert!(Label::has_all(&labels, &Labels::new()));
        assert!(!Label::has_all(&wanted, &labels));
    }
}
