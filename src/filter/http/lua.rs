//! `envoy.filters.http.lua`: scripts that look at requests and answers, and change them.
//!
//! A script runs as a coroutine, on the data thread of its stream, and sleeps while it waits. It fails
//! open, as with Envoy: what fails is counted and logged, and the message goes on as it is.
//!
//! The language is that of Lua 5.2, which of those that need nothing but a C compiler is nearest to
//! LuaJIT as Envoy builds it: all numbers are floating, `pairs` asks objects, and a script may wait in
//! the middle of a loop or a `pcall`.

mod ask;
mod call;
mod facts;
mod passing;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::lua::v3 as proto;
use causeway_xds::proto::google::protobuf::Struct;
use causeway_xds::refuse;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{At, flag, metadata_value, not_empty};
use http::StatusCode;
use proto::lua_per_route::Override;

use self::run::{Given, Limit, Run};
use self::state::{Script, told};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::formatter::Wants;
use crate::route::{BUFFER_LIMIT, RouteConfig};
use crate::telemetry::stats::Counter;

/// Under which routes may carry metadata for any filter of this kind.
const FALLBACK: &str = "envoy.filters.http.lua";

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.lua.v3.Lua",
    name: FALLBACK,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.lua.v3.LuaPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct Lua {
    default: Option<Arc<Script>>,
    named: BTreeMap<String, Arc<Script>>,
    context: Arc<MetadataValue>,
    inner: Arc<Inner>,
}

/// What every script of the filter has.
#[derive(Debug)]
pub struct Inner {
    /// Of the filter in its chain.
    name: String,
    clear_route_cache: bool,
    executions: Arc<Counter>,
    errors: Arc<Counter>,
}

#[derive(Debug)]
struct PerRoute {
    which: Which,
    context: Option<Arc<MetadataValue>>,
}

#[derive(Debug)]
enum Which {
    Default,
    None,
    Named(String),
    Own(Arc<Script>),
}

#[expect(deprecated, reason = "every field is looked at, the old ones too")]
fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::Lua {
        inline_code,
        source_codes,
        default_source_code,
        stat_prefix,
        clear_route_cache,
        filter_context,
        package_paths,
        package_cpaths,
    } = decode(config)?;
    refuse!(package_paths, package_cpaths);
    let default = match (inline_code.is_empty(), default_source_code) {
        (true, None) => None,
        (true, Some(source)) => Some(Script::load(source).at("default_source_code")?),
        (false, None) => Some(Script::compile(inline_code.into_bytes()).at("inline_code")?),
        (false, Some(_)) => {
            let reason = "is given together with default_source_code";
            return Err(Invalid::at("inline_code", reason));
        }
    };
    let mut named = BTreeMap::new();
    for (name, source) in source_codes {
        let script = Script::load(source).map_err(|invalid| {
            let at = FieldPath::root().field("source_codes").field(&name);
            invalid.within(&at)
        })?;
        named.insert(name, script);
    }
    let prefix = match stat_prefix.is_empty() {
        true => "lua.".to_owned(),
        false => format!("lua.{stat_prefix}."),
    };
    Ok(Arc::new(Lua {
        default,
        named,
        context: Arc::new(metadata_value(filter_context.unwrap_or_default())),
        inner: Arc::new(Inner {
            name: config.name.clone(),
            clear_route_cache: flag(clear_route_cache, true),
            executions: context.counter(&format!("{prefix}executions")),
            errors: context.counter(&format!("{prefix}errors")),
        }),
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::LuaPerRoute {
        filter_context,
        package_paths,
        package_cpaths,
        r#override,
    } = decode(config)?;
    refuse!(package_paths, package_cpaths);
    let mut wants = Wants::NONE;
    let which = match r#override {
        None => Which::Default,
        Some(Override::Disabled(true)) => Which::None,
        Some(Override::Disabled(false)) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Some(Override::Name(name)) => Which::Named(not_empty(name, "name")?),
        Some(Override::SourceCode(source)) => {
            let script = Script::load(source).at("source_code")?;
            script.note(&mut wants);
            Which::Own(script)
        }
    };
    let context = filter_context.map(|context: Struct| Arc::new(metadata_value(context)));
    Ok(RouteConfig::new(PerRoute { which, context }).wanting(wants))
}

impl Inner {
    /// A script has failed, for this reason.
    fn failed(&self, reason: &str) {
        self.errors.inc();
        tracing::error!(filter = self.name, reason, "script");
    }
}

impl Lua {
    /// The script for a message, and the context that it can look at.
    fn script<'a>(
        &'a self,
        said: Option<&'a PerRoute>,
    ) -> Option<(&'a Arc<Script>, &'a Arc<MetadataValue>)> {
        let script = match said.map(|said| &said.which) {
            None | Some(Which::Default) => self.default.as_ref(),
            Some(Which::None) => None,
            Some(Which::Named(name)) => self.named.get(name),
            Some(Which::Own(script)) => Some(script),
        };
        let context = said.and_then(|said| said.context.as_ref());
        Some((script?, context.unwrap_or(&self.context)))
    }

    fn begin(&self, script: &Arc<Script>, context: &Arc<MetadataValue>) -> Option<Run> {
        self.inner.executions.inc();
        let begun = Run::new(&self.inner, script, context);
        begun.map_err(|error| self.inner.failed(&told(&error))).ok()
    }
}

impl HttpFilter for Lua {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let Some((script, context)) = self.script(stream.route_config()) else {
            return Flow::Continue;
        };
        if script.on_response {
            // The route is not known any more when the answer comes.
            let limit = run::limit(stream);
            if limit != BUFFER_LIMIT {
                stream.keep(Limit(limit));
            }
        }
        if !script.on_request {
            return Flow::Continue;
        }
        let Some(mut run) = self.begin(script, context) else {
            return Flow::Continue;
        };
        run.bodyless = run::is_bodyless(stream);
        run.ended = run.bodyless;
        run.request(stream, Given::Start)
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let found = self.script(answer.route_config());
        let Some((script, context)) = found.filter(|(script, _)| script.on_response) else {
            return;
        };
        let Some(mut run) = self.begin(script, context) else {
            return;
        };
        // A tunnel has no end.
        run.bodyless = answer.bodyless
            || answer.state().is_none()
            || answer.status == StatusCode::SWITCHING_PROTOCOLS;
        run.ended = run.bodyless;
        run.answer(answer, Given::Start);
    }

    fn wants(&self) -> Wants {
        let mut wants = Wants::NONE;
        for script in self.default.iter().chain(self.named.values()) {
            script.note(&mut wants);
        }
        wants
    }
}
