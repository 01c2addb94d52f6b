//! `proxy_status_config` and `scheme_header_transformation`: message to typed.

use super::{ProxyName, ProxyStatus, SchemeRule};
use crate::proto::core::SchemeHeaderTransformation;
use crate::proto::core::scheme_header_transformation::Transformation;
use crate::proto::hcm::http_connection_manager::ProxyStatusConfig;
use crate::proto::hcm::http_connection_manager::proxy_status_config;
use crate::reject::Invalid;

impl ProxyStatus {
    pub(super) fn decode(message: ProxyStatusConfig) -> Result<Self, Invalid> {
        let ProxyStatusConfig {
            remove_details,
            // Nothing is known of it beside the details.
            remove_connection_termination_details: _,
            remove_response_flags,
            set_recommended_response_code,
            proxy_name,
        } = message;
        use proxy_status_config::ProxyName as Name;
        let name = match proxy_name {
            None | Some(Name::UseNodeId(false)) => ProxyName::Server,
            Some(Name::UseNodeId(true)) => ProxyName::Node,
            Some(Name::LiteralProxyName(name)) if is_printable(&name) => ProxyName::Literal(name),
            Some(Name::LiteralProxyName(_)) => {
                let reason = "must be printable ASCII, and not empty";
                return Err(Invalid::at("literal_proxy_name", reason));
            }
        };
        Ok(Self {
            name,
            details: !remove_details,
            flags: !remove_response_flags,
            recommended_status: set_recommended_response_code,
        })
    }
}

/// What a string of structured fields can hold (RFC 9651 section 3.3.3).
fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

impl SchemeRule {
    pub(super) fn decode(message: SchemeHeaderTransformation) -> Result<Self, Invalid> {
        let SchemeHeaderTransformation {
            match_upstream,
            transformation,
        } = message;
        Ok(match transformation {
            None if match_upstream => Self::Upstream,
            None => Self::Keep,
            Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
                "http" => Self::Http,
                "https" => Self::Https,
                _ => {
                    let reason = format!("{scheme:?} is neither http nor https");
                    return Err(Invalid::at("scheme_to_overwrite", reason));
                }
            },
        })
    }
}
