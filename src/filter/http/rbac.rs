//! `envoy.filters.http.rbac`: lets requests pass or refuses them, by rules.
//!
//! Configuration: `envoy.extensions.filters.http.rbac.v3`. Rules of a route take the place of those
//! of the filter, and a route without rules lets everything pass.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::rbac::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::At;
use http::StatusCode;

use super::super::registry::{Context, decode};
use super::super::rules::{Engine, Engines, Form, Given, Left, Subject, Verdict};
use super::super::{Factory, Flow, HttpFilter, LocalReply, Stream};
use crate::route::RouteConfig;
use crate::telemetry::stats::Counter;

const NAME: &str = "envoy.filters.http.rbac";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.rbac.v3.RBAC",
    name: NAME,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Rbac {
    rules: Rules,
    enforced: Counters,
    shadow: Counters,
}

#[derive(Debug)]
struct Rules {
    engines: Engines,
    /// In front of the keys of what shadow rules say.
    shadow_prefix: String,
    rules_prefix: String,
    per_rule: bool,
}

/// `None`: everything may pass.
struct OfRoute(Option<Rules>);

#[derive(Debug)]
struct Counters {
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    /// Of each rule: allowed, denied. Empty if they are not counted.
    rules: Vec<(Arc<Counter>, Arc<Counter>)>,
}

impl Counters {
    fn new(context: &Context, prefix: &str, word: &str, names: &[&str]) -> Self {
        let dot = if prefix.is_empty() || prefix.ends_with('.') {
            ""
        } else {
            "."
        };
        let counter = |name: &str, what: &str| {
            context.counter(&format!("rbac.{prefix}{dot}{name}{word}{what}"))
        };
        let rule = |name: &&str| {
            let name = format!("policy.{name}.");
            (counter(&name, "allowed"), counter(&name, "denied"))
        };
        Self {
            allowed: counter("", "allowed"),
            denied: counter("", "denied"),
            rules: names.iter().map(rule).collect(),
        }
    }

    fn count(&self, verdict: &Verdict<'_>) {
        let of_rule = verdict.policy.and_then(|(at, _)| self.rules.get(at));
        if verdict.allowed {
            self.allowed.inc();
            of_rule.inspect(|(allowed, _)| allowed.inc());
        } else {
            self.denied.inc();
            of_rule.inspect(|(_, denied)| denied.inc());
        }
    }
}

impl Rules {
    fn decode(message: proto::Rbac) -> Result<Self, Invalid> {
        let proto::Rbac {
            rules,
            rules_stat_prefix,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix,
            track_per_rule_stats,
        } = message;
        let given = Given {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
        };
        Ok(Self {
            engines: Engines::decode(given, Form::Requests)?,
            shadow_prefix: shadow_rules_stat_prefix,
            rules_prefix: rules_stat_prefix,
            per_rule: track_per_rule_stats,
        })
    }
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let rules = Rules::decode(decode(config)?)?;
    let names = |engine: &'_ Option<Engine>| -> Vec<String> {
        let engine = engine.as_ref().filter(|_| rules.per_rule);
        let names = engine.map(Engine::names).unwrap_or_default();
        names.into_iter().map(str::to_owned).collect()
    };
    let counters = |prefix: &str, word: &str, engine: &Option<Engine>| {
        let names = names(engine);
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        Counters::new(context, prefix, word, &names)
    };
    let enforced = counters(&rules.rules_prefix, "", &rules.engines.enforced);
    let shadow = counters(&rules.shadow_prefix, "shadow_", &rules.engines.shadow);
    Ok(Arc::new(Rbac {
        enforced,
        shadow,
        rules,
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::RbacPerRoute { rbac } = decode(config)?;
    let rules = rbac.map(|rbac| {
        if rbac.track_per_rule_stats {
            return Err(Invalid::at("track_per_rule_stats", "not supported yet"));
        }
        Rules::decode(rbac)
    });
    let rules = rules.transpose().at("rbac")?;
    Ok(RouteConfig::new(OfRoute(rules)))
}

impl HttpFilter for Rbac {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let (rules, own) = match stream.route_config::<OfRoute>() {
            Some(OfRoute(None)) => return Flow::Continue,
            Some(OfRoute(Some(rules))) => (rules, false),
            None => (&self.rules, true),
        };
        let left = Left(stream);
        let subject = Subject::of(stream, &left);
        let state = stream.state();
        if let Some(shadow) = &rules.engines.shadow {
            let verdict = shadow.judge(&subject);
            self.shadow.told(&verdict, own);
            note(state, &format!("{}shadow_", rules.shadow_prefix), &verdict);
        }
        let Some(enforced) = &rules.engines.enforced else {
            return Flow::Continue;
        };
        let verdict = enforced.judge(&subject);
        self.enforced.told(&verdict, own);
        if let Some(hint) = verdict.hint {
            let hint = MetadataValue::Bool(hint);
            state.set_metadata("envoy.common", "access_log_hint", hint);
        }
        if verdict.allowed {
            return Flow::Continue;
        }
        let reply = LocalReply::new(StatusCode::FORBIDDEN, verdict.details());
        Flow::reply(reply.saying("RBAC: access denied"))
    }
}

impl Counters {
    /// Rules of a route are counted with those of the filter, but not one by one.
    fn told(&self, verdict: &Verdict<'_>, own: bool) {
        let policy = verdict.policy.filter(|_| own);
        self.count(&Verdict { policy, ..*verdict });
    }
}

/// What shadow rules say, for access logs.
fn note(state: &super::super::StreamState, prefix: &str, verdict: &Verdict<'_>) {
    let result = if verdict.allowed { "allowed" } else { "denied" };
    if let Some((_, name)) = verdict.policy {
        let key = format!("{prefix}effective_policy_id");
        state.set_metadata(NAME, &key, MetadataValue::Text(name.to_owned()));
    }
    let key = format!("{prefix}engine_result");
    state.set_metadata(NAME, &key, MetadataValue::Text(result.to_owned()));
}
