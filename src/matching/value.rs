//! Conditions on values of metadata.

use causeway_xds::resource::matcher::value as model;
use causeway_xds::resource::metadata::MetadataValue;

use super::text::Test;

/// A condition on one value of one namespace.
#[derive(Debug)]
pub struct MetadataCondition {
    pub namespace: String,
    path: Vec<String>,
    value: ValueCondition,
    invert: bool,
}

#[derive(Debug)]
pub enum ValueCondition {
    Null,
    /// From the start on, before the end.
    Range(f64, f64),
    Number(f64),
    Text(Test),
    Bool(bool),
    Present(bool),
    /// One element of a list.
    Element(Box<Self>),
    Any(Vec<Self>),
}

impl MetadataCondition {
    pub fn compile(model: &model::MetadataMatcher) -> Self {
        Self {
            namespace: model.namespace.clone(),
            path: model.path.clone(),
            value: ValueCondition::compile(&model.value),
            invert: model.invert,
        }
    }

    /// `of` is what the namespace has.
    pub fn holds(&self, of: Option<&MetadataValue>) -> bool {
        let value = of.and_then(|value| value.get(&self.path));
        self.value.holds(value) != self.invert
    }
}

impl ValueCondition {
    pub fn compile(model: &model::ValueMatcher) -> Self {
        use model::ValueMatcher as M;
        match model {
            M::Null => Self::Null,
            M::Range(start, end) => Self::Range(*start, *end),
            M::Number(number) => Self::Number(*number),
            M::Text(matcher) => Self::Text(Test::string(matcher)),
            M::Bool(wanted) => Self::Bool(*wanted),
            M::Present(wanted) => Self::Present(*wanted),
            M::Element(of) => Self::Element(Box::new(Self::compile(of))),
            M::Any(any) => Self::Any(any.iter().map(Self::compile).collect()),
        }
    }

    pub fn holds(&self, value: Option<&MetadataValue>) -> bool {
        match (self, value) {
            (Self::Any(any), value) => any.iter().any(|one| one.holds(value)),
            (_, None) => false,
            (Self::Present(wanted), Some(_)) => *wanted,
            (Self::Null, Some(MetadataValue::Null)) => true,
            (Self::Range(start, end), Some(MetadataValue::Number(n))) => (*start..*end).contains(n),
            #[expect(clippy::float_cmp, reason = "the exact value is asked for")]
            (Self::Number(wanted), Some(MetadataValue::Number(n))) => wanted == n,
            (Self::Text(test), Some(MetadataValue::Text(text))) => test.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(MetadataValue::Bool(value))) => wanted == value,
            (Self::Element(of), Some(MetadataValue::List(list))) => {
                list.iter().any(|element| of.holds(Some(element)))
            }
            _ => false,
        }
    }
}
