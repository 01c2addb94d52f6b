//! `envoy.filters.http.custom_response`: answers that are replaced by others.
//!
//! Configuration: `envoy.extensions.filters.http.custom_response.v3.CustomResponse`, for the filter
//! and for routes: a tree of matchers over the response that ends in a policy, which is an answer of
//! our own or the place of another one. The most specific tree that leads to a policy counts.

mod redirect;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::Any;
use causeway_xds::proto::envoy::extensions::filters::http::custom_response::v3 as proto;
use causeway_xds::proto::UInt32Value;
use causeway_xds::proto::envoy::extensions::http::custom_response::local_response_policy::v3::LocalResponsePolicy;
use causeway_xds::proto::envoy::extensions::http::custom_response::local_response_policy::v3::local_response_policy::ResponseCodeDetailsAction;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::format::FormatString;
use causeway_xds::resource::matcher::tree as model;
use causeway_xds::resource::parts::{self, At, number, required, unknown_type, unpack};
use causeway_xds::type_url::message_name;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::StatusCode;
use http_body::Frame;

use super::super::body::{BodyError, Frames, Transform};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::formatter::{Template, Wants};
use crate::matching::headers::{Values, joined};
use crate::matching::tree::{Input, Inputs, Tree};
use crate::route::RouteConfig;
use crate::route::edits::Level;
use redirect::{Counts, Elsewhere};

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
    name: "envoy.filters.http.custom_response",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.custom_response.v3.CustomResponse",
        build_per_route,
    )],
};

/// The largest body that can be put in the place of another.
const MAX_BODY: usize = 1 << 20;

#[derive(Debug)]
struct CustomResponse {
    tree: Tree<Arc<Policy>>,
    /// A policy may send the request elsewhere.
    redirects: bool,
    wants: Wants,
    counts: Counts,
}

#[derive(Debug)]
enum Policy {
    Local(Local),
    Elsewhere(Elsewhere),
}

#[derive(Debug)]
struct Local {
    body: Body,
    content_type: HeaderValue,
    status: Option<StatusCode>,
    headers: Level,
}

#[derive(Debug)]
enum Body {
    Fixed(Bytes),
    Made(Template),
}

fn decoded(config: &TypedExtension, context: &Context) -> Result<CustomResponse, Invalid> {
    let proto::CustomResponse {
        custom_response_matcher,
    } = decode(config)?;
    let matcher = required(custom_response_matcher, "custom_response_matcher")?;
    let (mut wants, mut redirects) = (Wants::NONE, false);
    let tree = model::Tree::decode(matcher, Input::is_of_response, |any| {
        let policy = Policy::decode(&any, &mut wants)?;
        redirects |= matches!(policy, Policy::Elsewhere(_));
        Ok(Arc::new(policy))
    });
    let tree = tree.at("custom_response_matcher")?;
    Ok(CustomResponse {
        tree: Tree::compile(&tree, &mut Arc::clone),
        redirects,
        wants,
        counts: Counts {
            no_route: context.counter("custom_response_redirect_no_route"),
            invalid_uri: context.counter("custom_response_redirect_invalid_uri"),
        },
    })
}

fn build(config: &TypedExtension, context: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    Ok(Arc::new(decoded(config, context)?))
}

fn build_per_route(config: &TypedExtension, context: &Context) -> Result<RouteConfig, Invalid> {
    let custom = decoded(config, context)?;
    let wants = custom.wants.clone();
    Ok(RouteConfig::new(custom).wanting(wants))
}

impl Policy {
    fn decode(any: &Any, wants: &mut Wants) -> Result<Self, Invalid> {
        const LOCAL: &str =
            "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
        const REDIRECT: &str =
            "envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy";
        match message_name(&any.type_url) {
            LOCAL => Local::decode(unpack(any)?, wants).map(Self::Local),
            REDIRECT => Elsewhere::decode(unpack(any)?, wants).map(Self::Elsewhere),
            _ => Err(unknown_type(&any.type_url)),
        }
    }
}

/// The status that takes the place of that of an answer.
fn status(code: Option<UInt32Value>) -> Result<Option<StatusCode>, Invalid> {
    let code = number(code, "status_code", 200..=599)?;
    Ok(code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok()))
}

