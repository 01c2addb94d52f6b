//! What an `ExtAuthz` message asks for.

use std::time::Duration;

use causeway_xds::proto::core::{self, ApiVersion};
use causeway_xds::proto::envoy::extensions::filters::http::ext_authz::v3 as proto;
use causeway_xds::proto::envoy::r#type::matcher::v3::ListStringMatcher;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::format::Format;
use causeway_xds::resource::parts::{
    At, GrpcService, HttpUri, each, enumeration, fault, header_format, header_name, required,
    string_matchers,
};
use http::header::{HeaderName, HeaderValue};
use proto::check_settings::ServiceOverride;
use proto::ext_authz::Services;

use crate::formatter::{Template, Wants};
use crate::matching::text::Test;

/// Who is asked.
#[derive(Debug)]
pub enum Service {
    Http(Box<HttpService>),
    Grpc(GrpcCall),
}

#[derive(Debug)]
pub struct HttpService {
    pub cluster: String,
    pub timeout: Duration,
    pub path: PathRule,
    /// Of the older place; those of the filter count where it is not given.
    pub allowed_headers: Option<AnyOf>,
    pub headers_to_add: Vec<(HeaderName, Template)>,
    pub upstream: AnyOf,
    pub upstream_append: AnyOf,
    /// `None`: all of them.
    pub client: Option<AnyOf>,
    pub client_on_success: AnyOf,
    pub metadata: AnyOf,
}

/// The path that the service is asked by.
#[derive(Debug)]
pub enum PathRule {
    /// What stands before that of the request; may be empty.
    Prefix(String),
    Instead(String),
}

#[derive(Debug)]
pub struct GrpcCall {
    pub cluster: String,
    pub timeout: Duration,
    pub metadata: Vec<(HeaderName, HeaderValue)>,
}

/// Names of which one has to match; none does where there are none.
#[derive(Debug, Default)]
pub struct AnyOf(Vec<Test>);

impl AnyOf {
    pub fn decode(list: Option<ListStringMatcher>, field: &str) -> Result<Option<Self>, Invalid> {
        let list = list.map(string_matchers).transpose().at(field)?;
        Ok(list.map(|list| Self(list.iter().map(Test::string).collect())))
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|test| test.matches(name.as_bytes()))
    }
}

/// How much of a body the service gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRule {
    pub max: u32,
    /// A part of it will do.
    pub partial: bool,
    /// gRPC: in the field for bytes.
    pub as_bytes: bool,
}

impl BodyRule {
    pub fn decode(message: proto::BufferSettings) -> Result<Self, Invalid> {
        let proto::BufferSettings {
            max_request_bytes,
            allow_partial_message,
            pack_as_bytes,
        } = message;
        if max_request_bytes == 0 {
            return Err(Invalid::at("max_request_bytes", "must be more than 0"));
        }
        Ok(Self {
            max: max_request_bytes,
            partial: allow_partial_message,
            as_bytes: pack_as_bytes,
        })
    }
}

impl Service {
    pub fn decode(service: Services, version: i32) -> Result<Self, Invalid> {
        match service {
            Services::HttpService(service) => Self::http(service),
            Services::GrpcService(service) => {
                check_version(version)?;
                Self::grpc(service)
            }
        }
    }

    pub fn overriding(service: ServiceOverride) -> Result<Self, Invalid> {
        match service {
            ServiceOverride::HttpService(service) => Self::http(service),
            ServiceOverride::GrpcService(service) => Self::grpc(service),
        }
    }

    fn http(service: proto::HttpService) -> Result<Self, Invalid> {
        let service = HttpService::decode(service).at("http_service")?;
        Ok(Self::Http(Box::new(service)))
    }

    fn grpc(service: core::GrpcService) -> Result<Self, Invalid> {
        Ok(Self::Grpc(GrpcCall::decode(service).at("grpc_service")?))
    }

    pub fn wants(&self) -> Wants {
        let mut wants = Wants::default();
        if let Self::Http(service) = self {
            for (_, template) in &service.headers_to_add {
                template.note(&mut wants);
            }
        }
        wants
    }
}

/// There is one version that services speak, which is also what is meant where none is named.
#[allow(deprecated, reason = "the older version is named to be refused")]
pub fn check_version(version: i32) -> Result<(), Invalid> {
    match enumeration(version, "transport_api_version")? {
        ApiVersion::V3 | ApiVersion::Auto => Ok(()),
        ApiVersion::V2 => Err(Invalid::at("transport_api_version", "must be V3")),
    }
}

