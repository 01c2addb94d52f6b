//! What the processor wants changed, and the answer that it may give itself.

use bytes::Bytes;
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3::external_processor::RouteCacheAction;
use causeway_xds::proto::envoy::service::ext_proc::v3 as service;
use http::StatusCode;
use http::header::HeaderMap;
use service::body_mutation::Mutation as NewBody;
use service::common_response::ResponseStatus;
use service::{CommonResponse, ImmediateResponse};

use super::{BODY, Processing, Trouble};
use crate::filter::LocalReply;
use crate::filter::http::ext_proc::Stats;
use crate::filter::http::ext_proc::mutation::{Refused, Rules};
use crate::filter::target::Target;

/// Details, as Envoy has them where it has any.
const HEADERS: &str = "header_mutation_set_contains_invalid_character";

/// What the processor wants beside the change of headers, which is done already.
pub struct Changes {
    /// The message ends with that body.
    pub replaces: bool,
    pub body: Option<Bytes>,
    /// The route is chosen anew.
    pub clears: bool,
}

impl Processing {
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

pub(super) fn immediate(response: ImmediateResponse, stats: &Stats) -> LocalReply {
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
