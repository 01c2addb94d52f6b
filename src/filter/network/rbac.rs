//! `envoy.filters.network.rbac`: lets connections pass or closes them, by rules.
//!
//! Configuration: `envoy.extensions.filters.network.rbac.v3.RBAC`. The rules are asked once the
//! handshake is over, whatever `enforcement_type` says: what they can ask of a connection does not
//! change with its bytes, and a server that speaks first tells nothing to who may not connect.

use std::sync::Arc;
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::network::rbac::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, enumeration, not_empty};

use super::super::registry::{Context, decode};
use super::super::rules::{Engines, Form, Given, Subject};
use super::{Build, Closing, Connection, NetworkFilter, Verdict};
use crate::telemetry::stats::Counter;

pub const FACTORY: (&str, Build) = ("envoy.extensions.filters.network.rbac.v3.RBAC", build);

#[derive(Debug)]
struct Rbac {
    engines: Engines,
    delay: Duration,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    shadow_allowed: Arc<Counter>,
    shadow_denied: Arc<Counter>,
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn NetworkFilter>, Invalid> {
    let proto::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = decode(config)?;
    let _: proto::rbac::EnforcementType = enumeration(enforcement_type, "enforcement_type")?;
    let prefix = not_empty(stat_prefix, "stat_prefix")?;
    let prefix = prefix.trim_end_matches('.');
    let scope = format!("{prefix}.rbac.");
    let shadow = shadow_rules_stat_prefix.trim_end_matches('.');
    let shadow_scope = match shadow {
        "" => scope.clone(),
        shadow => format!("{scope}{shadow}."),
    };
    let given = Given {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
    };
    Ok(Arc::new(Rbac {
        engines: Engines::decode(given, Form::Connections)?,
        delay: parts::duration(delay_deny, "delay_deny")?.unwrap_or_default(),
        allowed: context.counter_in(&scope, "allowed"),
        denied: context.counter_in(&scope, "denied"),
        shadow_allowed: context.counter_in(&shadow_scope, "shadow_allowed"),
        shadow_denied: context.counter_in(&shadow_scope, "shadow_denied"),
    }))
}

impl NetworkFilter for Rbac {
    fn open(&self, connection: &Connection<'_>) -> Verdict {
        let peer = connection.peer;
        let subject = Subject {
            request: None,
            local: connection.local,
            peer: peer.map(|peer| peer.ip()),
            peer_port: peer.map(|peer| peer.port()),
            client: peer.map(|peer| peer.ip()),
            tls: connection.session,
            server_name: connection.server_name,
            metadata: connection.state,
        };
        if let Some(shadow) = &self.engines.shadow {
            match shadow.judge(&subject).allowed {
                true => self.shadow_allowed.inc(),
                false => self.shadow_denied.inc(),
            }
        }
        let Some(enforced) = &self.engines.enforced else {
            return Verdict::Pass;
        };
        let verdict = enforced.judge(&subject);
        if verdict.allowed {
            self.allowed.inc();
            return Verdict::Pass;
        }
        self.denied.inc();
        Verdict::Close(Closing {
            after: self.delay,
            why: verdict.details().into(),
        })
    }
}
