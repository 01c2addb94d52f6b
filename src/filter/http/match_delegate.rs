//! `envoy.filters.http.match_delegate`: whether a request gets a filter, or which one, by a tree of matchers.
//!
//! Configuration: `envoy.extensions.common.matching.v3.ExtensionWithMatcher` around the configuration of
//! another filter, which `SkipFilter` leaves out; or around that of a [`super::composite`]. Routes may
//! have another tree. It is asked once, when the request gets here; what it says holds for the response as
//! well.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::TypedExtensionConfig;
use causeway_xds::proto::envoy::extensions::common::matching::v3 as matching;
use causeway_xds::proto::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use causeway_xds::proto::envoy::extensions::filters::http::composite::v3 as proto;
use causeway_xds::proto::xds::r#type::matcher::v3::Matcher;
use causeway_xds::proto::{Any, Message};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::matcher::tree as model;
use causeway_xds::resource::parts::{self, At, required, unknown_type, unpack};
use causeway_xds::type_url::message_name;

use super::super::registry::{Context, built, decode};
use super::super::rules::{Left, Subject};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use super::composite;
use crate::formatter::Wants;
use crate::matching::tree::{Input, Tree};
use crate::route::RouteConfig;
use crate::route::fraction::Share;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
    name: "envoy.filters.http.match_delegate",
    build,
    per_route: &[(
        "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute",
        build_per_route,
    )],
};

const SKIP: &str = "envoy.extensions.filters.common.matcher.action.v3.SkipFilter";
const EXECUTE: &str = "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction";

/// A filter that is chosen.
#[derive(Debug)]
pub struct Chosen {
    choice: Option<Choice>,
    /// What requests get that the tree leads nowhere. `None`: nothing, as of a composite.
    filter: Option<Arc<dyn HttpFilter>>,
    wants: Wants,
}

/// A tree, and what it leads to.
#[derive(Debug)]
pub struct Choice {
    tree: Tree<Action>,
    wants: Wants,
}

#[derive(Clone, Debug)]
enum Action {
    Skip,
    Execute(Execute),
}

#[derive(Clone, Debug)]
struct Execute {
    filter: Arc<dyn HttpFilter>,
    /// `None`: of all that are led here.
    share: Option<Arc<Share>>,
}

impl Choice {
    pub fn decode(message: Matcher, context: &Context) -> Result<Self, Invalid> {
        let mut wants = Wants::NONE;
        let allowed = |input: &Input| !input.is_of_response();
        let tree = model::Tree::decode(message, allowed, |any| {
            let action = Action::decode(&any, context)?;
            if let Action::Execute(execute) = &action {
                wants.merge(&execute.filter.wants());
            }
            Ok(action)
        })?;
        Ok(Self {
            tree: Tree::compile(&tree, &mut Action::clone),
            wants,
        })
    }
}

impl Action {
    fn decode(any: &Any, context: &Context) -> Result<Self, Invalid> {
        match message_name(&any.type_url) {
            SKIP => unpack::<SkipFilter>(any).map(|SkipFilter {}| Self::Skip),
            EXECUTE => Execute::decode(unpack(any)?, context).map(Self::Execute),
            _ => Err(unknown_type(&any.type_url)),
        }
    }
}

impl Execute {
    fn decode(message: proto::ExecuteFilterAction, context: &Context) -> Result<Self, Invalid> {
        let proto::ExecuteFilterAction {
            typed_config,
            dynamic_config,
            filter_chain,
            filter_chain_name,
            sample_percent,
        } = message;
        refuse!(dynamic_config, filter_chain, filter_chain_name);
        let share = sample_percent.map(parts::runtime_fraction).transpose();
        let share = share.at("sample_percent")?;
        Ok(Self {
            filter: within(required(typed_config, "typed_config")?, context).at("typed_config")?,
            share: share.map(|share| Arc::new(Share::compile(&share, &context.layers))),
        })
    }
}

/// A filter to choose. One choice does not stand in another, so that there is an end to it.
fn within(config: TypedExtensionConfig, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let TypedExtensionConfig { name, typed_config } = config;
    let config = TypedExtension::from_any(name, required(typed_config, "typed_config")?);
    if is_choice(&config) {
        return Err(unknown_type(&config.type_url)).at("typed_config");
    }
    let filter = built(&config, context).at("typed_config")?;
    if filter.renders() {
        // Failures are rendered for the chain, wherever they happen.
        return Err(Invalid::at(
            "typed_config",
            "acts on the whole chain and cannot be chosen",
        ));
    }
    Ok(filter)
}

