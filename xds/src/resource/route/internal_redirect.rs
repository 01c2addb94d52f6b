//! Redirects that are followed here and not by the client: message to typed.

use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::extensions::internal_redirect as predicates;
use crate::proto::route::InternalRedirectPolicy;
use crate::reject::Invalid;
use crate::resource::context::{At, each, fault, required, unknown_type, unpack};
use crate::resource::headers::editable_name;
use crate::type_url::message_name;

use predicates::allow_listed_routes::v3::AllowListedRoutesConfig;
use predicates::previous_routes::v3::PreviousRoutesConfig;
use predicates::safe_cross_scheme::v3::SafeCrossSchemeConfig;

const PACKAGE: &str = "envoy.extensions.internal_redirect.";

/// `envoy.config.route.v3.InternalRedirectPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalRedirect {
    /// `max_internal_redirects`: of one request, on all of its routes. Default 1.
    pub max: u32,
    /// `redirect_response_codes`, those of them that are redirects. Default 302.
    pub codes: Vec<u16>,
    /// All of them must agree.
    pub predicates: Vec<RedirectPredicate>,
    /// `allow_cross_scheme_redirect`.
    pub cross_scheme: bool,
    /// What the request takes over from the answer, in lower case (`response_headers_to_copy`).
    pub copied: Vec<String>,
}

/// Who has a say in where a redirect may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Nowhere that this route has led the request before (`PreviousRoutesConfig`).
    PreviousRoutes,
    /// To the routes of these names only (`AllowListedRoutesConfig`).
    AllowListedRoutes(Vec<String>),
    /// Not from a connection in clear text to `https` (`SafeCrossSchemeConfig`).
    SafeCrossScheme,
}

impl InternalRedirect {
    pub(super) fn decode(message: InternalRedirectPolicy) -> Result<Self, Invalid> {
        const CODES: &str = "redirect_response_codes";
        const COPIED: &str = "response_headers_to_copy";
        const MAX_CODES: usize = 5;
        let InternalRedirectPolicy {
            max_internal_redirects,
            redirect_response_codes,
            predicates,
            allow_cross_scheme_redirect,
            response_headers_to_copy,
        } = message;
        if redirect_response_codes.len() > MAX_CODES {
            return Err(Invalid::at(CODES, format!("has more than {MAX_CODES}")));
        }
        let codes = match redirect_response_codes[..] {
            [] => vec![302],
            // As documented for the field: what is no redirect is passed over.
            ref codes => [301, 302, 303, 307, 308]
                .into_iter()
                .filter(|code| codes.contains(&u32::from(*code)))
                .collect(),
        };
        let copied = each(COPIED, response_headers_to_copy, copied_name)?;
        for (index, name) in copied.iter().enumerate() {
            if copied[..index].contains(name) {
                return Err(Invalid::at(COPIED, format!("{name:?} is given twice")));
            }
        }
        Ok(Self {
            max: max_internal_redirects.map_or(1, |max| max.value),
            codes,
            predicates: each("predicates", predicates, RedirectPredicate::decode)?,
            cross_scheme: allow_cross_scheme_redirect,
            copied,
        })
    }
}

/// The name of a field that may go from an answer into a request.
fn copied_name(name: String) -> Result<String, Invalid> {
    let name = editable_name(name)?;
    match name.as_str() {
        "content-length" | "transfer-encoding" => {
            Err(fault(format!("{name:?} is about the framing of a message")))
        }
        _ => Ok(name),
    }
}

impl RedirectPredicate {
    fn decode(message: TypedExtensionConfig) -> Result<Self, Invalid> {
        const FIELD: &str = "typed_config";
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = message;
        let any = required(typed_config, FIELD)?;
        match message_name(&any.type_url).strip_prefix(PACKAGE) {
            Some("previous_routes.v3.PreviousRoutesConfig") => {
                unpack(&any).map(|PreviousRoutesConfig {}| Self::PreviousRoutes)
            }
            Some("allow_listed_routes.v3.AllowListedRoutesConfig") => unpack(&any).map(|config| {
                let AllowListedRoutesConfig {
                    allowed_route_names,
                } = config;
                Self::AllowListedRoutes(allowed_route_names)
            }),
            Some("safe_cross_scheme.v3.SafeCrossSchemeConfig") => {
                unpack(&any).map(|SafeCrossSchemeConfig {}| Self::SafeCrossScheme)
            }
            _ => Err(unknown_type(&any.type_url)),
        }
        .at(FIELD)
    }
}
