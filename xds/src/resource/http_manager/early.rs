//! `early_header_mutation_extensions`: message to typed.

use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use crate::proto::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use crate::proto::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use crate::reject::Invalid;
use crate::resource::context::{At, each, required, unknown_type, unpack};
use crate::resource::headers::{EditLists, HeaderEdit, HeaderEdits, editable_name};
use crate::type_url::message_name;

const FIELD: &str = "early_header_mutation_extensions";
const TYPE: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

/// Each mutation is a level of its own: a later one sees what an earlier one did.
pub(super) fn decode(extensions: Vec<TypedExtensionConfig>) -> Result<Vec<HeaderEdits>, Invalid> {
    let edits = each(FIELD, extensions, |extension| {
        let any = required(extension.typed_config, "typed_config")?;
        if message_name(&any.type_url) != TYPE {
            return Err(unknown_type(&any.type_url)).at("typed_config");
        }
        let HeaderMutation { mutations } = unpack(&any).at("typed_config")?;
        each("mutations", mutations, mutation).at("typed_config")
    })?;
    Ok(edits.into_iter().flatten().collect())
}

fn mutation(message: Mutation) -> Result<HeaderEdits, Invalid> {
    let mut edits = EditLists::default();
    match required(message.action, "action")? {
        Action::Remove(name) => edits.request_remove.push(editable_name(name).at("remove")?),
        Action::Append(option) => edits
            .request_add
            .push(HeaderEdit::decode(option).at("append")?),
        Action::RemoveOnMatch(_) => {
            return Err(Invalid::at("remove_on_match", "not supported yet"));
        }
    }
    Ok(edits.into())
}
