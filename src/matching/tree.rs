//! Matcher trees at work.
//!
//! To use one: decode the message with [`model::Tree::decode`], which is generic over the action,
//! compile that with [`Tree::compile`], and ask [`Tree::find`] with something that knows the
//! values of the inputs. None of this allocates but for a field that came in several lines.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use causeway_xds::resource::address::contain;
use causeway_xds::resource::matcher::tree as model;
use causeway_xds::resource::metadata::MetadataValue;
use ipnet::IpNet;

use super::text;
use super::value::ValueCondition;

pub use causeway_xds::resource::matcher::tree::Input;

/// What a tree asks about: a request, a connection.
pub trait Inputs {
    /// The value of an input; `None` when there is none, which passes no test and is in no map.
    /// Addresses are in text, without their port.
    fn value<'i>(&'i self, input: &Input) -> Option<Cow<'i, [u8]>>;

    /// What filters have noted in a namespace.
    fn metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        let _ = namespace;
        None
    }
}

/// A compiled tree.
#[derive(Debug)]
pub struct Tree<A> {
    kind: Kind<A>,
    otherwise: Option<OnMatch<A>>,
}

#[derive(Debug)]
enum Kind<A> {
    Nothing,
    List(Vec<(Predicate, OnMatch<A>)>),
    Exact(Input, Map<A>),
    Prefix {
        input: Input,
        map: Map<A>,
        /// Of the keys, descending.
        lengths: Vec<usize>,
    },
}

type Map<A> = HashMap<Box<[u8]>, OnMatch<A>, ahash::RandomState>;

#[derive(Debug)]
struct OnMatch<A> {
    keep_matching: bool,
    then: Then<A>,
}

#[derive(Debug)]
enum Then<A> {
    Tree(Box<Tree<A>>),
    Action(A),
}

#[derive(Debug)]
enum Predicate {
    Single(Input, Test),
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Debug)]
enum Test {
    Text(text::Test),
    Networks(Vec<IpNet>),
    Value(ValueCondition, bool),
}

impl<A> Tree<A> {
    /// Compiles a decoded tree; `action` makes of an action what it is at work.
    pub fn compile<M>(model: &model::Tree<M>, action: &mut impl FnMut(&M) -> A) -> Self {
        let kind = match &model.kind {
            model::Kind::Nothing => Kind::Nothing,
            model::Kind::List(list) => {
                let list = list.iter().map(|(predicate, on_match)| {
                    let predicate = Predicate::compile(predicate);
                    (predicate, OnMatch::compile(on_match, action))
                });
                Kind::List(list.collect())
            }
            model::Kind::Exact(input, map) => Kind::Exact(input.clone(), entries(map, action)),
            model::Kind::Prefix(input, map) => {
                let mut lengths: Vec<_> = map.keys().map(String::len).collect();
                lengths.sort_unstable_by(|a, b| b.cmp(a));
                lengths.dedup();
                Kind::Prefix {
                    input: input.clone(),
                    map: entries(map, action),
                    lengths,
                }
            }
        };
        let otherwise = model.otherwise.as_ref();
        Self {
            kind,
            otherwise: otherwise.map(|on_match| OnMatch::compile(on_match, action)),
        }
    }

    /// The action that these inputs lead to. A tree that leads nowhere is as if it had not
    /// matched: what is around it goes on.
    pub fn find(&self, inputs: &impl Inputs) -> Option<&A> {
        let found = match &self.kind {
            Kind::Nothing => None,
            Kind::List(list) => list
                .iter()
                .filter(|(predicate, _)| predicate.holds(inputs))
                .find_map(|(_, on_match)| on_match.find(inputs)),
            Kind::Exact(input, map) => inputs
                .value(input)
                .and_then(|value| map.get(&*value)?.find(inputs)),
            Kind::Prefix {
                input,
                map,
                lengths,
            } => inputs.value(input).and_then(|value| {
                let prefixes = lengths.iter().filter_map(|length| value.get(..*length));
                let mut matches = prefixes.filter_map(|prefix| map.get(prefix));
                matches.find_map(|on_match| on_match.find(inputs))
            }),
        };
        found.or_else(|| self.otherwise.as_ref()?.find(inputs))
    }
}

