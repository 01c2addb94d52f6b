//! Whom names are asked of: `typed_dns_resolver_config`, and the older fields for the same.

use std::net::SocketAddr;
use std::time::Duration;

use super::address::Address;
use super::context::{At, Context, accept, each, fault, number, required, unknown_type, unpack};
use crate::extension::Unchecked;
use crate::proto::core::socket_address::Protocol;
use crate::proto::core::{self, DnsResolutionConfig, DnsResolverOptions, TypedExtensionConfig};
use crate::proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use crate::proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use crate::reject::Invalid;
use crate::type_url::message_name;

const CARES: &str = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
const SYSTEM: &str =
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig";
/// Of DNS, for servers whose port is 0.
const PORT: u16 = 53;
/// Longer waits and more tries than these would hold up a refresh for hours.
const MOST: u32 = 3600;

/// Whom names are asked of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsResolver {
    /// The system, which asks whatever it is set up with (`GetAddrInfoDnsResolverConfig`).
    System,
    /// Servers of DNS, without the system (`CaresDnsResolverConfig`).
    Servers(DnsServers),
}

/// Servers of DNS and how they are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsServers {
    /// In the order in which they are tried. Empty: those of `/etc/resolv.conf` (`resolvers`).
    pub addresses: Vec<SocketAddr>,
    /// `addresses` are asked only where `/etc/resolv.conf` has none (`use_resolvers_as_fallback`).
    pub as_fallback: bool,
    /// No address of a family is taken that no interface but loopback has
    /// (`filter_unroutable_families`).
    pub routable_only: bool,
    /// TCP from the first question on, and not only after an answer that was cut
    /// (`use_tcp_for_dns_lookups`).
    pub tcp_only: bool,
    /// Names are asked as they are, without the search domains of the system
    /// (`no_default_search_domain`).
    pub no_search: bool,
    /// What one server has for one try. Default 5 s (`query_timeout_seconds`).
    pub timeout: Duration,
    /// How often each server is tried. Default 4 (`query_tries`).
    pub tries: u32,
    /// Each lookup begins with another server (`rotate_nameservers`).
    pub rotate: bool,
    /// The largest answer over UDP that is asked for, in bytes, 512 to 4096. Default 1232
    /// (`edns0_max_payload_size`).
    pub payload: u16,
}

impl Default for DnsServers {
    /// The servers of the system.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            as_fallback: false,
            routable_only: false,
            tcp_only: false,
            no_search: false,
            timeout: Duration::from_secs(5),
            tries: 4,
            rotate: false,
            payload: 1232,
        }
    }
}

/// The places where a message says whom to ask; of several the first one counts.
#[derive(Default)]
pub struct DnsResolverFields {
    pub typed_dns_resolver_config: Option<TypedExtensionConfig>,
    pub dns_resolution_config: Option<DnsResolutionConfig>,
    pub dns_resolvers: Vec<core::Address>,
    pub use_tcp_for_dns_lookups: bool,
}

impl DnsResolver {
    /// For messages that are no resource; notes the fields without effect. `None` is nobody in
    /// particular.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn read(
        fields: DnsResolverFields,
        ignored: &mut Vec<&'static str>,
    ) -> Result<Option<Self>, Invalid> {
        let ctx = Context::new(&Unchecked);
        let resolver = Self::decode(fields, &ctx)?;
        ignored.extend(ctx.into_ignored());
        Ok(resolver)
    }

    pub(crate) fn decode(
        fields: DnsResolverFields,
        ctx: &Context<'_>,
    ) -> Result<Option<Self>, Invalid> {
        let DnsResolverFields {
            typed_dns_resolver_config,
            dns_resolution_config,
            dns_resolvers,
            use_tcp_for_dns_lookups,
        } = fields;
        if let Some(typed) = typed_dns_resolver_config {
            return Self::typed(typed, ctx)
                .at("typed_dns_resolver_config")
                .map(Some);
        }
        if let Some(DnsResolutionConfig {
            resolvers,
            dns_resolver_options,
        }) = dns_resolution_config
        {
            let read = || {
                if resolvers.is_empty() {
                    return Err(Invalid::at("resolvers", "must not be empty"));
                }
                DnsServers::of(resolvers, "resolvers", dns_resolver_options)
            };
            let servers = read().at("dns_resolution_config")?;
            return Ok(Some(Self::Servers(servers)));
        }
        if dns_resolvers.is_empty() && !use_tcp_for_dns_lookups {
            return Ok(None);
        }
        let options = DnsResolverOptions {
            use_tcp_for_dns_lookups,
            no_default_search_domain: false,
        };
        let servers = DnsServers::of(dns_resolvers, "dns_resolvers", Some(options))?;
        Ok(Some(Self::Servers(servers)))
    }

    fn typed(message: TypedExtensionConfig, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = message;
        const FIELD: &str = "typed_config";
        let any = required(typed_config, FIELD)?;
        match message_name(&any.type_url) {
            CARES => unpack(&any)
                .and_then(|message| DnsServers::decode(message, ctx))
                .map(Self::Servers),
            SYSTEM => unpack(&any).map(|message| {
                let GetAddrInfoDnsResolverConfig {
                    num_retries,
                    num_resolver_threads,
                } = message;
                accept!(ctx, "GetAddrInfoDnsResolverConfig": num_retries, num_resolver_threads);
                Self::System
            }),
            _ => Err(unknown_type(&any.type_url)),
        }
        .at(FIELD)
    }
}

