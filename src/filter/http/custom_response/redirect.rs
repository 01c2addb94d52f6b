//! `RedirectPolicy`: the answer of another place, asked for here.
//!
//! The request begins anew, as a GET without a body for that place, and passes filters and routes as if
//! the client had sent it. What comes back gets the status of the first answer, unless it failed too.

use std::rc::Rc;
use std::sync::Arc;

use causeway_xds::proto::envoy::extensions::http::custom_response::redirect_policy::v3 as proto;
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, required};
use causeway_xds::resource::route::RedirectPath;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, StatusCode, Uri, Version};
use proto::RedirectPolicy;
use proto::redirect_policy::RedirectActionSpecifier;

use super::super::super::{Answer, Detour, Stream};
use super::{Policy, status};
use crate::formatter::Wants;
use crate::route::edits::Level;
use crate::route::internal_redirect::Target;
use crate::route::redirect::Redirect;
use crate::telemetry::stats::Counter;

#[derive(Debug)]
pub(super) struct Elsewhere {
    to: To,
    status: Option<StatusCode>,
    request: Level,
    response: Level,
}

#[derive(Debug)]
enum To {
    Url(Target),
    /// Made of what was asked for.
    Changed(Redirect),
}

/// The head of a request as it came to the filter.
pub(super) struct Original {
    uri: Uri,
    version: Version,
    headers: HeaderMap,
}

/// What an answer is that stands for another.
struct Mark {
    policy: Arc<Policy>,
    /// Of the filter in its chain.
    place: usize,
    /// Of the answer that was replaced.
    status: StatusCode,
}

/// What of a request is needed in case it has to go elsewhere: nothing where it cannot, because it
/// is a tunnel, or goes there already.
pub(super) fn keep(stream: &Stream<'_>) {
    let request = &*stream.request;
    let tunnel = request.method == Method::CONNECT || request.headers.contains_key(UPGRADE);
    if tunnel || stream.state().stands_in().is_some() {
        return;
    }
    stream.keep(Original {
        uri: request.uri.clone(),
        version: request.version,
        headers: request.headers.clone(),
    });
}

/// Gives an answer that stands for another what its policy says. `false`: it stands for none.
pub(super) fn finish(answer: &mut Answer<'_>) -> bool {
    let Some(mark) = answer.state().and_then(|state| state.stands_in()) else {
        return false;
    };
    if let Ok(mark) = mark.downcast::<Mark>()
        && mark.place == answer.place
        && answer.status.is_success()
        && let Policy::Elsewhere(elsewhere) = &*mark.policy
    {
        let none = HeaderMap::new();
        let changes = answer.with_facts(|facts| elsewhere.response.evaluate(&none, facts));
        answer.status = elsewhere.status.unwrap_or(mark.status);
        if let Some(changes) = changes {
            changes.apply(answer.headers);
        }
    }
    true
}

impl Elsewhere {
    pub(super) fn decode(message: RedirectPolicy, wants: &mut Wants) -> Result<Self, Invalid> {
        let RedirectPolicy {
            redirect_action_specifier,
            status_code,
            response_headers_to_add,
            request_headers_to_add,
            modify_request_headers_action,
        } = message;
        refuse!(modify_request_headers_action);
        let to = match required(redirect_action_specifier, "redirect_action_specifier")? {
            RedirectActionSpecifier::Uri(uri) => Target::parse(uri.as_bytes())
                .map(To::Url)
                .ok_or_else(|| Invalid::at("uri", format!("{uri:?} is no URL of HTTP")))?,
            RedirectActionSpecifier::RedirectAction(action) => {
                if action.response_code != 0 {
                    let reason = "has no meaning here: status_code has";
                    return Err(Invalid::at("redirect_action.response_code", reason));
                }
                let model = parts::redirect(action).at("redirect_action")?;
                let field = match &model.path {
                    RedirectPath::Keep | RedirectPath::Path(_) => None,
                    RedirectPath::Prefix(_) => Some("prefix_rewrite"),
                    RedirectPath::Regex { .. } => Some("regex_rewrite"),
                };
                if let Some(field) = field {
                    let field = format!("redirect_action.{field}");
                    return Err(Invalid::at(&field, "is not for answers, as in Envoy"));
                }
                To::Changed(Redirect::of_any_route(&model))
            }
        };
        let edits = |edits, field| {
            let edits = parts::header_edits(edits, field)?;
            Ok::<_, Invalid>(Level::compile(&edits, &[]))
        };
        let request = edits(request_headers_to_add, "request_headers_to_add")?;
        let response = edits(response_headers_to_add, "response_headers_to_add")?;
        request.note(wants);
        response.note(wants);
        Ok(Self {
            to,
            status: status(status_code)?,
            request,
            response,
        })
    }

    fn target(&self, original: &Original) -> Option<Target> {
        let redirect = match &self.to {
            To::Url(target) => return Some(target.clone()),
            To::Changed(redirect) => redirect,
        };
        let text = |name: &str| {
            let value = original.headers.get(name);
            value.and_then(|value| value.to_str().ok())
        };
        let scheme = text("x-forwarded-proto").unwrap_or("http");
        let (path, query) = (original.uri.path(), original.uri.query());
        let url = redirect.location(scheme, text("host")?, path, query);
        Target::parse(url.as_bytes())
    }

    /// Sends the request there. `policy` is the one that this is of.
    pub(super) fn go(&self, policy: &Arc<Policy>, answer: &mut Answer<'_>, counts: &Counts) {
        // An answer that was made before this filter saw the request stays, as with Envoy.
        let Some(original) = answer.kept::<Original>() else {
            return;
        };
        let Some(target) = self.target(&original) else {
            counts.invalid_uri.inc();
            return;
        };
        let (mut request, ()) = Request::new(()).into_parts();
        request.version = original.version;
        request.uri = Uri::from(target.path);
        request.headers = original.headers.clone();
        for of_a_body in [CONTENT_LENGTH, EXPECT, TRAILER, TRANSFER_ENCODING] {
            request.headers.remove(of_a_body);
        }
        request.headers.insert(HOST, target.host);
        let changes = answer.with_facts(|facts| self.request.evaluate(&request.headers, facts));
        if let Some(changes) = changes {
            changes.apply(&mut request.headers);
        }
        let mark = Mark {
            policy: Arc::clone(policy),
            place: answer.place,
            status: answer.status,
        };
        let no_route = Arc::clone(&counts.no_route);
        answer.detour(Detour {
            request,
            https: target.https,
            mark: Rc::new(mark),
            refused: Box::new(move |_| no_route.inc()),
        });
    }
}

/// As Envoy calls them, below the scope of the chain.
#[derive(Debug)]
pub(super) struct Counts {
    pub no_route: Arc<Counter>,
    pub invalid_uri: Arc<Counter>,
}