fn entries<M, A>(
    map: &BTreeMap<String, model::OnMatch<M>>,
    action: &mut impl FnMut(&M) -> A,
) -> Map<A> {
    map.iter()
        .map(|(key, on_match)| {
            let on_match = OnMatch::compile(on_match, action);
            (key.as_bytes().into(), on_match)
        })
        .collect()
}

impl<A> OnMatch<A> {
    fn compile<M>(model: &model::OnMatch<M>, action: &mut impl FnMut(&M) -> A) -> Self {
        Self {
            keep_matching: model.keep_matching,
            then: match &model.then {
                model::Then::Tree(tree) => Then::Tree(Box::new(Tree::compile(tree, action))),
                model::Then::Action(model) => Then::Action(action(model)),
            },
        }
    }

    fn find(&self, inputs: &impl Inputs) -> Option<&A> {
        if self.keep_matching {
            // Its action would only be noted, which nobody asks for.
            return None;
        }
        match &self.then {
            Then::Tree(tree) => tree.find(inputs),
            Then::Action(action) => Some(action),
        }
    }
}

impl Predicate {
    fn compile(model: &model::Predicate) -> Self {
        let list = |models: &[model::Predicate]| models.iter().map(Self::compile).collect();
        match model {
            model::Predicate::Single(input, test) => {
                Self::Single(input.clone(), Test::compile(test))
            }
            model::Predicate::Any(any) => Self::Any(list(any)),
            model::Predicate::All(all) => Self::All(list(all)),
            model::Predicate::Not(not) => Self::Not(Box::new(Self::compile(not))),
        }
    }

    fn holds(&self, inputs: &impl Inputs) -> bool {
        match self {
            Self::Single(Input::Metadata { namespace, path }, Test::Value(condition, invert)) => {
                let all = inputs.metadata(namespace);
                condition.holds(all.as_ref().and_then(|all| all.get(path))) != *invert
            }
            Self::Single(input, test) => inputs
                .value(input)
                .is_some_and(|value| test.matches(&value)),
            Self::Any(any) => any.iter().any(|predicate| predicate.holds(inputs)),
            Self::All(all) => all.iter().all(|predicate| predicate.holds(inputs)),
            Self::Not(not) => !not.holds(inputs),
        }
    }
}

