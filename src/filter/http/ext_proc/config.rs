//! What an `ExternalProcessor` message asks for.

use std::sync::Arc;
use std::time::Duration;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core;
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each, enumeration, required};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use proto::ext_proc_per_route::Override;
use proto::external_processor::RouteCacheAction;
use proto::metadata_options::MetadataNamespaces;
use proto::processing_mode::{BodySendMode, HeaderSendMode};

use super::super::ext_authz::{AnyOf, GrpcCall};
use super::attributes::Attribute;
use super::mutation::Rules;
use super::over_http::HttpCall;
use crate::filter::registry::{Context, decode};
use crate::route::RouteConfig;

/// How much of a body the processor gets to see, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    #[default]
    None,
    /// Piece by piece; each is answered.
    Streamed,
    /// Whole, or not at all.
    Buffered,
    /// As much as is kept.
    Partial,
    /// Piece by piece; what is sent back is another stream.
    Duplex,
}

/// `ProcessingMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    pub request: Direction,
    pub response: Direction,
}

/// What of one direction the processor is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    pub headers: bool,
    pub body: BodyMode,
    pub trailers: bool,
}

impl Default for Modes {
    fn default() -> Self {
        let direction = Direction {
            headers: true,
            body: BodyMode::None,
            trailers: false,
        };
        Self {
            request: direction,
            response: direction,
        }
    }
}

impl Modes {
    /// Without bodies and trailers.
    #[must_use]
    pub fn of_heads(mut self) -> Self {
        for direction in [&mut self.request, &mut self.response] {
            (direction.body, direction.trailers) = (BodyMode::None, false);
        }
        self
    }

    fn decode(message: proto::ProcessingMode) -> Result<Self, Invalid> {
        let modes = Self::default().overridden(&message)?;
        for (direction, field) in [
            (&modes.request, "request_trailer_mode"),
            (&modes.response, "response_trailer_mode"),
        ] {
            if direction.body == BodyMode::Duplex && !direction.trailers {
                let reason = "must be SEND where the body is FULL_DUPLEX_STREAMED";
                return Err(Invalid::at(field, reason));
            }
        }
        Ok(modes)
    }

    /// With what a message says, whose `DEFAULT` changes nothing.
    ///
    /// # Errors
    /// A mode that is none, or is not offered.
    pub fn overridden(mut self, message: &proto::ProcessingMode) -> Result<Self, Invalid> {
        let proto::ProcessingMode {
            request_header_mode,
            response_header_mode,
            request_body_mode,
            response_body_mode,
            request_trailer_mode,
            response_trailer_mode,
        } = *message;
        let send = |place: &mut bool, mode, field| {
            match enumeration(mode, field)? {
                HeaderSendMode::Default => {}
                HeaderSendMode::Send => *place = true,
                HeaderSendMode::Skip => *place = false,
            }
            Ok::<_, Invalid>(())
        };
        send(
            &mut self.request.headers,
            request_header_mode,
            "request_header_mode",
        )?;
        send(
            &mut self.response.headers,
            response_header_mode,
            "response_header_mode",
        )?;
        send(
            &mut self.request.trailers,
            request_trailer_mode,
            "request_trailer_mode",
        )?;
        send(
            &mut self.response.trailers,
            response_trailer_mode,
            "response_trailer_mode",
        )?;
        self.request.body = body_mode(request_body_mode).at("request_body_mode")?;
        self.response.body = body_mode(response_body_mode).at("response_body_mode")?;
        Ok(self)
    }
}

fn body_mode(mode: i32) -> Result<BodyMode, Invalid> {
    Ok(match enumeration(mode, "")? {
        BodySendMode::None => BodyMode::None,
        BodySendMode::Streamed => BodyMode::Streamed,
        BodySendMode::Buffered => BodyMode::Buffered,
        BodySendMode::BufferedPartial => BodyMode::Partial,
        BodySendMode::FullDuplexStreamed => BodyMode::Duplex,
        BodySendMode::Grpc => return Err(parts::fault("GRPC is not supported yet")),
    })
}

