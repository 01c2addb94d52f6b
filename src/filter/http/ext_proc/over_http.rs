//! A processor that is asked over HTTP (`ExtProcHttpService`): each message is a request of its own, its
//! answer the message of the processor, both as JSON.

use std::time::Duration;

use bytes::Bytes;
use causeway_xds::proto::core;
use causeway_xds::proto::envoy::extensions::filters::http::ext_proc::v3::ExtProcHttpService;
use causeway_xds::proto::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use causeway_xds::refuse;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, HttpUri, each, required};
use causeway_xds::text;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};

use crate::filter::call::{CallError, Calls, fetch};

const REQUEST: &str = "envoy.service.ext_proc.v3.ProcessingRequest";
const RESPONSE: &str = "envoy.service.ext_proc.v3.ProcessingResponse";
/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 1 << 20;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Debug)]
pub struct HttpCall {
    cluster: String,
    host: HeaderValue,
    path: String,
    timeout: Duration,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpCall {
    pub fn decode(message: ExtProcHttpService) -> Result<Self, Invalid> {
        let ExtProcHttpService { http_service } = message;
        let decode = || {
            let core::HttpService {
                http_uri,
                request_headers_to_add,
                formatters,
            } = required(http_service, "http_service")?;
            refuse!(formatters);
            let HttpUri {
                uri,
                cluster,
                timeout,
            } = HttpUri::decode(required(http_uri, "http_uri")?).at("http_uri")?;
            let parsed = uri.parse::<Uri>().ok();
            let host = parsed.as_ref().and_then(Uri::authority);
            let host = host.and_then(|host| HeaderValue::try_from(host.as_str()).ok());
            let host = host.ok_or_else(|| Invalid::at("http_uri.uri", "is no absolute URI"))?;
            let path = parsed.as_ref().and_then(Uri::path_and_query);
            Ok(Self {
                cluster,
                host,
                path: path.map_or("/", |path| path.as_str()).to_owned(),
                timeout,
                headers: each("request_headers_to_add", request_headers_to_add, header)?,
            })
        };
        decode().at("http_service")
    }

    /// # Errors
    /// There is no answer, or none that is a message.
    pub async fn ask(
        &self,
        calls: &dyn Calls,
        message: &ProcessingRequest,
    ) -> Result<ProcessingResponse, CallError> {
        let body = Bytes::from(text::message_to_value(message, REQUEST).to_string());
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self
            .path
            .parse()
            .map_err(|_| CallError::Unreachable("a path that is none".to_owned()))?;
        let length = request.body().len();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, JSON);
        headers.insert(CONTENT_LENGTH, length.into());
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        let answer = fetch(calls, &self.cluster, request, self.timeout, MAX_ANSWER).await?;
        if answer.status() != StatusCode::OK {
            let status = answer.status().as_u16();
            return Err(CallError::Broken(format!("status {status}")));
        }
        let value = serde_json::from_slice(answer.body());
        let value = value.map_err(|e| CallError::Broken(e.to_string()))?;
        text::value_of(&value, RESPONSE).map_err(|e| CallError::Broken(e.to_string()))
    }
}

/// Literal values: nothing of a request is told in them.
fn header(option: core::HeaderValueOption) -> Result<(HeaderName, HeaderValue), Invalid> {
    let edit = causeway_xds::resource::parts::header_edit(option)?;
    let value = edit
        .value
        .literal()
        .ok_or_else(|| Invalid::at("header.value", "formats are not supported yet"))?;
    match (edit.name.parse(), value.parse()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(Invalid::at("header", "is none")),
    }
}