impl DnsServers {
    fn decode(message: CaresDnsResolverConfig, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let CaresDnsResolverConfig {
            resolvers,
            use_resolvers_as_fallback,
            filter_unroutable_families,
            dns_resolver_options,
            udp_max_queries,
            query_timeout_seconds,
            query_tries,
            rotate_nameservers,
            edns0_max_payload_size,
            max_udp_channel_duration,
            reinit_channel_on_timeout,
            qcache_max_ttl,
        } = message;
        accept!(ctx, "CaresDnsResolverConfig":
            udp_max_queries,
            max_udp_channel_duration,
            reinit_channel_on_timeout,
            qcache_max_ttl,
        );
        let default = Self::default();
        let timeout = query_timeout_seconds.map(|seconds| core_number(seconds.value));
        let timeout = number(timeout, "query_timeout_seconds", 1..=MOST)?;
        let payload = number(edns0_max_payload_size, "edns0_max_payload_size", 512..=4096)?;
        Ok(Self {
            as_fallback: use_resolvers_as_fallback,
            routable_only: filter_unroutable_families,
            timeout: timeout.map_or(default.timeout, |s| Duration::from_secs(s.into())),
            tries: number(query_tries, "query_tries", 1..=MOST)?.unwrap_or(default.tries),
            rotate: rotate_nameservers,
            payload: payload
                .and_then(|bytes| u16::try_from(bytes).ok())
                .unwrap_or(default.payload),
            ..Self::of(resolvers, "resolvers", dns_resolver_options)?
        })
    }

    fn of(
        servers: Vec<core::Address>,
        field: &str,
        options: Option<DnsResolverOptions>,
    ) -> Result<Self, Invalid> {
        let DnsResolverOptions {
            use_tcp_for_dns_lookups,
            no_default_search_domain,
        } = options.unwrap_or_default();
        Ok(Self {
            addresses: each(field, servers, server)?,
            tcp_only: use_tcp_for_dns_lookups,
            no_search: no_default_search_domain,
            ..Self::default()
        })
    }
}

/// A wide number as a narrow one, too much as too much.
fn core_number(value: u64) -> crate::proto::UInt32Value {
    crate::proto::UInt32Value {
        value: u32::try_from(value).unwrap_or(u32::MAX),
    }
}

