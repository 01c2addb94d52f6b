//! Placeholder of the store's shape, replaced by the full one.
use crate::resource::Resource;
use crate::source::Origin;
use crate::type_url::ResourceType;

#[derive(Debug, Default)]
pub struct ResourceStore {
    entries: std::collections::HashMap<(ResourceType, String), Entry>,
}

#[derive(Debug)]
pub struct Entry {
    pub origin: Origin,
    pub resource: Resource,
}

#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub added: Vec<(ResourceType, String)>,
    pub changed: Vec<(ResourceType, String)>,
    pub removed: Vec<(ResourceType, String)>,
}

impl ResourceStore {
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Entry> {
        self.entries.get(&(kind, name.to_owned()))
    }
}