fn is_choice(config: &TypedExtension) -> bool {
    [FACTORY.message, composite::FACTORY.message].contains(&config.message_name())
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    #[expect(deprecated, reason = "named so that it is refused")]
    let matching::ExtensionWithMatcher {
        matcher,
        xds_matcher,
        extension_config,
    } = decode(config)?;
    refuse!(matcher);
    let choice = xds_matcher.map(|tree| Choice::decode(tree, context));
    let choice = choice.transpose().at("xds_matcher")?;
    let inner = required(extension_config, "extension_config")?;
    let any = inner.typed_config.as_ref();
    let filter = match any.filter(|any| message_name(&any.type_url) == composite::FACTORY.message) {
        Some(any) => {
            let message: proto::Composite = unpack(any).at("extension_config.typed_config")?;
            let own = composite::choice(message, context).at("extension_config.typed_config")?;
            if own.is_some() {
                let field = "extension_config.typed_config.matcher";
                return Err(Invalid::at(field, "is given together with xds_matcher"));
            }
            None
        }
        None => Some(within(inner, context).at("extension_config")?),
    };
    Ok(Arc::new(Chosen::new(choice, filter)))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let matching::ExtensionWithMatcherPerRoute { xds_matcher } = decode(config)?;
    of_route(xds_matcher, "xds_matcher", context)
}

/// What a route says to a choice.
pub fn of_route(
    tree: Option<Matcher>,
    field: &str,
    context: &Context,
) -> Result<RouteConfig, Invalid> {
    let choice = Choice::decode(required(tree, field)?, context).at(field)?;
    let wants = choice.wants.clone();
    Ok(RouteConfig::new(choice).wanting(wants))
}

/// The configurations of other filters in that of a choice, or in what a route says to one.
pub fn inner(config: &TypedExtension) -> Vec<TypedExtension> {
    let mut found = Vec::new();
    let trees = match config.message_name() {
        name if name == FACTORY.message => {
            let message = decode::<matching::ExtensionWithMatcher>(config).unwrap_or_default();
            found.extend(message.extension_config.and_then(|c| c.typed_config));
            message.xds_matcher
        }
        name if name == FACTORY.per_route[0].0 => {
            decode::<matching::ExtensionWithMatcherPerRoute>(config)
                .ok()
                .and_then(|message| message.xds_matcher)
        }
        name if name == composite::FACTORY.message => decode::<proto::Composite>(config)
            .ok()
            .and_then(|message| message.matcher),
        name if name == composite::FACTORY.per_route[0].0 => {
            decode::<proto::CompositePerRoute>(config)
                .ok()
                .and_then(|message| message.matcher)
        }
        _ => None,
    };
    if let Some(tree) = trees {
        // Its inputs are checked elsewhere.
        let tree = model::Tree::decode(
            tree,
            |_| true,
            |any| {
                if message_name(&any.type_url) == EXECUTE
                    && let Ok(message) = proto::ExecuteFilterAction::decode(&*any.value)
                {
                    found.extend(message.typed_config.and_then(|c| c.typed_config));
                }
                Ok(())
            },
        );
        drop(tree);
    }
    let found = found
        .into_iter()
        .map(|any| TypedExtension::from_any("", any));
    found.filter(|config| !is_choice(config)).collect()
}

impl Chosen {
    pub fn new(choice: Option<Choice>, filter: Option<Arc<dyn HttpFilter>>) -> Self {
        let mut wants = Wants::NONE;
        if let Some(choice) = &choice {
            wants.merge(&choice.wants);
        }
        if let Some(filter) = &filter {
            wants.merge(&filter.wants());
        }
        Self {
            choice,
            filter,
            wants,
        }
    }

    fn choose<'c>(&'c self, stream: &'c Stream<'_>) -> Option<&'c Arc<dyn HttpFilter>> {
        let choice = stream.route_config::<Choice>().or(self.choice.as_ref());
        let left = Left(stream);
        let subject = Subject::of(stream, &left);
        let action = choice.and_then(|choice| choice.tree.find(&subject));
        match (action, &self.filter) {
            (Some(Action::Skip), _) => None,
            // Other filters do not know what it means to be told to do something else.
            (_, Some(filter)) => Some(filter),
            (Some(Action::Execute(execute)), None) => {
                let share = execute.share.as_ref();
                let taken = share.is_none_or(|share| share.takes(fastrand::u64(..)));
                taken.then_some(&execute.filter)
            }
            (None, None) => None,
        }
    }
}

impl HttpFilter for Chosen {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let chosen = self.choose(stream).cloned();
        stream.choose(chosen.clone());
        chosen.map_or(Flow::Continue, |filter| filter.request(stream))
    }

    fn response(&self, answer: &mut Answer<'_>) {
        match answer.chosen() {
            Some(Some(filter)) => filter.response(answer),
            Some(None) => {}
            // The answer was made before the request got here.
            None => {
                if let Some(filter) = &self.filter {
                    filter.response(answer);
                }
            }
        }
    }

    fn wants(&self) -> Wants {
        self.wants.clone()
    }

    fn wants_target(&self) -> bool {
        // Of what routes may choose nothing is known here.
        true
    }
}

#[cfg(test)]
mod tests;
