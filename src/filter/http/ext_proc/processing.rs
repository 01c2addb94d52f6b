//! One exchange under processing: what is sent, what is waited for, and what comes of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use causeway_xds::proto::Struct;
use causeway_xds::proto::core::{HeaderMap as RawHeaders, HeaderValue as Raw, Metadata};
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3::external_processor::RouteCacheAction;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use causeway_xds::proto::google::protobuf::{Value, value::Kind};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::metadata_value;
use http::header::{HOST, HeaderMap, UPGRADE};
use http::{Method, StatusCode};
use service::body_mutation::Mutation as NewBody;
use service::common_response::ResponseStatus;
use service::processing_request::Request as Part;
use service::processing_response::Response as Said;
use service::{
    CommonResponse, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration,
};

use super::super::ext_authz::metadata;
use super::Stats;
use super::attributes::{self, Attributes};
use super::config::{BodyMode, Direction, Fixed, Modes, Settings};
use super::mutation::{Refused, Rules};
use super::session::{End, Session, Side};
use super::turn::Turn;
use crate::filter::target::Target;
use crate::filter::{Answer, LocalReply, Stream, StreamState};

pub struct Processing {
    pub fixed: Arc<Fixed>,
    pub stats: Arc<Stats>,
    pub session: Session,
    pub modes: Cell<Modes>,
    settings: Settings,
    /// The processor is asked no more.
    done: Cell<bool>,
    /// Messages carry what the processor may see of the metadata, as it was last looked at.
    context: RefCell<Metadata>,
    /// Sent with the first message of a direction.
    request_attributes: RefCell<Attributes>,
    response_attributes: RefCell<HashMap<String, Value>>,
    /// What the client is told instead, decided while a body was on its way.
    told: RefCell<Option<LocalReply>>,
    /// For the other filters: namespace, key and value.
    noted: RefCell<Vec<(String, String, MetadataValue)>>,
    pub reroute: Cell<bool>,
}

/// Why there is no answer to a message.
#[derive(Debug)]
pub enum Trouble {
    /// The processor has ended the conversation in peace.
    Left,
    Immediate(Box<ImmediateResponse>),
    /// What the client is told where nothing passes unseen.
    Failed(StatusCode, String),
}

/// Details, as Envoy has them where it has any.
const HEADERS: &str = "header_mutation_set_contains_invalid_character";
pub const BODY: &str = "body_mutation_of_another_mode";
pub const ERROR: &str = "ext_proc_error";

impl Processing {
    pub fn new(
        fixed: Arc<Fixed>,
        settings: Settings,
        stats: Arc<Stats>,
        stream: &Stream<'_>,
    ) -> Self {
        let mut modes = settings.shown(settings.modes);
        let request = &*stream.request;
        // What may become a tunnel is no message, and has no parts. Whether it becomes one, its
        // answer says: one that does is not seen here, and any other is a message as always.
        if request.method == Method::CONNECT || request.headers.contains_key(UPGRADE) {
            (modes.request.body, modes.request.trailers) = (BodyMode::None, false);
        }
        let deferred = fixed.observes.then_some(fixed.deferred_close);
        let session = Session::new(
            stream.calls(),
            settings.clone(),
            Arc::clone(&stats),
            deferred,
        );
        let processing = Self {
            request_attributes: RefCell::new(attributes::request(
                &fixed.request_attributes,
                stream,
            )),
            response_attributes: RefCell::new(attributes::of_request(
                &fixed.response_attributes,
                stream,
            )),
            fixed,
            stats,
            session,
            modes: Cell::new(modes),
            settings,
            done: Cell::new(false),
            context: RefCell::default(),
            told: RefCell::default(),
            noted: RefCell::default(),
            reroute: Cell::new(false),
        };
        processing.look_at(stream.state());
        processing
    }

    pub fn direction(&self, side: Side) -> Direction {
        let modes = self.modes.get();
        match side {
            Side::Request => modes.request,
            Side::Response => modes.response,
        }
    }

    pub fn set_direction(&self, side: Side, change: impl FnOnce(&mut Direction)) {
        let mut modes = self.modes.get();
        change(match side {
            Side::Request => &mut modes.request,
            Side::Response => &mut modes.response,
        });
        self.modes.set(modes);
    }

