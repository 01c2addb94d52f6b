//! From `Any` to [`Resource`].

use std::sync::Arc;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::address::Address;
use super::context::{Context, fault, unpack};
use super::{Cluster, FilterConfig, Listener, LoadAssignment, Raw, Resource};
use super::{HostSource, RouteConfiguration, Secret, VirtualHost};
use crate::extension::Extensions;
use crate::proto::{self, Any};
use crate::reject::{Invalid, Rejected};
use crate::type_url::ResourceType;

/// A resource, and the fields of it that were set without having any effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub resource: Resource,
    /// Entries of [`super::IGNORED`], sorted.
    pub ignored: Vec<&'static str>,
}

/// Decodes and validates a resource.
///
/// A virtual host that is a resource of its own is expected to carry its resource name,
/// `<route configuration>/<virtual host>`, as its name; see [`decode_named`] for one that does not.
///
/// # Errors
///
/// [`Rejected`] names the resource, the field, and the reason.
pub fn decode(any: &Any, extensions: &dyn Extensions) -> Result<Resource, Rejected> {
    decode_noting(any, None, extensions).map(|decoded| decoded.resource)
}

/// As [`decode`], for a resource that was delivered under a name (the incremental protocol and the
/// `Resource` wrapper do that).
///
/// # Errors
///
/// As [`decode`], and when the resource calls itself something else. A virtual host may: VHDS names
/// the resource, not the virtual host.
pub fn decode_named(
    name: &str,
    any: &Any,
    extensions: &dyn Extensions,
) -> Result<Resource, Rejected> {
    decode_noting(any, Some(name), extensions).map(|decoded| decoded.resource)
}

/// As [`decode`] (or [`decode_named`], when a name is given), with the list of ignored fields.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_noting(
    any: &Any,
    name: Option<&str>,
    extensions: &dyn Extensions,
) -> Result<Decoded, Rejected> {
    let Some(kind) = ResourceType::from_type_url(&any.type_url) else {
        // No kind of ours: report it under the one the text can stand beside.
        let reason = format!("resource type {:?} is not supported", any.type_url);
        let name = name.unwrap_or_default();
        return Err(Rejected::new(ResourceType::Listener, name, fault(reason)));
    };
    let reject = |invalid| {
        let own = || effective_name(kind, any).unwrap_or_default();
        Rejected::new(kind, name.map_or_else(own, str::to_owned), invalid)
    };
    let ctx = Context::new(extensions);
    let resource = decode_as(kind, any, name, &ctx).map_err(reject)?;
    match name {
        Some(given) if given != resource.name() => Err(reject(fault(format!(
            "was delivered under the name {given:?} but is named {:?}",
            resource.name()
        )))),
        _ => Ok(Decoded {
            resource,
            ignored: ctx.into_ignored(),
        }),
    }
}

