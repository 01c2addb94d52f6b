//! Header edits, compiled.

use causeway_xds::resource::headers::{AppendAction, HeaderEdit, HeaderEdits as Model};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The edits of all levels of one route, in the order in which they apply.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    request: List,
    response: List,
}

#[derive(Debug, Default)]
struct List {
    remove: Vec<HeaderName>,
    add: Vec<(HeaderName, HeaderValue, AppendAction)>,
}

impl HeaderEdits {
    /// `levels` from the most specific (route) to the least. Envoy evaluates them in that order,
    /// so the least specific overwrites, unless `most_specific_wins`.
    pub fn compile<const N: usize>(levels: [&Model; N], most_specific_wins: bool) -> Self {
        let mut edits = Self::default();
        let mut ordered = levels;
        if most_specific_wins {
            ordered.reverse();
        }
        for level in ordered {
            edits
                .request
                .extend(&level.request_add, &level.request_remove);
            edits
                .response
                .extend(&level.response_add, &level.response_remove);
        }
        edits
    }

    pub fn apply_to_request(&self, headers: &mut HeaderMap) {
        self.request.apply(headers);
    }

    pub fn apply_to_response(&self, headers: &mut HeaderMap) {
        self.response.apply(headers);
    }
}

impl List {
    fn extend(&mut self, add: &[HeaderEdit], remove: &[String]) {
        self.remove
            .extend(remove.iter().filter_map(|n| n.parse::<HeaderName>().ok()));
        self.add.extend(
            add.iter()
                .filter(|e| e.keep_empty || !e.value.is_empty())
                .filter_map(
                    // Names and values were checked when the resource was decoded.
                    |e| {
                        Some((
                            e.name.parse().ok()?,
                            HeaderValue::from_str(&e.value).ok()?,
                            e.action,
                        ))
                    },
                ),
        );
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value, action) in &self.add {
            match action {
                AppendAction::AppendOrAdd => {
                    headers.append(name.clone(), value.clone());
                }
                AppendAction::AddIfAbsent => {
                    headers.entry(name.clone()).or_insert_with(|| value.clone());
                }
                AppendAction::OverwriteOrAdd => {
                    headers.insert(name.clone(), value.clone());
                }
                AppendAction::OverwriteIfExists => {
                    if headers.contains_key(name) {
                        headers.insert(name.clone(), value.clone());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(value: &str, action: AppendAction) -> HeaderEdit {
        HeaderEdit {
            name: "x".into(),
            value: value.into(),
            action,
            keep_empty: false,
        }
    }

    fn level(edits: Vec<HeaderEdit>) -> Model {
        Model {
            response_add: edits,
            ..Model::default()
        }
    }

    #[test]
    fn levels_apply_route_first_and_the_last_overwrite_wins() {
        let route = level(vec![edit("route", AppendAction::OverwriteOrAdd)]);
        let host = level(vec![edit("host", AppendAction::OverwriteOrAdd)]);
        let config = level(vec![edit("config", AppendAction::AppendOrAdd)]);
        let mut headers = HeaderMap::new();
        HeaderEdits::compile([&route, &host, &config], false).apply_to_response(&mut headers);
        assert_eq!(
            headers.get_all("x").iter().collect::<Vec<_>>(),
            ["host", "config"]
        );
        let mut headers = HeaderMap::new();
        HeaderEdits::compile([&route, &host, &config], true).apply_to_response(&mut headers);
        assert_eq!(headers.get_all("x").iter().collect::<Vec<_>>(), ["route"]);
    }
}