impl Local {
    fn decode(message: LocalResponsePolicy, wants: &mut Wants) -> Result<Self, Invalid> {
        let LocalResponsePolicy {
            body,
            body_format,
            status_code,
            response_headers_to_add,
            response_code_details_action,
        } = message;
        match response_code_details_action {
            None | Some(ResponseCodeDetailsAction::PreserveResponseCodeDetails(true)) => {}
            Some(_) => {
                let field = "response_code_details_action";
                return Err(Invalid::at(field, "not supported yet"));
            }
        }
        let status = status(status_code)?;
        let fixed = body.map(|body| parts::data(body, MAX_BODY)).transpose();
        let fixed = fixed.at("body")?;
        let mut content_type = String::new();
        let body = match body_format {
            None => Body::Fixed(fixed.unwrap_or_default().into()),
            Some(_) if fixed.is_some() => {
                let reason = "is given together with body_format";
                return Err(Invalid::at("body", reason));
            }
            Some(format) => {
                let FormatString::Text {
                    format,
                    omit_empty,
                    content_type: kind,
                } = parts::format_string(format).at("body_format")?
                else {
                    return Err(Invalid::at("body_format", "must be a text"));
                };
                content_type = kind;
                let template = Template::compile(&format, if omit_empty { "" } else { "-" });
                template.note(wants);
                Body::Made(template)
            }
        };
        if content_type.is_empty() {
            content_type.push_str("text/plain");
        }
        let field = "response_headers_to_add";
        let headers = parts::header_edits(response_headers_to_add, field)?;
        let headers = Level::compile(&headers, &[]);
        headers.note(wants);
        Ok(Self {
            body,
            content_type: HeaderValue::try_from(content_type)
                .map_err(|_| Invalid::at("body_format.content_type", "is no header value"))?,
            status,
            headers,
        })
    }

    fn apply(&self, answer: &mut Answer<'_>) {
        let body = match &self.body {
            Body::Fixed(body) => body.clone(),
            Body::Made(template) => {
                let made = answer.with_facts(|facts| template.render(facts));
                made.unwrap_or_default().into()
            }
        };
        let none = HeaderMap::new();
        let changes = answer.with_facts(|facts| self.headers.evaluate(&none, facts));
        answer.headers.clear();
        if let Some(status) = self.status {
            answer.status = status;
        }
        let length = body.len();
        answer.transform(Box::new(Replaced(body)));
        answer.headers.insert(CONTENT_LENGTH, length.into());
        if length > 0 {
            let kind = self.content_type.clone();
            answer.headers.insert(CONTENT_TYPE, kind);
        }
        if let Some(changes) = changes {
            changes.apply(answer.headers);
        }
    }
}

/// What a response is matched by.
struct Response<'r> {
    status: StatusCode,
    headers: &'r HeaderMap,
}

impl Inputs for Response<'_> {
    fn value<'i>(&'i self, input: &Input) -> Option<Cow<'i, [u8]>> {
        match input {
            Input::ResponseStatus => Some(Cow::Borrowed(self.status.as_str().as_bytes())),
            Input::ResponseClass => {
                let class = format!("{}xx", self.status.as_u16() / 100);
                Some(Cow::Owned(class.into_bytes()))
            }
            Input::ResponseHeader(name) if name == ":status" => {
                Some(Cow::Borrowed(self.status.as_str().as_bytes()))
            }
            Input::ResponseHeader(name) => joined(Values::of(self.headers, name)),
            _ => None,
        }
    }
}

impl CustomResponse {
    fn find(&self, answer: &Answer<'_>) -> Option<Arc<Policy>> {
        let response = Response {
            status: answer.status,
            headers: answer.headers,
        };
        self.tree.find(&response).cloned()
    }
}

impl HttpFilter for CustomResponse {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let mut of_routes = stream.route_configs::<Self>();
        if self.redirects || of_routes.any(|custom| custom.redirects) {
            redirect::keep(stream);
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        if redirect::finish(answer) {
            return;
        }
        let mut of_routes = answer.route_configs::<Self>().rev();
        let policy = of_routes.find_map(|custom| custom.find(answer));
        let policy = policy.or_else(|| self.find(answer));
        let Some(policy) = policy else {
            return;
        };
        match &*policy {
            Policy::Local(local) => local.apply(answer),
            Policy::Elsewhere(elsewhere) => elsewhere.go(&policy, answer, &self.counts),
        }
    }

    fn wants(&self) -> Wants {
        self.wants.clone()
    }
}

/// A body in the place of another, whose trailers go with it.
struct Replaced(Bytes);

impl Transform for Replaced {
    fn data(&mut self, _: Bytes, _: &mut Frames) -> Result<(), BodyError> {
        Ok(())
    }