impl BodyMode {
    pub fn told(self) -> i32 {
        let mode = match self {
            Self::None => BodySendMode::None,
            Self::Streamed => BodySendMode::Streamed,
            Self::Buffered => BodySendMode::Buffered,
            Self::Partial => BodySendMode::BufferedPartial,
            Self::Duplex => BodySendMode::FullDuplexStreamed,
        };
        mode as i32
    }
}

/// Who processes.
#[derive(Clone, Debug)]
pub enum Service {
    Grpc(Arc<GrpcCall>),
    /// Sees heads, and nothing else.
    Http(Arc<HttpCall>),
}

/// What a route may say otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    pub service: Service,
    /// Beside that of the service.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    pub modes: Modes,
    pub failure_mode_allow: bool,
    /// Namespaces that the processor sees, and those that it may write.
    pub forwarding: Arc<[String]>,
    pub receiving: Arc<[String]>,
}

/// What holds for all requests.
#[derive(Debug)]
pub struct Fixed {
    pub message_timeout: Duration,
    /// None of zero: the processor may not ask for more time.
    pub max_message_timeout: Duration,
    pub rules: Rules,
    pub allowed: Option<AnyOf>,
    pub disallowed: Option<AnyOf>,
    /// `None`: the processor may not change modes. Where any are listed, only to those.
    pub overrides: Option<Vec<Modes>>,
    pub immediate: bool,
    pub observes: bool,
    pub route_cache: RouteCacheAction,
    pub deferred_close: Duration,
    pub eager_body: bool,
    pub status_on_error: StatusCode,
    pub keeps_length: bool,
    pub request_attributes: Vec<Attribute>,
    pub response_attributes: Vec<Attribute>,
    pub stat_prefix: String,
}