impl Test {
    fn compile(model: &model::Test) -> Self {
        match model {
            model::Test::String(matcher) => Self::Text(text::Test::string(matcher)),
            model::Test::Networks(networks) => Self::Networks(networks.clone()),
            model::Test::Value { matcher, invert } => {
                Self::Value(ValueCondition::compile(matcher), *invert)
            }
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(test) => test.matches(value),
            // For values of another kind.
            Self::Value(..) => false,
            Self::Networks(networks) => {
                let text = std::str::from_utf8(value).ok();
                let address = text.and_then(|text| text.parse::<IpAddr>().ok());
                address.is_some_and(|address| contain(networks, address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::resource::matcher::{StringMatcher, StringPattern};
    use model::{OnMatch, Predicate as P, Then};

    use super::*;

    /// Values by header name; everything else is an address.
    struct Values(&'static [(&'static str, &'static str)], &'static str);

    impl Inputs for Values {
        fn value<'i>(&'i self, input: &Input) -> Option<Cow<'i, [u8]>> {
            let text = match input {
                Input::RequestHeader(name) => self.0.iter().find(|(n, _)| n == name)?.1,
                _ => self.1,
            };
            Some(Cow::Borrowed(text.as_bytes()))
        }
    }

    fn header(name: &str) -> Input {
        Input::RequestHeader(name.to_owned())
    }

    fn is(name: &str, text: &str) -> P {
        let pattern = StringPattern::Exact(text.to_owned());
        let ignore_case = false;
        P::Single(
            header(name),
            model::Test::String(StringMatcher {
                pattern,
                ignore_case,
            }),
        )
    }

    fn to(action: u8) -> OnMatch<u8> {
        OnMatch {
            keep_matching: false,
            then: Then::Action(action),
        }
    }

    fn keep(action: u8) -> OnMatch<u8> {
        OnMatch {
            keep_matching: true,
            ..to(action)
        }
    }

    fn on(tree: model::Tree<u8>) -> OnMatch<u8> {
        OnMatch {
            keep_matching: false,
            then: Then::Tree(Box::new(tree)),
        }
    }

    fn tree(kind: model::Kind<u8>, otherwise: Option<OnMatch<u8>>) -> model::Tree<u8> {
        model::Tree { kind, otherwise }
    }

    fn find(
        tree: &model::Tree<u8>,
        headers: &'static [(&'static str, &'static str)],
    ) -> Option<u8> {
        let compiled = Tree::compile(tree, &mut |action| *action);
        compiled.find(&Values(headers, "10.1.2.3")).copied()
    }

    #[test]
    fn a_list_is_asked_in_order_and_goes_on_behind_a_tree_that_leads_nowhere() {
        let nowhere = tree(model::Kind::List(vec![(is("b", "2"), to(1))]), None);
        let list = vec![
            (is("a", "1"), on(nowhere)),
            (is("a", "1"), keep(9)),
            (is("a", "1"), to(2)),
            (is("a", "2"), to(3)),
        ];
        let tree = tree(model::Kind::List(list), Some(to(4)));
        assert_eq!(find(&tree, &[("a", "1"), ("b", "2")]), Some(1));
        assert_eq!(find(&tree, &[("a", "1")]), Some(2));
        assert_eq!(find(&tree, &[("a", "2")]), Some(3));
        assert_eq!(find(&tree, &[]), Some(4));
    }

    #[test]
    fn the_longest_prefix_that_leads_somewhere_counts() {
        let nowhere = tree(model::Kind::List(vec![(is("a", "1"), to(1))]), None);
        let map = [
            ("/", to(3)),
            ("/app", to(2)),
            ("/app/x", on(nowhere)),
            ("/app/xy", keep(9)),
        ];
        let map = map.map(|(key, on_match)| (key.to_owned(), on_match));
        let tree = tree(model::Kind::Prefix(header("p"), map.into()), None);
        assert_eq!(find(&tree, &[("p", "/app/xyz"), ("a", "1")]), Some(1));
        assert_eq!(find(&tree, &[("p", "/app/xyz")]), Some(2));
        assert_eq!(find(&tree, &[("p", "/ap")]), Some(3));
        assert_eq!(find(&tree, &[("p", "app")]), None);
        assert_eq!(find(&tree, &[]), None);
    }

    #[test]
    fn a_map_of_whole_values_is_exact_and_a_missing_value_is_in_none() {
        let map = [("/app".to_owned(), to(1)), (String::new(), to(2))].into();
        let tree = tree(model::Kind::Exact(header("p"), map), Some(to(3)));
        assert_eq!(find(&tree, &[("p", "/app")]), Some(1));
        assert_eq!(find(&tree, &[("p", "/app/")]), Some(3));
        assert_eq!(find(&tree, &[("p", "")]), Some(2));
        assert_eq!(find(&tree, &[]), Some(3));
    }

    #[test]
    fn predicates_combine_and_a_missing_value_passes_only_what_is_negated() {
        let nothing = tree(model::Kind::Nothing, None);
        let any = P::Any(vec![is("a", "1"), is("a", "2")]);
        let all = P::All(vec![any, P::Not(Box::new(is("b", "")))]);
        let networks = vec!["10.0.0.0/8".parse().unwrap()];
        let address = P::Single(Input::SourceIp, model::Test::Networks(networks));
        let list = vec![(all, to(1)), (address, to(2))];
        let tree = tree(model::Kind::List(list), None);
        assert_eq!(find(&tree, &[("a", "2")]), Some(1));
        assert_eq!(find(&tree, &[("a", "2"), ("b", "")]), Some(2));
        let compiled = Tree::compile(&tree, &mut |action| *action);
        assert_eq!(compiled.find(&Values(&[], "192.0.2.1")), None);
        assert_eq!(compiled.find(&Values(&[], "no address")), None);
        assert_eq!(find(&nothing, &[]), None);
    }
}