    fn end(&mut self, _: Option<HeaderMap>, out: &mut Frames) -> Result<(), BodyError> {
        if !self.0.is_empty() {
            out.push_back(Frame::data(std::mem::take(&mut self.0)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use serde_json::{Value, json};

    use super::*;
    use crate::filter::testing::Nowhere;

    const MATCHER: &str = "type.googleapis.com/envoy.type.matcher.v3";
    const POLICY: &str = "type.googleapis.com/envoy.extensions.http.custom_response";

    fn custom(input: &str, value: &str, policy: &Value) -> Result<CustomResponse, String> {
        let single = json!({
            "input": { "name": "i", "typed_config": { "@type": format!("{MATCHER}.{input}") } },
            "value_match": { "exact": value },
        });
        let config = json!({
            "@type": format!("type.googleapis.com/{}", FACTORY.message),
            "custom_response_matcher": { "matcher_list": { "matchers": [{
                "predicate": { "single_predicate": single },
                "on_match": { "action": { "name": "a", "typed_config": policy } },
            }] } },
        });
        let any = text::any_from_value(&config).expect("a message");
        decoded(&TypedExtension::from_any("x", any), &Context::default()).map_err(|e| e.to_string())
    }

    fn local(fields: Value) -> Value {
        let mut policy = fields;
        let message = "local_response_policy.v3.LocalResponsePolicy";
        policy["@type"] = json!(format!("{POLICY}.{message}"));
        policy
    }

    #[test]
    fn an_answer_of_a_class_is_replaced() {
        let policy = local(json!({
            "body": { "inline_string": "later" },
            "status_code": 499,
            "response_headers_to_add": [{ "header": { "key": "x-foo", "value": "x-bar" } }],
        }));
        let input = "HttpResponseStatusCodeClassMatchInput";
        let custom = custom(input, "5xx", &policy).unwrap();
        let answered = |status: u16| {
            let around = Nowhere::default();
            let mut headers = HeaderMap::new();
            headers.insert("x-old", HeaderValue::from_static("1"));
            let status = StatusCode::from_u16(status).unwrap();
            let mut answer = Answer::new(status, &mut headers, Some(&around));
            custom.response(&mut answer);
            let status = answer.status.as_u16();
            let mut out = Frames::new();
            for mut transform in answer.into_outcome().transforms {
                transform
                    .data(Bytes::from_static(b"old"), &mut out)
                    .unwrap();
                transform.end(None, &mut out).unwrap();
            }
            let body = out.pop_front().and_then(|frame| frame.into_data().ok());
            (status, headers, body)
        };
        let (status, headers, body) = answered(503);
        assert_eq!((status, body), (499, Some(Bytes::from_static(b"later"))));
        assert_eq!(headers["x-foo"], "x-bar");
        assert_eq!(headers["content-length"], "5");
        assert_eq!(headers["content-type"], "text/plain");
        assert!(!headers.contains_key("x-old"));
        let (status, headers, body) = answered(404);
        assert_eq!((status, body), (404, None));
        assert_eq!(headers["x-old"], "1");
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_its_place() {
        let at = "custom_response_matcher.matcher_list.matchers[0].on_match.action.typed_config";
        let input = "HttpResponseStatusCodeMatchInput";
        for (fields, told) in [
            (json!({}), "redirect_action_specifier: must be given"),
            (json!({"uri": "/404"}), "uri: \"/404\" is no URL of HTTP"),
            (
                json!({"redirect_action": {"prefix_rewrite": "/a"}}),
                "redirect_action.prefix_rewrite: is not for answers, as in Envoy",
            ),
            (
                json!({"redirect_action": {"response_code": "FOUND"}}),
                "redirect_action.response_code: has no meaning here: status_code has",
            ),
        ] {
            let mut redirect = fields;
            redirect["@type"] = json!(format!("{POLICY}.redirect_policy.v3.RedirectPolicy"));
            let refused = custom(input, "503", &redirect).unwrap_err();
            assert_eq!(refused, format!("{at}.{told}"));
        }
        let status = local(json!({ "status_code": 100 }));
        assert_eq!(
            custom(input, "503", &status).unwrap_err(),
            format!("{at}.status_code: 100 is not within 200 and 599")
        );
        let of_request = custom("HttpRequestHeaderMatchInput", "x", &status).unwrap_err();
        assert!(of_request.contains("input"), "{of_request}");
    }
}
