//! What good tokens, and bad ones, leave behind.

use causeway_xds::resource::metadata::MetadataValue;
use http::request::Parts;

use super::provider::Provider;
use super::requirement::Found;
use super::status::Status;
use super::token::object_metadata;

/// Tells the upstream, and takes the tokens out that are not to go on.
pub fn apply(found: &Found, providers: &[Provider], request: &mut Parts) {
    for good in &found.good {
        let provider = &providers[good.provider];
        if !provider.forward {
            let (of, place) = good.place;
            providers[of].places[place].remove(&mut request.headers, &mut request.uri);
        }
    }
    for good in &found.good {
        providers[good.provider].tell(&good.token, &mut request.headers);
    }
}

/// Whether the route has to be chosen again.
pub fn reroutes(found: &Found, providers: &[Provider]) -> bool {
    let mut good = found.good.iter();
    good.any(|good| providers[good.provider].reroutes())
}

/// The fields of the filter's dynamic metadata.
pub fn metadata(found: &Found, providers: &[Provider]) -> Vec<(String, MetadataValue)> {
    let mut fields = Vec::new();
    for good in &found.good {
        let provider = &providers[good.provider];
        if let Some(key) = &provider.payload_in_metadata {
            let payload = provider.normalized(&good.token.payload);
            fields.push((key.clone(), object_metadata(&payload)));
        }
        if let Some(key) = &provider.header_in_metadata {
            fields.push((key.clone(), object_metadata(&good.token.header)));
        }
    }
    for (provider, status) in &found.failed {
        if let Some(key) = &providers[*provider].failed_in_metadata {
            fields.push((key.clone(), failure(*status)));
        }
    }
    fields
}

fn failure(status: Status) -> MetadataValue {
    MetadataValue::Object(vec![
        ("code".into(), MetadataValue::Number(status.code().into())),
        ("message".into(), MetadataValue::Text(status.text().into())),
    ])
}