fn server(mut message: core::Address) -> Result<SocketAddr, Invalid> {
    // What is asked is asked over UDP, which may be said, and over TCP, which is what an address
    // says that says nothing.
    if let Some(core::address::Address::SocketAddress(socket)) = &mut message.address
        && socket.protocol == Protocol::Udp as i32
    {
        socket.protocol = Protocol::Tcp as i32;
    }
    match Address::decode_literal(message)? {
        Address::Socket(mut address) => {
            if address.port() == 0 {
                address.set_port(PORT);
            }
            Ok(address)
        }
        _ => Err(fault("must be an IP address and a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Any, Message as _, UInt32Value, UInt64Value};
    use crate::type_url::pack_as;

    fn address(host: &str, port: u32, protocol: Protocol) -> core::Address {
        core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                protocol: protocol as i32,
                address: host.into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
                ..Default::default()
            })),
        }
    }

    fn typed(any: Any) -> DnsResolverFields {
        DnsResolverFields {
            typed_dns_resolver_config: Some(TypedExtensionConfig {
                name: "x".into(),
                typed_config: Some(any),
            }),
            ..Default::default()
        }
    }

    fn cares(message: CaresDnsResolverConfig) -> DnsResolverFields {
        typed(pack_as(&message, CARES))
    }

    fn read(fields: DnsResolverFields) -> Option<DnsServers> {
        match DnsResolver::read(fields, &mut Vec::new()).unwrap()? {
            DnsResolver::Servers(servers) => Some(servers),
            DnsResolver::System => None,
        }
    }

    fn refusal(fields: DnsResolverFields) -> String {
        DnsResolver::read(fields, &mut Vec::new())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn servers_are_read() {
        assert_eq!(read(cares(Default::default())), Some(DnsServers::default()));
        let mut ignored = Vec::new();
        let fields = cares(CaresDnsResolverConfig {
            resolvers: vec![
                address("192.0.2.1", 0, Protocol::Udp),
                address("2001:db8::1", 5353, Protocol::Tcp),
            ],
            use_resolvers_as_fallback: true,
            filter_unroutable_families: true,
            dns_resolver_options: Some(DnsResolverOptions {
                use_tcp_for_dns_lookups: true,
                no_default_search_domain: true,
            }),
            udp_max_queries: Some(UInt32Value { value: 10 }),
            query_timeout_seconds: Some(UInt64Value { value: 2 }),
            query_tries: Some(UInt32Value { value: 3 }),
            rotate_nameservers: true,
            edns0_max_payload_size: Some(UInt32Value { value: 512 }),
            ..Default::default()
        });
        let Some(DnsResolver::Servers(read)) = DnsResolver::read(fields, &mut ignored).unwrap()
        else {
            panic!()
        };
        let want = DnsServers {
            addresses: vec![
                "192.0.2.1:53".parse().unwrap(),
                "[2001:db8::1]:5353".parse().unwrap(),
            ],
            as_fallback: true,
            routable_only: true,
            tcp_only: true,
            no_search: true,
            timeout: Duration::from_secs(2),
            tries: 3,
            rotate: true,
            payload: 512,
        };
        assert_eq!(read, want);
        assert_eq!(ignored, ["CaresDnsResolverConfig.udp_max_queries"]);
    }

    #[test]
    fn the_newest_field_counts_and_the_older_ones_are_understood() {
        assert!(read(DnsResolverFields::default()).is_none());
        let mut fields = DnsResolverFields {
            dns_resolvers: vec![address("192.0.2.1", 53, Protocol::Tcp)],
            use_tcp_for_dns_lookups: true,
            ..Default::default()
        };
        let old = read(DnsResolverFields {
            dns_resolvers: fields.dns_resolvers.clone(),
            use_tcp_for_dns_lookups: true,
            ..Default::default()
        });
        let old = old.unwrap();
        assert_eq!(old.addresses, ["192.0.2.1:53".parse().unwrap()]);
        assert!(old.tcp_only && !old.no_search);
        fields.dns_resolution_config = Some(DnsResolutionConfig {
            resolvers: vec![address("192.0.2.2", 53, Protocol::Tcp)],
            dns_resolver_options: None,
        });
        let newer = read(DnsResolverFields {
            dns_resolution_config: fields.dns_resolution_config.clone(),
            dns_resolvers: fields.dns_resolvers.clone(),
            ..Default::default()
        });
        assert_eq!(newer.unwrap().addresses, ["192.0.2.2:53".parse().unwrap()]);
        fields.typed_dns_resolver_config =
            typed(pack_as(&GetAddrInfoDnsResolverConfig::default(), SYSTEM))
                .typed_dns_resolver_config;
        let newest = DnsResolver::read(fields, &mut Vec::new()).unwrap();
        assert_eq!(newest, Some(DnsResolver::System));
    }

    #[test]
    fn what_is_wrong_is_named() {
        const AT: &str = "typed_dns_resolver_config.typed_config";
        for (want, message) in [
            (
                "query_tries: 0 is not within 1 and 3600",
                CaresDnsResolverConfig {
                    query_tries: Some(UInt32Value { value: 0 }),
                    ..Default::default()
                },
            ),
            (
                "query_timeout_seconds: 4294967295 is not within 1 and 3600",
                CaresDnsResolverConfig {
                    query_timeout_seconds: Some(UInt64Value { value: u64::MAX }),
                    ..Default::default()
                },
            ),
            (
                "resolvers[0].socket_address.address: \"dns.test\" is not an IP address",
                CaresDnsResolverConfig {
                    resolvers: vec![address("dns.test", 53, Protocol::Tcp)],
                    ..Default::default()
                },
            ),
        ] {
            assert_eq!(refusal(cares(message)), format!("{AT}.{want}"));
        }
        let other = Any {
            type_url: "type.googleapis.com/a.B".into(),
            value: core::Address::default().encode_to_vec(),
        };
        let error = refusal(typed(other));
        assert!(error.starts_with(AT) && error.contains("a.B"), "{error}");
        let empty = DnsResolverFields {
            dns_resolution_config: Some(DnsResolutionConfig::default()),
            ..Default::default()
        };
        assert_eq!(
            refusal(empty),
            "dns_resolution_config.resolvers: must not be empty"
        );
    }
}
