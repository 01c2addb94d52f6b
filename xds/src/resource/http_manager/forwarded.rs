//! `original_ip_detection_extensions`: message to typed.

use super::{Detection, Forwarded, Trusted};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use crate::proto::envoy::extensions::http::original_ip_detection::xff::v3::{
    XffConfig, XffTrustedCidrs,
};
use crate::reject::Invalid;
use crate::resource::address::network;
use crate::resource::context::{At, each, flag, not_empty, required, unknown_type, unpack};
use crate::resource::headers::header_name;
use crate::type_url::message_name;

const FIELD: &str = "original_ip_detection_extensions";
const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
const HEADER: &str =
    "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig";

impl Forwarded {
    /// Adds the extension, if there is one.
    pub(super) fn detecting(
        mut self,
        extensions: Vec<TypedExtensionConfig>,
    ) -> Result<Self, Invalid> {
        let mut decoded = each(FIELD, extensions, decode)?;
        if decoded.len() > 1 {
            let at = format!("{FIELD}[1]");
            return Err(Invalid::at(at, "more than one is not supported yet"));
        }
        self.detection = decoded.pop();
        // Each of them is a way of its own to find the client.
        for (also, name) in [
            (self.use_remote_address, "use_remote_address"),
            (self.xff_num_trusted_hops > 0, "xff_num_trusted_hops"),
        ] {
            if also && self.detection.is_some() {
                return Err(Invalid::at(name, format!("is given together with {FIELD}")));
            }
        }
        Ok(self)
    }
}

fn decode(message: TypedExtensionConfig) -> Result<Detection, Invalid> {
    let TypedExtensionConfig { name, typed_config } = message;
    not_empty(name, "name")?;
    let any = required(typed_config, "typed_config")?;
    let decoded = match message_name(&any.type_url) {
        XFF => unpack(&any).and_then(Detection::decode),
        HEADER => unpack(&any).and_then(Detection::of_header),
        _ => Err(unknown_type(&any.type_url)),
    };
    decoded.at("typed_config")
}

impl Detection {
    fn of_header(message: CustomHeaderConfig) -> Result<Self, Invalid> {
        let CustomHeaderConfig {
            header_name: name,
            allow_extension_to_set_address_as_trusted: internal,
            reject_with_status,
        } = message;
        // What is no refusal stands for the usual one, as the message definition says.
        let status = |code: i32| {
            let code = u16::try_from(code).ok();
            code.filter(|code| (400..=511).contains(code))
                .unwrap_or(403)
        };
        Ok(Self {
            trusted: Trusted::Header {
                name: header_name(&name).at("header_name")?,
                internal,
                otherwise: reject_with_status.map(|told| status(told.code)),
            },
            append: true,
        })
    }

    fn decode(message: XffConfig) -> Result<Self, Invalid> {
        let XffConfig {
            xff_num_trusted_hops,
            xff_trusted_cidrs,
            skip_xff_append,
        } = message;
        let trusted = match xff_trusted_cidrs {
            None => Trusted::Hops(xff_num_trusted_hops),
            Some(_) if xff_num_trusted_hops > 0 => {
                return Err(Invalid::at(
                    "xff_trusted_cidrs",
                    "is given together with xff_num_trusted_hops",
                ));
            }
            Some(XffTrustedCidrs { cidrs }) => {
                let networks = each("cidrs", cidrs, network).at("xff_trusted_cidrs")?;
                Trusted::Networks(networks)
            }
        };
        Ok(Self {
            trusted,
            append: !flag(skip_xff_append, true),
        })
    }
}
