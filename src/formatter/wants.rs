//! What of a request has to be kept until it is logged.

use http::header::HeaderName;

use super::facts::Key;

/// Collected when a snapshot is compiled, so that a request keeps what somebody asks for and
/// nothing else.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Something is asked at all.
    pub anything: bool,
    /// The name and metadata of the route.
    pub route: bool,
    /// When a request came to its points.
    pub points: bool,
    /// How large the heads are.
    pub sizes: bool,
    pub request_head: bool,
    pub request_fields: Vec<HeaderName>,
    pub response_fields: Vec<HeaderName>,
    pub trailers: Vec<HeaderName>,
}

fn add(list: &mut Vec<HeaderName>, name: &HeaderName) {
    if !list.contains(name) {
        list.push(name.clone());
    }
}

impl Wants {
    pub fn request(&mut self, key: &Key) {
        self.anything = true;
        self.request_head = true;
        if let Key::Field(name) = key {
            add(&mut self.request_fields, name);
        }
    }

    pub fn response(&mut self, key: &Key) {
        self.anything = true;
        if let Key::Field(name) = key {
            add(&mut self.response_fields, name);
        }
    }

    pub fn trailer(&mut self, key: &Key) {
        self.anything = true;
        if let Key::Field(name) = key {
            add(&mut self.trailers, name);
        }
    }
}
