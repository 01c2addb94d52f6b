//! A resource as it was delivered, in the room that its bytes take, or less.

mod difference;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::proto::Any;
use crate::type_url::ResourceType;
use difference::Model;

/// How many messages of a kind the next one is compared with.
const RECENT: usize = 4;

/// A packed message of a known kind. Copies share the bytes.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The bytes, or those of another message that these are much like.
    whole: Arc<Box<[u8]>>,
    /// What is different then.
    difference: Option<Arc<[u8]>>,
    kind: ResourceType,
    /// Where it is not the usual one of the kind.
    type_url: Option<Arc<String>>,
}

/// Messages of a kind that came of late, for the next ones to be kept as what is different in them.
#[derive(Debug, Default)]
pub(crate) struct Models(VecDeque<Model>);

impl Raw {
    pub fn new(kind: ResourceType, any: Any) -> Self {
        let whole = Arc::new(any.value.into_boxed_slice());
        Self::of(kind, any.type_url, whole, None)
    }

    fn of(
        kind: ResourceType,
        type_url: String,
        whole: Arc<Box<[u8]>>,
        difference: Option<Arc<[u8]>>,
    ) -> Self {
        let usual = is_usual(kind, &type_url);
        Self {
            whole,
            difference,
            kind,
            type_url: (!usual).then(|| Arc::new(type_url)),
        }
    }

    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.difference {
            None => Cow::Borrowed(&self.whole),
            Some(difference) => Cow::Owned(difference::apply(&self.whole, difference)),
        }
    }

    /// The message as it came.
    pub fn any(&self) -> Any {
        let usual = || self.kind.type_url();
        let given = |type_url: &Arc<String>| type_url.to_string();
        Any {
            type_url: self.type_url.as_ref().map_or_else(usual, given),
            value: self.bytes().into_owned(),
        }
    }

    /// Whether it is this message.
    pub fn is(&self, any: &Any) -> bool {
        let same_type = match &self.type_url {
            Some(own) => **own == any.type_url,
            None => is_usual(self.kind, &any.type_url),
        };
        same_type
            && match &self.difference {
                None => **self.whole == *any.value,
                Some(difference) => difference::is(&self.whole, difference, &any.value),
            }
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        let same_parts =
            Arc::ptr_eq(&self.whole, &other.whole) && self.difference == other.difference;
        self.kind == other.kind
            && self.type_url == other.type_url
            && (same_parts || self.bytes() == other.bytes())
    }
}

impl Models {
    /// The message in as little room as can be had.
    pub fn keep(&mut self, kind: ResourceType, any: Any) -> Raw {
        for at in 0..self.0.len() {
            let model = &self.0[at];
            if let Some(difference) = model.difference(&any.value) {
                let whole = Arc::clone(model.bytes());
                self.0.swap(0, at);
                return Raw::of(kind, any.type_url, whole, Some(difference.into()));
            }
        }
        let raw = Raw::new(kind, any);
        if let Some(model) = Model::new(&raw.whole) {
            self.0.truncate(RECENT - 1);
            self.0.push_front(model);
        }
        raw
    }
}

fn is_usual(kind: ResourceType, type_url: &str) -> bool {
    let name = type_url.strip_prefix(crate::type_url::PREFIX);
    name == Some(kind.message_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> Any {
        let value = format!("{name} with whatever a cluster has that it has in common with others");
        Any {
            type_url: ResourceType::Cluster.type_url(),
            value: value.into_bytes(),
        }
    }

    #[test]
    fn messages_that_are_alike_share_what_they_have_in_common() {
        let mut models = Models::default();
        let all: Vec<Any> = (0..20).map(|n| cluster(&format!("circuit/{n}"))).collect();
        let raws: Vec<Raw> = all
            .iter()
            .map(|any| models.keep(ResourceType::Cluster, any.clone()))
            .collect();
        assert!(raws[1..].iter().all(|raw| raw.difference.is_some()));
        assert_eq!(models.0.len(), 1);
        for (at, raw) in raws.iter().enumerate() {
            assert_eq!(raw.any(), all[at]);
            for (other, any) in all.iter().enumerate() {
                assert_eq!(raw.is(any), at == other);
                assert_eq!(*raw == raws[other], at == other);
            }
            assert_eq!(*raw, Raw::new(ResourceType::Cluster, all[at].clone()));
        }
        let unusual = Any {
            type_url: format!("example.test/{}", ResourceType::Cluster.message_name()),
            ..all[3].clone()
        };
        let raw = models.keep(ResourceType::Cluster, unusual.clone());
        assert!(raw.difference.is_some());
        assert_eq!(raw.any(), unusual);
        assert!(raw.is(&unusual) && !raw.is(&all[3]) && raw != raws[3]);
    }
}
