//! What is wrong with a text, where, and what was probably meant.

use std::borrow::Cow;
use std::fmt;

use super::node::Place;

/// A text that is not the message that was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Line and column, from 1.
    pub location: Option<(u32, u32)>,
    /// Where in the message: `static_resources.clusters[0].name`. Empty at the root.
    pub path: String,
    pub reason: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

impl std::error::Error for TextError {}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.location {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl TextError {
    pub(super) fn at(place: Place, reason: impl Into<String>) -> Self {
        Self {
            location: location(place),
            path: String::new(),
            reason: reason.into(),
            hint: None,
        }
    }

    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self::at(Place::default(), reason)
    }
}

fn location(place: Place) -> Option<(u32, u32)> {
    (place.line != 0).then_some((place.line, place.column))
}

/// A fault while it travels outwards. The path is gathered on the way, so that a text without
/// faults pays nothing for it. Boxed: results are many and faults are few.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Innermost first.
    steps: Vec<Step>,
    place: Place,
    reason: Cow<'static, str>,
    hint: Option<String>,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Index(usize),
    Key(String),
}

impl Fault {
    pub fn new(place: Place, reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            steps: Vec::new(),
            place,
            reason: reason.into(),
            hint: None,
        }))
    }

    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }

    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        self.0.steps.push(Step::Field(field.to_owned()));
        self
    }

    #[must_use]
    pub fn within_index(mut self, index: usize) -> Self {
        self.0.steps.push(Step::Index(index));
        self
    }

    #[must_use]
    pub fn within_key(mut self, key: &str) -> Self {
        self.0.steps.push(Step::Key(key.to_owned()));
        self
    }
}

impl From<Fault> for TextError {
    fn from(Fault(inner): Fault) -> Self {
        let mut path = String::new();
        for step in inner.steps.iter().rev() {
            match step {
                Step::Index(index) => path += &format!("[{index}]"),
                Step::Key(key) => path += &format!("[{key:?}]"),
                Step::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path += name;
                }
            }
        }
        Self {
            location: location(inner.place),
            path,
            reason: inner.reason.into_owned(),
            hint: inner.hint,
        }
    }
}

/// The candidate that was probably meant by `word`: few edits away, measured by its length.
pub(super) fn nearest<S: AsRef<str>>(
    word: &str,
    candidates: impl Iterator<Item = S>,
) -> Option<String> {
    // A longer word is no slip of the hand, and comparing costs the product of the lengths.
    if word.len() > 200 {
        return None;
    }
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|c| {
            (
                distance(&word.to_lowercase(), &c.as_ref().to_lowercase()),
                c,
            )
        })
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| format!("did you mean \"{}\"?", c.as_ref()))
}

/// How many characters have to be changed, added or left out to make one word of another (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_nothing_else() {
        let names = || ["name", "type", "load_assignment"].iter();
        assert_eq!(
            nearest("typ", names()).as_deref(),
            Some("did you mean \"type\"?")
        );
        assert_eq!(
            nearest("load_asignmnet", names()).as_deref(),
            Some("did you mean \"load_assignment\"?")
        );
        assert_eq!(nearest("colour", names()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn display_has_place_path_reason_and_hint() {
        let place = Place { line: 5, column: 7 };
        let fault = Fault::new(place, "unknown field \"typ\"")
            .hint(Some("did you mean \"type\"?".to_owned()))
            .within("typ")
            .within_index(0)
            .within("clusters")
            .within("static_resources");
        assert_eq!(
            TextError::from(fault).to_string(),
            "line 5, column 7: static_resources.clusters[0].typ: unknown field \"typ\"; \
             did you mean \"type\"?"
        );
    }
}
