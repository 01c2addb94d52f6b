//! Redirects: message to typed.

use super::{Redirect, RedirectPath};
use crate::proto::route::RedirectAction;
use crate::proto::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use crate::reject::Invalid;
use crate::resource::context::{At, Context, enumeration};
use crate::resource::headers::header_value;
use crate::resource::matcher::substitution;

impl Redirect {
    pub(crate) fn decode(message: RedirectAction, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = message;
        header_value(&host_redirect).at("host_redirect")?;
        let scheme = match scheme_rewrite_specifier {
            None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => decode_scheme(scheme)?,
        };
        let port = u16::try_from(port_redirect)
            .map_err(|_| Invalid::at("port_redirect", format!("{port_redirect} is above 65535")))?;
        Ok(Self {
            scheme,
            host: (!host_redirect.is_empty()).then_some(host_redirect),
            port: (port != 0).then_some(port),
            path: path_rewrite_specifier.map_or(Ok(RedirectPath::Keep), |path| {
                RedirectPath::decode(path, ctx)
            })?,
            status: match enumeration(response_code, "response_code")? {
                RedirectResponseCode::MovedPermanently => 301,
                RedirectResponseCode::Found => 302,
                RedirectResponseCode::SeeOther => 303,
                RedirectResponseCode::TemporaryRedirect => 307,
                RedirectResponseCode::PermanentRedirect => 308,
            },
            strip_query,
        })
    }
}

/// RFC 3986 section 3.1. Empty is the same as not given.
fn decode_scheme(scheme: String) -> Result<Option<String>, Invalid> {
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_none_or(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !valid {
        return Err(Invalid::at(
            "scheme_redirect",
            format!("{scheme:?} is not a scheme"),
        ));
    }
    Ok((!scheme.is_empty()).then(|| scheme.to_ascii_lowercase()))
}

impl RedirectPath {
    fn decode(message: PathRewriteSpecifier, ctx: &Context<'_>) -> Result<Self, Invalid> {
        match message {
            PathRewriteSpecifier::PathRedirect(path) => {
                header_value(&path).at("path_redirect")?;
                Ok(if path.is_empty() {
                    Self::Keep
                } else {
                    Self::Path(path)
                })
            }
            PathRewriteSpecifier::PrefixRewrite(prefix) => {
                header_value(&prefix).at("prefix_rewrite")?;
                Ok(if prefix.is_empty() {
                    Self::Keep
                } else {
                    Self::Prefix(prefix)
                })
            }
            PathRewriteSpecifier::RegexRewrite(regex) => {
                let (pattern, substitution) = substitution(regex, ctx).at("regex_rewrite")?;
                Ok(Self::Regex {
                    pattern,
                    substitution,
                })
            }
            PathRewriteSpecifier::PathRewrite(_) => {
                Err(Invalid::at("path_rewrite", "not supported yet"))
            }
        }
    }
}