impl GrpcCall {
    /// `timeout` when it is not given.
    const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

    pub fn decode(message: core::GrpcService) -> Result<Self, Invalid> {
        let GrpcService {
            cluster,
            authority,
            timeout,
            mut metadata,
        } = GrpcService::decode(message)?;
        if !authority.is_empty() {
            metadata.push(("host".to_owned(), authority));
        }
        let metadatum = |(name, value): (String, String)| {
            let pair = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
            match pair {
                (Ok(name), Ok(value)) => Ok((name, value)),
                _ => Err(Invalid::at("initial_metadata", "is no valid metadata")),
            }
        };
        Ok(Self {
            cluster,
            timeout: timeout.unwrap_or(Self::DEFAULT_TIMEOUT),
            metadata: metadata
                .into_iter()
                .map(metadatum)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl HttpService {
    fn decode(message: proto::HttpService) -> Result<Self, Invalid> {
        let proto::HttpService {
            server_uri,
            path_prefix,
            path_override,
            authorization_request,
            authorization_response,
            retry_policy,
        } = message;
        refuse!(retry_policy);
        let HttpUri {
            uri: _, // the host is that of the request, as in Envoy
            cluster,
            timeout,
        } = HttpUri::decode(required(server_uri, "server_uri")?).at("server_uri")?;
        let path = match (path_prefix.is_empty(), path_override.is_empty()) {
            (_, true) => PathRule::Prefix(path_text(path_prefix).at("path_prefix")?),
            (true, false) => PathRule::Instead(path_text(path_override).at("path_override")?),
            (false, false) => {
                let reason = "may not be given together with path_prefix";
                return Err(Invalid::at("path_override", reason));
            }
        };
        let (allowed_headers, headers_to_add) = match authorization_request {
            None => (None, Vec::new()),
            Some(request) => request_part(request).at("authorization_request")?,
        };
        let part = authorization_response.unwrap_or_default();
        let within = |part: proto::AuthorizationResponse| {
            let proto::AuthorizationResponse {
                allowed_upstream_headers,
                allowed_upstream_headers_to_append,
                allowed_client_headers,
                allowed_client_headers_on_success,
                dynamic_metadata_from_headers,
            } = part;
            let list = |list, field| Ok(AnyOf::decode(list, field)?.unwrap_or_default());
            Ok(Self {
                cluster,
                timeout,
                path,
                allowed_headers,
                headers_to_add,
                upstream: list(allowed_upstream_headers, "allowed_upstream_headers")?,
                upstream_append: list(
                    allowed_upstream_headers_to_append,
                    "allowed_upstream_headers_to_append",
                )?,
                client: AnyOf::decode(allowed_client_headers, "allowed_client_headers")?,
                client_on_success: list(
                    allowed_client_headers_on_success,
                    "allowed_client_headers_on_success",
                )?,
                metadata: list(
                    dynamic_metadata_from_headers,
                    "dynamic_metadata_from_headers",
                )?,
            })
        };
        within(part).at("authorization_response")
    }

    /// Whether a header of a refusal goes to the client.
    pub fn tells_client(&self, name: &str) -> bool {
        match &self.client {
            None => true,
            Some(list) => matches!(name, "www-authenticate" | "location") || list.matches(name),
        }
    }
}

type RequestPart = (Option<AnyOf>, Vec<(HeaderName, Template)>);

#[allow(deprecated, reason = "the older place of the list is still written")]
fn request_part(message: proto::AuthorizationRequest) -> Result<RequestPart, Invalid> {
    let proto::AuthorizationRequest {
        allowed_headers,
        headers_to_add,
    } = message;
    let add = |header| {
        let core::HeaderValue {
            key,
            value,
            raw_value,
        } = header;
        refuse!(raw_value);
        let name = header_name(&key).at("key")?;
        let name: HeaderName = name.parse().map_err(|_| fault("is no header name"))?;
        let format: Format = header_format(&value).at("value")?;
        Ok((name, Template::compile(&format, "")))
    };
    Ok((
        AnyOf::decode(allowed_headers, "allowed_headers")?,
        each("headers_to_add", headers_to_add, add)?,
    ))
}

/// Empty, or what can begin a path.
fn path_text(path: String) -> Result<String, Invalid> {
    let whole = path.is_empty() || path.starts_with('/');
    if !whole || path.parse::<http::uri::PathAndQuery>().is_err() && !path.is_empty() {
        return Err(fault("must begin with a slash"));
    }
    Ok(path)
}