    pub fn is_done(&self) -> bool {
        self.done.get()
    }

    fn finish(&self) {
        self.done.set(true);
        self.session.close();
    }

    /// What the processor may see of it from now on.
    pub fn look_at(&self, state: &StreamState) {
        if !self.settings.forwarding.is_empty() {
            let find = |namespace: &String| Some((*state.metadata(namespace)?).clone());
            *self.context.borrow_mut() = metadata(&self.settings.forwarding, find);
        }
    }

    /// What the processor has left for other filters.
    pub fn leave(&self, state: &StreamState) {
        for (namespace, key, value) in self.noted.borrow_mut().drain(..) {
            state.set_metadata(&namespace, &key, value);
        }
    }

    /// What the client is told instead of what the upstream says.
    pub fn take_told(&self) -> Option<LocalReply> {
        self.told.borrow_mut().take()
    }

    // --- what is sent ---

    pub fn send(&self, side: Side, part: Part) {
        let attributes = match side {
            Side::Request => std::mem::take(&mut *self.request_attributes.borrow_mut()),
            Side::Response => HashMap::new(),
        };
        self.send_with(part, attributes);
    }

    fn send_with(&self, part: Part, attributes: Attributes) {
        let modes = self.settings.modes;
        let protocol_config = (!self.session.is_open()).then(|| ProtocolConfiguration {
            request_body_mode: modes.request.body.told(),
            response_body_mode: modes.response.body.told(),
            send_body_without_waiting_for_header_response: self.fixed.eager_body,
        });
        let context = self.context.borrow();
        self.session.send(&ProcessingRequest {
            metadata_context: (!self.settings.forwarding.is_empty()).then(|| context.clone()),
            attributes,
            observability_mode: self.fixed.observes,
            protocol_config,
            request: Some(part),
            ..ProcessingRequest::default()
        });
    }

    pub fn send_request_head(&self, stream: &Stream<'_>) {
        let request = &*stream.request;
        let header = |name: &str| request.headers.get(name).map(|value| value.as_bytes());
        let path = request.uri.path_and_query().map_or("/", |p| p.as_str());
        let tls: &[u8] = if stream.tls { b"https" } else { b"http" };
        let pseudo = [
            (":method", request.method.as_str().as_bytes()),
            (":path", path.as_bytes()),
            (":authority", header("host").unwrap_or_default()),
            (":scheme", header("x-forwarded-proto").unwrap_or(tls)),
        ];
        let headers = self.headers(&pseudo, &request.headers);
        let end_of_stream = stream.is_bodyless();
        self.send(
            Side::Request,
            Part::RequestHeaders(HttpHeaders {
                headers: Some(headers),
                end_of_stream,
                ..HttpHeaders::default()
            }),
        );
    }

    pub fn send_response_head(&self, answer: &Answer<'_>) {
        let pseudo = [(":status", answer.status.as_str().as_bytes())];
        let headers = self.headers(&pseudo, answer.headers);
        let part = Part::ResponseHeaders(HttpHeaders {
            headers: Some(headers),
            end_of_stream: answer.bodyless,
            ..HttpHeaders::default()
        });
        let before = std::mem::take(&mut *self.response_attributes.borrow_mut());
        let all = &self.fixed.response_attributes;
        self.send_with(part, attributes::response(all, before, answer.status));
    }

    pub fn send_body(&self, side: Side, data: &Bytes, end: bool) {
        let body = HttpBody {
            body: data.to_vec(),
            end_of_stream: end,
            ..HttpBody::default()
        };
        self.send(
            side,
            match side {
                Side::Request => Part::RequestBody(body),
                Side::Response => Part::ResponseBody(body),
            },
        );
    }

    pub fn send_trailers(&self, side: Side, trailers: &HeaderMap) {
        let trailers = HttpTrailers {
            trailers: Some(self.headers(&[], trailers)),
        };
        self.send(
            side,
            match side {
                Side::Request => Part::RequestTrailers(trailers),
                Side::Response => Part::ResponseTrailers(trailers),
            },
        );
    }

