//! Role-based access control: the rules of `envoy.config.rbac.v3`, for requests and connections.
//!
//! A policy is in force when one of its permissions and one of its principals hold. Nothing here
//! fails at run time: a value that is not there makes a condition not hold, and no policy in force
//! means refusal wherever the action is to allow.

mod condition;
mod engine;
mod subject;

use causeway_xds::proto::envoy::config::rbac::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, each, enumeration, is_default};

pub use condition::{Condition, Form};
pub use engine::{Engine, Engines, Given};
pub use subject::{Left, Metadata, Subject};

/// What follows when a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// And who is under no policy is refused.
    Allow,
    /// And who is under no policy may pass.
    Deny,
    /// All pass; that a policy is in force is noted for the access log.
    Log,
}

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Debug)]
pub struct Policies {
    action: Action,
    /// In the order of their names: the first in force is the one that is told.
    policies: Vec<Policy>,
}

#[derive(Debug)]
struct Policy {
    name: String,
    permissions: Vec<Condition>,
    principals: Vec<Condition>,
}

/// What the rules say of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'r> {
    pub allowed: bool,
    /// Which of the names of the rules (in their order) decided.
    pub policy: Option<(usize, &'r str)>,
    /// What the access log is to be told (`access_log_hint`).
    pub hint: Option<bool>,
}

impl Verdict<'_> {
    /// Why a refusal was made, as a detail word.
    pub fn details(&self) -> String {
        let name = self.policy.map_or("none", |(_, name)| name);
        // Details are words: nothing in them may end one.
        let name = name.replace(|c: char| c.is_whitespace(), "_");
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

impl Action {
    pub fn decode(action: i32, field: &str) -> Result<Self, Invalid> {
        Ok(match enumeration(action, field)? {
            proto::rbac::Action::Allow => Self::Allow,
            proto::rbac::Action::Deny => Self::Deny,
            proto::rbac::Action::Log => Self::Log,
        })
    }
}

impl Policies {
    /// # Errors
    /// A condition that cannot be evaluated, with its path; for connections also one that needs a
    /// request.
    pub fn decode(message: proto::Rbac, form: Form) -> Result<Self, Invalid> {
        let proto::Rbac {
            action,
            policies,
            audit_logging_options,
        } = message;
        if !is_default(&audit_logging_options) {
            return Err(Invalid::at("audit_logging_options", "not supported yet"));
        }
        let mut policies: Vec<_> = policies.into_iter().collect();
        policies.sort_by(|a, b| a.0.cmp(&b.0));
        let policies = policies.into_iter().map(|(name, policy)| {
            let field = format!("policies[\"{name}\"]");
            Policy::decode(name, policy, form).at(&field)
        });
        Ok(Self {
            action: Action::decode(action, "action")?,
            policies: policies.collect::<Result<_, _>>()?,
        })
    }

    /// The names of the policies, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().map(|policy| &*policy.name)
    }

    pub fn judge(&self, subject: &Subject<'_>) -> Verdict<'_> {
        let mut policies = self.policies.iter().enumerate();
        let found = policies.find(|(_, policy)| policy.is_in_force(subject));
        let (allowed, hint) = match self.action {
            Action::Allow => (found.is_some(), None),
            Action::Deny => (found.is_none(), None),
            Action::Log => (true, Some(found.is_some())),
        };
        Verdict {
            allowed,
            policy: found.map(|(at, policy)| (at, &*policy.name)),
            hint,
        }
    }
}

impl Policy {
    fn decode(name: String, message: proto::Policy, form: Form) -> Result<Self, Invalid> {
        let proto::Policy {
            permissions,
            principals,
            condition,
            checked_condition,
            cel_config,
        } = message;
        let expressions = [
            (condition.is_some(), "condition"),
            (checked_condition.is_some(), "checked_condition"),
            (cel_config.is_some(), "cel_config"),
        ];
        if let Some((_, field)) = expressions.iter().find(|(given, _)| *given) {
            return Err(Invalid::at(field, "expressions (CEL) are not supported"));
        }
        for (empty, field) in [
            (permissions.is_empty(), "permissions"),
            (principals.is_empty(), "principals"),
        ] {
            if empty {
                return Err(Invalid::at(field, "must not be empty"));
            }
        }
        Ok(Self {
            name,
            permissions: each("permissions", permissions, |p| {
                Condition::permission(p, form, 0)
            })?,
            principals: each("principals", principals, |p| {
                Condition::principal(p, form, 0)
            })?,
        })
    }

    fn is_in_force(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|c| c.holds(subject))
            && self.principals.iter().any(|c| c.holds(subject))
    }
}

#[cfg(test)]
mod tests;
