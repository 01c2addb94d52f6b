//! One exchange under processing: what is sent, what is waited for, and what comes of it.

mod changes;
mod send;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use causeway_xds::proto::Struct;
use causeway_xds::proto::core::Metadata;
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use causeway_xds::proto::google::protobuf::{Value, value::Kind};
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::metadata_value;
use http::header::UPGRADE;
use http::{Method, StatusCode};
use service::processing_response::Response as Said;
use service::{ImmediateResponse, ProcessingResponse};

use super::super::ext_authz::metadata;
use super::Stats;
use super::attributes::{self, Attributes};
use super::config::{BodyMode, Direction, Fixed, Modes, Settings};
use super::session::{End, Session, Side};
use super::turn::Turn;
use crate::filter::{LocalReply, Stream, StreamState};
pub use changes::Changes;
use changes::immediate;

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
}