    fn headers(&self, pseudo: &[(&str, &[u8])], headers: &HeaderMap) -> RawHeaders {
        let Fixed {
            allowed,
            disallowed,
            ..
        } = &*self.fixed;
        let shown = |name: &str| {
            allowed.as_ref().is_none_or(|list| list.matches(name))
                && !disallowed.as_ref().is_some_and(|list| list.matches(name))
        };
        let fields = headers
            .iter()
            // It is there as a pseudo header.
            .filter(|(name, _)| pseudo.is_empty() || **name != HOST)
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let all = pseudo.iter().copied().chain(fields);
        let raw = |(name, value): (&str, &[u8])| Raw {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..Raw::default()
        };
        RawHeaders {
            headers: all.filter(|(name, _)| shown(name)).map(raw).collect(),
        }
    }

    // --- what comes of it ---

    /// Waits for the answer to what was sent last.
    pub fn turn(self: &Rc<Self>, side: Side) -> Turn {
        Turn::new(self, side)
    }

    /// As [`Turn::poll`], or without a timeout.
    pub fn poll(
        &self,
        side: Side,
        turn: Option<&mut Turn>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ProcessingResponse, Trouble>> {
        match turn {
            Some(turn) => turn.poll(cx),
            None => self.session.poll(side, cx).map(|said| match said {
                Ok(mut message) => {
                    self.note(&mut message);
                    Ok(message)
                }
                Err(end) => Err(self.ended(end)),
            }),
        }
    }

    /// Takes what every message of the processor may have beside its answer.
    pub fn note(&self, message: &mut ProcessingResponse) {
        let Some(Struct { fields }) = message.dynamic_metadata.take() else {
            return;
        };
        for (namespace, value) in fields {
            let Some(Kind::StructValue(values)) = value.kind else {
                continue;
            };
            if !self.settings.receiving.contains(&namespace) {
                continue;
            }
            if let MetadataValue::Object(values) = metadata_value(values) {
                let values = values.into_iter();
                let noted = values.map(|(key, value)| (namespace.clone(), key, value));
                self.noted.borrow_mut().extend(noted);
            }
        }
    }

    /// Modes change for what is still to come.
    pub fn override_modes(&self, wanted: Option<&ProcessingMode>) {
        let (Some(wanted), Some(allowed)) = (wanted, &self.fixed.overrides) else {
            return;
        };
        let now = self.modes.get();
        let duplex = [now.request.body, now.response.body].contains(&BodyMode::Duplex);
        if duplex || self.fixed.eager_body {
            return;
        }
        let same = |a: &Modes, b: &Modes| {
            let without = |modes: &Modes| Direction {
                headers: true,
                ..modes.request
            };
            a.response == b.response && without(a) == without(b)
        };
        let asked = Modes::default().overridden(wanted);
        let listed = asked.is_ok_and(|asked| allowed.iter().any(|known| same(known, &asked)));
        if !allowed.is_empty() && !listed {
            return;
        }
        if let Ok(modes) = now.overridden(wanted) {
            self.modes.set(self.settings.shown(modes));
        }
    }

    /// Something came that was not asked for, unless it is an answer in itself.
    pub fn spurious(&self, said: Option<Said>) -> Trouble {
        if let Some(Said::ImmediateResponse(response)) = said {
            return Trouble::Immediate(Box::new(response));
        }
        self.stats.spurious.inc();
        let status = self.fixed.status_on_error;
        Trouble::Failed(status, "spurious_message".to_owned())
    }

    pub fn ended(&self, end: End) -> Trouble {
        match end {
            End::Clean => Trouble::Left,
            End::Failed { code, message } => {
                let details = format!("{ERROR}_gRPC_error_{code}{{{message}}}");
                Trouble::Failed(self.fixed.status_on_error, details)
            }
        }
    }

    /// `None`: the exchange goes on without the processor.
    pub fn settle(&self, trouble: Trouble) -> Option<LocalReply> {
        self.finish();
        match trouble {
            Trouble::Left => None,
            Trouble::Immediate(_) if !self.fixed.immediate => {
                self.stats.spurious.inc();
                None
            }
            Trouble::Immediate(response) => {
                self.stats.immediate.inc();
                Some(immediate(*response, &self.stats))
            }
            Trouble::Failed(..) if self.settings.failure_mode_allow => {
                self.stats.failure_mode_allowed.inc();
                None
            }
            Trouble::Failed(status, details) => Some(LocalReply::new(
                status,
                details.replace(char::is_whitespace, "_"),
            )),
        }
    }

    /// As [`Self::settle`] while a body is on its way, which then breaks off: whether it does.
    pub fn breaks(&self, trouble: Trouble) -> bool {
        let reply = self.settle(trouble);
        let breaks = reply.is_some();
        if breaks {
            *self.told.borrow_mut() = reply;
        }
        breaks
    }

    /// What the processor says about a head or a body.
    pub fn changes(
        &self,
        response: Option<CommonResponse>,
        target: &mut Target<'_>,
    ) -> Result<Changes, Trouble> {
        let CommonResponse {
            status,
            header_mutation,
            body_mutation,
            trailers: _, // not read by Envoy either
            clear_route_cache,
        } = response.unwrap_or_default();
        let mutates = header_mutation.is_some();
        if let Some(mutation) = header_mutation {
            let rejected = &self.stats.rejected;
            let applied = self.fixed.rules.apply(mutation, target, rejected);
            applied.map_err(|Refused| self.refused(HEADERS))?;
        }
        let body = match body_mutation.and_then(|body| body.mutation) {
            None | Some(NewBody::ClearBody(false)) => None,
            Some(NewBody::Body(body)) => Some(Bytes::from(body)),
            Some(NewBody::ClearBody(true)) => Some(Bytes::new()),
            Some(NewBody::StreamedResponse(_)) => return Err(self.refused(BODY)),
        };
        Ok(Changes {
            replaces: status == ResponseStatus::ContinueAndReplace as i32,
            body,
            clears: self.clears(clear_route_cache, mutates),
        })
    }

    /// The processor asks for what it may not do, or nobody can.
    pub fn refused(&self, details: &str) -> Trouble {
        Trouble::Failed(self.fixed.status_on_error, details.to_owned())
    }

    pub fn change_trailers(
        &self,
        mutation: Option<service::HeaderMutation>,
        trailers: &mut HeaderMap,
    ) -> Result<(), Trouble> {
        let Some(mutation) = mutation else {
            return Ok(());
        };
        let (target, rejected) = (&mut Target::Plain(trailers), &self.stats.rejected);
        let applied = self.fixed.rules.apply(mutation, target, rejected);
        applied.map_err(|Refused| self.refused(HEADERS))
    }

    fn clears(&self, asked: bool, mutates: bool) -> bool {
        match self.fixed.route_cache {
            RouteCacheAction::Retain => {
                if asked {
                    self.stats.clear_disabled.inc();
                }
                false
            }
            RouteCacheAction::Clear => mutates,
            RouteCacheAction::Default => {
                if asked && !mutates {
                    self.stats.clear_ignored.inc();
                }
                asked && mutates
            }
        }
    }
}

/// What the processor wants beside the change of headers, which is done already.
pub struct Changes {
    /// The message ends with that body.
    pub replaces: bool,
    pub body: Option<Bytes>,
    /// The route is chosen anew.
    pub clears: bool,
}

fn immediate(response: ImmediateResponse, stats: &Stats) -> LocalReply {
    let ImmediateResponse {
        status,
        headers,
        body,
        grpc_status,
        details,
    } = response;
    let code = status.map_or(0, |status| status.code);
    let code = u16::try_from(code).ok().filter(|c| (200..=599).contains(c));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    let details = details.replace(char::is_whitespace, "_");
    let mut reply = LocalReply::new(status.unwrap_or(StatusCode::OK), details).saying(body);
    if let Some(mutation) = headers {
        // It is all of its making. What cannot be done is left out.
        let target = &mut Target::Plain(&mut reply.headers);
        Rules::all().apply(mutation, target, &stats.rejected).ok();
    }
    let grpc = grpc_status.map(|grpc| u8::try_from(grpc.status));
    reply.grpc_status = grpc.and_then(Result::ok);
    reply
}
