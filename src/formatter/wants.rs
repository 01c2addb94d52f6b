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
    pub const NONE: Self = Self {
        anything: false,
        route: false,
        points: false,
        sizes: false,
        request_head: false,
        request_fields: Vec::new(),
        response_fields: Vec::new(),
        trailers: Vec::new(),
    };

    /// Adds what somebody else asks for.
    pub fn merge(&mut self, other: &Self) {
        self.anything |= other.anything;
        self.route |= other.route;
        self.points |= other.points;
        self.sizes |= other.sizes;
        self.request_head |= other.request_head;
        for (mine, others) in [
            (&mut self.request_fields, &other.request_fields),
            (&mut self.response_fields, &other.response_fields),
            (&mut self.trailers, &other.trailers),
        ] {
            others.iter().for_each(|name| add(mine, name));
        }
    }

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
