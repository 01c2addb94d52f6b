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
    /// Single fields. Most ask for none, and there is one of these at every place that may.
    fields: Option<Box<Fields>>,
}

#[derive(Clone, Debug, Default)]
struct Fields {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    trailers: Vec<HeaderName>,
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
        fields: None,
    };

    pub fn request_fields(&self) -> &[HeaderName] {
        self.fields.as_ref().map_or(&[], |fields| &fields.request)
    }

    pub fn response_fields(&self) -> &[HeaderName] {
        self.fields.as_ref().map_or(&[], |fields| &fields.response)
    }

    pub fn trailers(&self) -> &[HeaderName] {
        self.fields.as_ref().map_or(&[], |fields| &fields.trailers)
    }

    fn fields_mut(&mut self) -> &mut Fields {
        self.fields.get_or_insert_default()
    }

    /// Adds what somebody else asks for.
    pub fn merge(&mut self, other: &Self) {
        self.anything |= other.anything;
        self.route |= other.route;
        self.points |= other.points;
        self.sizes |= other.sizes;
        self.request_head |= other.request_head;
        let Some(others) = &other.fields else { return };
        let mine = self.fields_mut();
        for (mine, others) in [
            (&mut mine.request, &others.request),
            (&mut mine.response, &others.response),
            (&mut mine.trailers, &others.trailers),
        ] {
            others.iter().for_each(|name| add(mine, name));
        }
    }

    pub fn request(&mut self, key: &Key) {
        self.anything = true;
        self.request_head = true;
        if let Key::Field(name) = key {
            add(&mut self.fields_mut().request, name);
        }
    }

    pub fn response(&mut self, key: &Key) {
        self.anything = true;
        if let Key::Field(name) = key {
            add(&mut self.fields_mut().response, name);
        }
    }

    pub fn trailer(&mut self, key: &Key) {
        self.anything = true;
        if let Key::Field(name) = key {
            add(&mut self.fields_mut().trailers, name);
        }
    }
}
