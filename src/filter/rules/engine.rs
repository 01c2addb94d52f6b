//! Rules in either of their forms: policies, or a tree of matchers.

use causeway_xds::proto::Any;
use causeway_xds::proto::envoy::config::rbac::v3 as proto;
use causeway_xds::proto::xds::r#type::matcher::v3::Matcher;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::matcher::tree as model;
use causeway_xds::resource::parts::{At, not_empty, unknown_type, unpack};
use causeway_xds::type_url::message_name;

use super::condition::Form;
use super::subject::Subject;
use super::{Action, Policies, Verdict};
use crate::matching::tree::{Input, Tree};

#[derive(Debug)]
pub enum Engine {
    Policies(Policies),
    Tree {
        tree: Tree<Leaf>,
        names: Vec<String>,
        /// One of the actions is to log.
        logs: bool,
    },
}

/// `envoy.config.rbac.v3.Action`.
#[derive(Debug)]
pub struct Leaf {
    name: String,
    action: Action,
    /// Among the leaves.
    index: usize,
}

/// The rules as a message gives them.
pub struct Given {
    pub rules: Option<proto::Rbac>,
    pub matcher: Option<Matcher>,
    pub shadow_rules: Option<proto::Rbac>,
    pub shadow_matcher: Option<Matcher>,
}

/// Those that are enforced, and those that are only tried.
#[derive(Debug)]
pub struct Engines {
    pub enforced: Option<Engine>,
    pub shadow: Option<Engine>,
}

impl Engines {
    /// # Errors
    /// As [`Policies::decode`].
    pub fn decode(given: Given, form: Form) -> Result<Self, Invalid> {
        let Given {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
        } = given;
        Ok(Self {
            enforced: Engine::decode((rules, "rules"), (matcher, "matcher"), form)?,
            shadow: Engine::decode(
                (shadow_rules, "shadow_rules"),
                (shadow_matcher, "shadow_matcher"),
                form,
            )?,
        })
    }
}

impl Engine {
    /// With both forms given the tree counts, and the policies only have to be right.
    fn decode(
        rules: (Option<proto::Rbac>, &str),
        matcher: (Option<Matcher>, &str),
        form: Form,
    ) -> Result<Option<Self>, Invalid> {
        let policies = rules.0.map(|rules| Policies::decode(rules, form));
        let policies = policies.transpose().at(rules.1)?;
        let tree = matcher.0.map(|matcher| Self::tree(matcher, form));
        let tree = tree.transpose().at(matcher.1)?;
        Ok(tree.or(policies.map(Self::Policies)))
    }

    fn tree(message: Matcher, form: Form) -> Result<Self, Invalid> {
        let allowed: fn(&Input) -> bool = match form {
            Form::Requests => |input| !input.is_of_response(),
            Form::Connections => |input| input.is_of_connection(),
        };
        let model = model::Tree::decode(message, allowed, |any| leaf(&any))?;
        let (mut names, mut logs) = (Vec::new(), false);
        let tree = Tree::compile(&model, &mut |(name, action): &(String, Action)| {
            names.push(name.clone());
            logs |= *action == Action::Log;
            Leaf {
                name: name.clone(),
                action: *action,
                index: names.len() - 1,
            }
        });
        Ok(Self::Tree { tree, names, logs })
    }

    /// The names of the policies or actions, in their order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Policies(policies) => policies.names().collect(),
            Self::Tree { names, .. } => names.iter().map(|name| &**name).collect(),
        }
    }

    pub fn judge(&self, subject: &Subject<'_>) -> Verdict<'_> {
        match self {
            Self::Policies(policies) => policies.judge(subject),
            Self::Tree { tree, logs, .. } => {
                let leaf = tree.find(subject);
                Verdict {
                    // Nobody said that it may pass.
                    allowed: leaf.is_some_and(|leaf| leaf.action != Action::Deny),
                    policy: leaf.map(|leaf| (leaf.index, &*leaf.name)),
                    hint: leaf
                        .filter(|_| *logs)
                        .map(|leaf| leaf.action == Action::Log),
                }
            }
        }
    }
}

fn leaf(any: &Any) -> Result<(String, Action), Invalid> {
    const ACTION: &str = "envoy.config.rbac.v3.Action";
    if message_name(&any.type_url) != ACTION {
        return Err(unknown_type(&any.type_url));
    }
    let proto::Action { name, action } = unpack(any)?;
    Ok((not_empty(name, "name")?, Action::decode(action, "action")?))
}
