//! Header edits, compiled.

use std::cell::RefCell;

use causeway_xds::resource::headers::{AppendAction, HeaderEdit, HeaderEdits as Model};
use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use crate::formatter::{Facts, Template, Wants};

/// The edits of all levels of one route, in the order in which they apply.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    request: Vec<Level>,
    response: Vec<Level>,
    /// What the values of the response ask of the request.
    pub wants: Wants,
}

/// The edits that one level makes to one message.
#[derive(Debug, Default)]
pub struct Level {
    remove: Vec<HeaderName>,
    /// Those that overwrite come first.
    add: Vec<Edit>,
    /// All names differ and no value has to be made, so that one edit cannot see another.
    plain: bool,
}

#[derive(Debug)]
struct Edit {
    name: HeaderName,
    value: Value,
    action: AppendAction,
    keep_empty: bool,
}

#[derive(Debug)]
enum Value {
    Literal(HeaderValue),
    Template(Template),
}

impl HeaderEdits {
    /// `levels` from the most specific (route) to the least. Envoy evaluates them in that order,
    /// so the least specific overwrites, unless `most_specific_wins`.
    pub fn compile<'m>(
        levels: impl DoubleEndedIterator<Item = &'m Model> + Clone,
        most_specific_wins: bool,
    ) -> Self {
        let mut ordered: Vec<&Model> = levels.collect();
        if most_specific_wins {
            ordered.reverse();
        }
        let mut edits = Self::default();
        for level in ordered {
            let request = Level::compile(&level.request_add, &level.request_remove);
            let response = Level::compile(&level.response_add, &level.response_remove);
            response.note(&mut edits.wants);
            request.note_route(&mut edits.wants);
            edits.request.extend(request.some());
            edits.response.extend(response.some());
        }
        edits
    }

    pub fn edits_requests(&self) -> bool {
        !self.request.is_empty()
    }

    pub fn edits_responses(&self) -> bool {
        !self.response.is_empty()
    }

    /// One level after the other. `evaluate` makes the changes of a level from what is there.
    pub fn request_levels(&self) -> &[Level] {
        &self.request
    }

    pub fn response_levels(&self) -> &[Level] {
        &self.response
    }
}

/// What one level changes, its values made.
#[derive(Debug, Default)]
pub struct Changes<'l> {
    remove: &'l [HeaderName],
    overwrite: Vec<(&'l HeaderName, HeaderValue)>,
    add: Vec<(&'l HeaderName, HeaderValue)>,
}

impl Level {
    pub fn compile(add: &[HeaderEdit], remove: &[String]) -> Self {
        let mut add: Vec<Edit> = add.iter().filter_map(Edit::compile).collect();
        add.sort_by_key(|edit| !edit.overwrites());
        let literal = add.iter().all(|e| matches!(e.value, Value::Literal(_)));
        let differ = add
            .iter()
            .enumerate()
            .all(|(i, edit)| add[..i].iter().all(|other| other.name != edit.name));
        Self {
            remove: remove.iter().filter_map(|n| n.parse().ok()).collect(),
            add,
            plain: literal && differ,
        }
    }

    /// Nothing when it does nothing.
    fn some(self) -> Option<Self> {
        (!self.remove.is_empty() || !self.add.is_empty()).then_some(self)
    }

    /// Adds what its values need to have kept.
    pub fn note(&self, wants: &mut Wants) {
        for edit in &self.add {
            if let Value::Template(template) = &edit.value {
                template.note(wants);
            }
        }
    }

    /// The headers of a request are there when its edits are made; its route has to be kept.
    fn note_route(&self, wants: &mut Wants) {
        let mut own = Wants::default();
        self.note(&mut own);
        wants.route |= own.route;
        wants.anything |= own.anything;
    }

    /// Applies edits that need nothing but themselves; others need [`Level::evaluate`].
    pub fn apply_plain(&self, headers: &mut HeaderMap) -> bool {
        if !self.plain {
            return false;
        }
        for name in &self.remove {
            headers.remove(name);
        }
        for edit in &self.add {
            let Value::Literal(value) = &edit.value else {
                continue;
            };
            let (name, value) = (edit.name.clone(), value.clone());
            match edit.action {
                AppendAction::AppendOrAdd => {
                    headers.append(name, value);
                }
                AppendAction::AddIfAbsent => {
                    headers.entry(name).or_insert(value);
                }
                AppendAction::OverwriteOrAdd => {
                    headers.insert(name, value);
                }
                AppendAction::OverwriteIfExists => {
                    if headers.contains_key(&name) {
                        headers.insert(name, value);
                    }
                }
            }
        }
        true
    }

    /// Makes all values from what is there before the first change, as Envoy does.
    pub fn evaluate(&self, headers: &HeaderMap, facts: &dyn Facts) -> Changes<'_> {
        let mut changes = Changes {
            remove: &self.remove,
            add: Vec::with_capacity(self.add.len()),
            ..Changes::default()
        };
        for edit in &self.add {
            let value = match &edit.value {
                Value::Literal(value) => value.clone(),
                // What cannot be a header value is not sent.
                Value::Template(template) => match rendered(template, facts) {
                    Ok(value) => value,
                    Err(_) => continue,
                },
            };
            if value.is_empty() && !edit.keep_empty {
                continue;
            }
            let there = || headers.contains_key(&edit.name) && !self.remove.contains(&edit.name);
            match edit.action {
                AppendAction::AppendOrAdd => changes.add.push((&edit.name, value)),
                AppendAction::AddIfAbsent if there() => {}
                AppendAction::AddIfAbsent => changes.add.push((&edit.name, value)),
                AppendAction::OverwriteIfExists if !there() => {}
                AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists => {
                    changes.overwrite.push((&edit.name, value));
                }
            }
        }
        changes
    }
}

/// By way of a buffer that the thread keeps, so that a value is allocated once, as long as it is.
fn rendered(template: &Template, facts: &dyn Facts) -> Result<HeaderValue, InvalidHeaderValue> {
    thread_local! {
        static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    TEXT.with_borrow_mut(|text| {
        text.clear();
        template.render_into(facts, text);
        HeaderValue::from_bytes(text)
    })
}

impl Changes<'_> {
    pub fn apply(self, headers: &mut HeaderMap) {
        // Grown once: growing hashes all names again.
        headers.reserve(self.overwrite.len() + self.add.len());
        for name in self.remove {
            headers.remove(name);
        }
        for (name, value) in self.overwrite {
            headers.insert(name, value);
        }
        for (name, value) in self.add {
            headers.append(name, value);
        }
    }
}

impl Edit {
    /// Names and values were checked when the resource was decoded.
    fn compile(model: &HeaderEdit) -> Option<Self> {
        let value = match model.value.literal() {
            Some("") if !model.keep_empty => return None,
            Some(text) => Value::Literal(HeaderValue::from_str(text).ok()?),
            None => Value::Template(Template::compile(&model.value, "")),
        };
        Some(Self {
            name: model.name.parse().ok()?,
            value,
            action: model.action,
            keep_empty: model.keep_empty,
        })
    }

    fn overwrites(&self) -> bool {
        matches!(
            self.action,
            AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists
        )
    }
}

#[cfg(test)]
mod tests;
