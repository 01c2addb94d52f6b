//! Header edits, compiled.

use std::cell::RefCell;

use causeway_xds::resource::headers::{
    AppendAction, HeaderEdit, HeaderEdits as Model, HeaderMutation,
};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use crate::formatter::{Facts, Template, Wants};
use crate::matching::text::Test;

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
    remove_matching: Vec<Test>,
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

    /// Of requests, each by itself: one sees what the one before has left.
    pub fn of_mutations(mutations: &[HeaderMutation]) -> Self {
        let request: Vec<_> = mutations.iter().map(Level::of_mutation).collect();
        let mut wants = Wants::default();
        request
            .iter()
            .for_each(|level| level.note_route(&mut wants));
        Self {
            request,
            wants,
            ..Self::default()
        }
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
    remove_matching: &'l [Test],
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
            remove_matching: Vec::new(),
            add,
            plain: literal && differ,
        }
    }

    pub fn of_mutation(mutation: &HeaderMutation) -> Self {
        match mutation {
            HeaderMutation::Edit(edit) => Self::compile(std::slice::from_ref(edit), &[]),
            HeaderMutation::Remove(name) => Self::compile(&[], std::slice::from_ref(name)),
            HeaderMutation::RemoveMatching(matcher) => Self {
                remove_matching: vec![Test::string(matcher)],
                ..Self::compile(&[], &[])
            },
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
        remove(headers, &self.remove, &self.remove_matching);
        for edit in &self.add {
            let Value::Literal(value) = &edit.value else {
                continue;
            };
            put(headers, edit.name.clone(), value.clone(), edit.action);
        }
        true
    }

    /// Makes all values from what is there before the first change, as Envoy does.
    pub fn evaluate(&self, headers: &HeaderMap, facts: &dyn Facts) -> Changes<'_> {
        let mut changes = Changes {
            remove: &self.remove,
            remove_matching: &self.remove_matching,
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
            let goes = || {
                let mut tests = self.remove_matching.iter();
                self.remove.contains(&edit.name) || tests.any(|test| is_removed(&edit.name, test))
            };
            let there = || headers.contains_key(&edit.name) && !goes();
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
        remove(headers, self.remove, self.remove_matching);
        for (name, value) in self.overwrite {
            headers.insert(name, value);
        }
        for (name, value) in self.add {
            headers.append(name, value);
        }
    }
}

pub fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, action: AppendAction) {
    match action {
        AppendAction::AppendOrAdd => {
            headers.append(name, value);
        }
        AppendAction::AddIfAbsent => {
            headers.entry(name).or_insert(value);
        }
        AppendAction::OverwriteIfExists if !headers.contains_key(&name) => {}
        AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists => {
            headers.insert(name, value);
        }
    }
}

fn remove(headers: &mut HeaderMap, names: &[HeaderName], tests: &[Test]) {
    for name in names {
        headers.remove(name);
    }
    for test in tests {
        let names = headers.keys().filter(|name| is_removed(name, test));
        for name in names.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
}

/// `host` is what a request is routed by.
fn is_removed(name: &HeaderName, test: &Test) -> bool {
    *name != HOST && test.matches(name.as_str().as_bytes())
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