/// # Errors
/// What is wrong with it, or not supported.
pub fn decode_filter(config: &TypedExtension) -> Result<(Fixed, Settings), Invalid> {
    let proto::ExternalProcessor {
        grpc_service,
        http_service,
        failure_mode_allow,
        processing_mode,
        request_attributes,
        response_attributes,
        message_timeout,
        stat_prefix,
        mutation_rules,
        max_message_timeout,
        forward_rules,
        filter_metadata: _, // for logs of a kind that is not offered: listed as without effect
        allow_mode_override,
        disable_immediate_response,
        metadata_options,
        observability_mode,
        disable_clear_route_cache,
        route_cache_action,
        deferred_close_timeout,
        send_body_without_waiting_for_header_response,
        allowed_override_modes,
        processing_request_modifier,
        on_processing_response,
        status_on_error,
        allow_content_length_header,
        emit_client_span: _, // there are no spans
    } = decode(config)?;
    refuse!(processing_request_modifier, on_processing_response);
    let service = match (grpc_service, http_service) {
        (Some(_), Some(_)) => {
            let reason = "is given together with grpc_service";
            return Err(Invalid::at("http_service", reason));
        }
        (None, Some(service)) if !observability_mode => {
            let call = HttpCall::decode(service).at("http_service")?;
            Service::Http(Arc::new(call))
        }
        (None, Some(_)) => {
            let reason = "is not supported with http_service";
            return Err(Invalid::at("observability_mode", reason));
        }
        (service, None) => {
            let call = GrpcCall::decode(required(service, "grpc_service")?).at("grpc_service")?;
            Service::Grpc(Arc::new(call))
        }
    };
    let modes = Modes::decode(processing_mode.unwrap_or_default()).at("processing_mode")?;
    if matches!(service, Service::Http(_)) && modes != modes.of_heads() {
        let reason = "shows an http_service more than headers";
        return Err(Invalid::at("processing_mode", reason));
    }
    let mut route_cache = enumeration(route_cache_action, "route_cache_action")?;
    if disable_clear_route_cache {
        if route_cache != RouteCacheAction::Default {
            let reason = "is given together with disable_clear_route_cache";
            return Err(Invalid::at("route_cache_action", reason));
        }
        route_cache = RouteCacheAction::Retain;
    }
    let (allowed, disallowed) = match forward_rules {
        None => (None, None),
        Some(rules) => forwarding(rules).at("forward_rules")?,
    };
    let overrides = each(
        "allowed_override_modes",
        allowed_override_modes,
        |message| Modes::default().overridden(&message),
    )?;
    let status = status_on_error.map_or(Ok(StatusCode::INTERNAL_SERVER_ERROR), |status| {
        let code = u16::try_from(status.code).ok().filter(|code| *code >= 100);
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        code.ok_or_else(|| Invalid::at("status_on_error.code", "is no HTTP status"))
    })?;
    let options = metadata_options.map(namespaces).transpose();
    let (forward, receive) = options.at("metadata_options")?.unwrap_or_default();
    let fixed = Fixed {
        message_timeout: hour(message_timeout, "message_timeout")?
            .unwrap_or(Duration::from_millis(200)),
        max_message_timeout: hour(max_message_timeout, "max_message_timeout")?.unwrap_or_default(),
        rules: Rules::decode(mutation_rules)
            .at("mutation_rules")?
            .with_length(allow_content_length_header),
        allowed,
        disallowed,
        overrides: allow_mode_override.then_some(overrides),
        immediate: !disable_immediate_response,
        observes: observability_mode,
        route_cache,
        deferred_close: hour(deferred_close_timeout, "deferred_close_timeout")?
            .unwrap_or(Duration::from_secs(5)),
        eager_body: send_body_without_waiting_for_header_response,
        status_on_error: status,
        keeps_length: allow_content_length_header,
        request_attributes: each("request_attributes", request_attributes, Attribute::parse)?,
        response_attributes: each("response_attributes", response_attributes, Attribute::parse)?,
        stat_prefix,
    };
    let settings = Settings {
        service,
        metadata: Vec::new(),
        modes,
        failure_mode_allow,
        forwarding: forward.unwrap_or_default(),
        receiving: receive.unwrap_or_default(),
    };
    Ok((fixed, settings))
}

/// The bound of the message definition.
fn hour(
    message: Option<causeway_xds::proto::Duration>,
    field: &str,
) -> Result<Option<Duration>, Invalid> {
    let duration = parts::duration(message, field)?;
    match duration {
        Some(long) if long > Duration::from_secs(3600) => {
            Err(Invalid::at(field, "is longer than an hour"))
        }
        other => Ok(other),
    }
}

type Lists = (Option<AnyOf>, Option<AnyOf>);

fn forwarding(message: proto::HeaderForwardingRules) -> Result<Lists, Invalid> {
    let proto::HeaderForwardingRules {
        allowed_headers,
        disallowed_headers,
    } = message;
    Ok((
        AnyOf::decode(allowed_headers, "allowed_headers")?,
        AnyOf::decode(disallowed_headers, "disallowed_headers")?,
    ))
}

type Namespaces = (Option<Arc<[String]>>, Option<Arc<[String]>>);

fn namespaces(message: proto::MetadataOptions) -> Result<Namespaces, Invalid> {
    let proto::MetadataOptions {
        forwarding_namespaces,
        receiving_namespaces,
        cluster_metadata_forwarding_namespaces,
    } = message;
    refuse!(cluster_metadata_forwarding_namespaces);
    let untyped = |names: Option<MetadataNamespaces>, field| {
        let Some(MetadataNamespaces { untyped, typed }) = names else {
            return Ok(None);
        };
        let check = || {
            refuse!(typed);
            Ok(Some(Arc::from(untyped)))
        };
        check().at(field)
    };
    Ok((
        untyped(forwarding_namespaces, "forwarding_namespaces")?,
        untyped(receiving_namespaces, "receiving_namespaces")?,
    ))
}

