//! `early_header_mutation_extensions`: message to typed.

use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::extensions::http::early_header_mutation::header_mutation::v3 as proto;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, each, required, unknown_type, unpack};
use crate::resource::headers::HeaderMutation;
use crate::type_url::message_name;

const FIELD: &str = "early_header_mutation_extensions";
const TYPE: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

pub(super) fn decode(
    extensions: Vec<TypedExtensionConfig>,
    ctx: &Context<'_>,
) -> Result<Vec<HeaderMutation>, Invalid> {
    let mutations = each(FIELD, extensions, |extension| {
        let any = required(extension.typed_config, "typed_config")?;
        if message_name(&any.type_url) != TYPE {
            return Err(unknown_type(&any.type_url)).at("typed_config");
        }
        let proto::HeaderMutation { mutations } = unpack(&any).at("typed_config")?;
        let decode = |message| HeaderMutation::decode(message, ctx);
        each("mutations", mutations, decode).at("typed_config")
    })?;
    Ok(mutations.into_iter().flatten().collect())
}