/// As [`decode_noting`] without a name, when there is an earlier version: what did not change in it is
/// taken from there, the very same.
///
/// # Errors
///
/// As [`decode`].
pub fn decode_again(
    any: &Any,
    earlier: (&Raw, &Resource, &[&'static str]),
    extensions: &dyn Extensions,
) -> Result<Decoded, Rejected> {
    let (raw, resource, ignored) = earlier;
    if let Resource::RouteConfiguration(routes) = resource {
        let ctx = Context::new(extensions);
        let bytes = raw.bytes();
        let earlier = (&*bytes, &**routes, ignored);
        if let Some(mut routes) = RouteConfiguration::decode_again(&any.value, earlier, &ctx)
            && !routes.name.is_empty()
        {
            routes.filter_secrets = ctx.take_secrets();
            return Ok(Decoded {
                resource: Resource::RouteConfiguration(Arc::new(routes)),
                ignored: ctx.into_ignored(),
            });
        }
    }
    decode_noting(any, None, extensions)
}

fn decode_as(
    kind: ResourceType,
    any: &Any,
    name: Option<&str>,
    ctx: &Context<'_>,
) -> Result<Resource, Invalid> {
    Ok(match kind {
        ResourceType::Listener => {
            let mut listener = Listener::decode(unpack::<proto::Listener>(any)?, ctx)?;
            listener.filter_secrets = ctx.take_secrets();
            Resource::Listener(Arc::new(listener))
        }
        ResourceType::RouteConfiguration => {
            let message: proto::RouteConfiguration = unpack(any)?;
            if message.name.is_empty() {
                return Err(Invalid::at("name", "must not be empty"));
            }
            let mut routes = RouteConfiguration::decode(message, ctx)?;
            routes.filter_secrets = ctx.take_secrets();
            Resource::RouteConfiguration(Arc::new(routes))
        }
        ResourceType::VirtualHost => {
            let message: proto::VirtualHost = unpack(any)?;
            let name: Arc<str> = name.unwrap_or(&message.name).into();
            if super::route::split_virtual_host_name(&name).is_none() {
                return Err(Invalid::at(
                    "name",
                    "must be <route configuration>/<virtual host>, neither of them empty",
                ));
            }
            let host = Arc::new(VirtualHost::decode_alone(message, ctx)?);
            let host = HostSource::Decoded(host);
            Resource::VirtualHost { name, host }
        }
        ResourceType::Cluster => Resource::Cluster(Arc::new(Cluster::decode(
            unpack::<proto::Cluster>(any)?,
            ctx,
        )?)),
        ResourceType::LoadAssignment => {
            let message: proto::ClusterLoadAssignment = unpack(any)?;
            Resource::LoadAssignment(Arc::new(LoadAssignment::decode(message, ctx)?))
        }
        ResourceType::FilterConfig => Resource::FilterConfig(Arc::new(FilterConfig::decode(
            unpack::<proto::core::TypedExtensionConfig>(any)?,
            ctx,
        )?)),
        ResourceType::Secret => Resource::Secret(Arc::new(Secret::decode(
            unpack::<proto::Secret>(any)?,
            ctx,
        )?)),
    })
}

/// The name that a packed resource has: [`resource_name`], or for a listener without one its address,
/// so that an unchanged listener is the same one in the next version (Envoy invents a name).
///
/// `None` when the bytes do not even tell that.
pub fn effective_name(kind: ResourceType, any: &Any) -> Option<String> {
    let name = resource_name(any)?;
    if kind != ResourceType::Listener || !name.is_empty() {
        return Some(name);
    }
    // A wrong address has its own refusal, which the decoder is better at.
    let address = unpack::<proto::Listener>(any).ok()?.address;
    let literal = address.and_then(|address| Address::decode_literal(address).ok());
    Some(literal.map_or(name, |address| address.to_string()))
}

/// The name that a packed resource gives itself, without decoding the rest; `None` when the bytes
/// do not even tell that.
///
/// Every kind we know keeps its name in field 1, so one pass that skips everything else finds it,
/// also in a resource whose inner messages are broken.
pub fn resource_name(any: &Any) -> Option<String> {
    name_in(any).map(str::to_owned)
}

/// As [`resource_name`], in place.
pub fn name_in(any: &Any) -> Option<&str> {
    const NAME: u32 = 1;
    let mut rest = any.value.as_slice();
    let mut name = "";
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        if tag != NAME {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let (bytes, after) = rest.split_at_checked(length)?;
        name = str::from_utf8(bytes).ok()?;
        rest = after;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::testing::{Known, certificate, listener, manager, routes, to};
    use crate::resource::testing::{any, cluster, forward, host, with_manager};
    use crate::type_url::{PREFIX, pack};

    #[test]
    fn an_unknown_kind_is_refused() {
        let rejected = decode(&any("test.Runtime", b""), &Known).unwrap_err();
        let expected =
            "listener \"\": resource type \"type.googleapis.com/test.Runtime\" is not supported";
        assert_eq!(rejected.to_string(), expected);
    }

    #[test]
    fn a_resource_that_does_not_parse_is_named_all_the_same() {
        let mut message = pack(&cluster());
        // Field 4, connect_timeout, with a length that its bytes do not have.
        message.value.extend([0x22, 0x02, 0x08]);
        message.value.push(0x80);
        let rejected = decode(&message, &Known).unwrap_err();
        assert_eq!(rejected.name, "app");
        assert!(
            rejected
                .invalid
                .to_string()
                .starts_with("bytes do not parse: ")
        );
    }

    /// No bytes may make a decoder panic; what they lead to is another matter.
    #[test]
    fn damaged_messages_never_panic() {
        let inline = proto::HttpConnectionManager {
            route_specifier: Some(
                proto::hcm::http_connection_manager::RouteSpecifier::RouteConfig(routes(host(to(
                    forward(),
                )))),
            ),
            ..manager()
        };
        let secret = proto::tls::Secret {
            name: "s".into(),
            r#type: Some(proto::tls::secret::Type::TlsCertificate(certificate())),
        };
        let whole = [
            pack(&listener()),
            pack(&with_manager(inline)),
            pack(&cluster()),
            pack(&routes(host(to(forward())))),
            pack(&secret),
        ];
        let mut state = 1_u64;
        let mut random = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % bound
        };
        for _ in 0..20_000 {
            let mut message = whole[random(whole.len())].clone();
            for _ in 0..=random(4) {
                let at = random(message.value.len());
                message.value[at] = random(256) as u8;
            }
            message.value.truncate(message.value.len() - random(3));
            if random(8) == 0 {
                let kind = ResourceType::ALL[random(ResourceType::ALL.len())];
                message.type_url = format!("{PREFIX}{}", kind.message_name());
            }
            let _ = decode(&message, &Known);
        }
    }
}