/// What one level of a route says.
#[derive(Debug)]
pub enum PerRoute {
    Disabled,
    Overrides(Box<Overrides>),
}

#[derive(Debug)]
pub struct Overrides {
    modes: Option<Modes>,
    service: Option<Arc<GrpcCall>>,
    metadata: Vec<(HeaderName, HeaderValue)>,
    failure_mode_allow: Option<bool>,
    forwarding: Option<Arc<[String]>>,
    receiving: Option<Arc<[String]>>,
}

impl Settings {
    /// What of an exchange the service can be shown.
    pub fn shown(&self, modes: Modes) -> Modes {
        match self.service {
            Service::Grpc(_) => modes,
            Service::Http(_) => modes.of_heads(),
        }
    }

    /// `None`: the route switches the filter off. From the most general level to the most specific.
    pub fn of_route<'r>(&self, levels: impl Iterator<Item = &'r PerRoute>) -> Option<Self> {
        let mut settings = self.clone();
        let mut disabled = false;
        for level in levels {
            let PerRoute::Overrides(level) = level else {
                disabled = true;
                continue;
            };
            disabled = false;
            settings.modes = level.modes.unwrap_or(settings.modes);
            if let Some(service) = &level.service {
                settings.service = Service::Grpc(Arc::clone(service));
            }
            for (name, value) in &level.metadata {
                settings.metadata.retain(|(known, _)| known != name);
                settings.metadata.push((name.clone(), value.clone()));
            }
            settings.failure_mode_allow = level
                .failure_mode_allow
                .unwrap_or(settings.failure_mode_allow);
            if let Some(names) = &level.forwarding {
                settings.forwarding = Arc::clone(names);
            }
            if let Some(names) = &level.receiving {
                settings.receiving = Arc::clone(names);
            }
        }
        (!disabled).then_some(settings)
    }
}

pub fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::ExtProcPerRoute { r#override } = decode(config)?;
    let said = match required(r#override, "override")? {
        Override::Disabled(true) => PerRoute::Disabled,
        Override::Disabled(false) => {
            return Err(Invalid::at("disabled", "must be true if it is given"));
        }
        Override::Overrides(message) => {
            PerRoute::Overrides(Box::new(overrides(message).at("overrides")?))
        }
    };
    Ok(RouteConfig::new(said))
}

#[expect(deprecated, reason = "every field is looked at, the old ones too")]
fn overrides(message: proto::ExtProcOverrides) -> Result<Overrides, Invalid> {
    let proto::ExtProcOverrides {
        processing_mode,
        async_mode,
        request_attributes,
        response_attributes,
        grpc_service,
        metadata_options,
        grpc_initial_metadata,
        failure_mode_allow,
        processing_request_modifier,
        emit_client_span: _, // there are no spans
    } = message;
    refuse!(
        async_mode,
        request_attributes,
        response_attributes,
        processing_request_modifier,
    );
    let metadatum = |message| {
        let core::HeaderValue {
            key,
            value,
            raw_value,
        } = message;
        refuse!(raw_value);
        let name: Result<HeaderName, _> = parts::header_name(&key).at("key")?.parse();
        match (name, value.parse()) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            _ => Err(parts::fault("is no valid metadata")),
        }
    };
    let service = grpc_service.map(GrpcCall::decode).transpose();
    let options = metadata_options.map(namespaces).transpose();
    let (forwarding, receiving) = options.at("metadata_options")?.unwrap_or_default();
    Ok(Overrides {
        modes: processing_mode
            .map(Modes::decode)
            .transpose()
            .at("processing_mode")?,
        service: service.at("grpc_service")?.map(Arc::new),
        metadata: each("grpc_initial_metadata", grpc_initial_metadata, metadatum)?,
        failure_mode_allow: failure_mode_allow.map(|flag| flag.value),
        forwarding,
        receiving,
    })
}
