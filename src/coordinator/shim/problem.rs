//! Problem documents (RFC 9457), with the types that Backend.AI uses.

use std::error::Error;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use crate::coordinator::{Fault, PushError};

/// What a refused request is told.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// What follows `https://api.backend.ai/probs/`.
    kind: &'static str,
    title: &'static str,
    fault: Fault,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind,
            title,
            fault: Fault::at("", detail.into()),
        }
    }

    pub fn unauthorised() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid-credentials",
            "Authentication credentials not valid.",
            "header X-BackendAI-Token is missing or wrong",
        )
    }

    pub fn method_not_allowed() -> Self {
        let title = "Method not allowed.";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            title,
            "see Allow",
        )
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-api-params",
            INVALID,
            detail,
        )
    }

    /// The text of the error has the line and column.
    pub fn bad_json(error: &serde_json::Error) -> Self {
        Self::bad_request(error.to_string())
    }

    pub fn unread_body(error: &axum::Error, limit: usize) -> Self {
        let too_long = error
            .source()
            .is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
        if too_long {
            let detail = format!("the body is longer than {limit} bytes");
            Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid-api-params",
                INVALID,
                detail,
            )
        } else {
            Self::bad_request(format!("the body could not be read: {error}"))
        }
    }

    pub fn internal(error: &dyn Error) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal-server-error",
            "Internal server error.",
            error.to_string(),
        )
    }
}

const INVALID: &str = "Missing or invalid API parameters.";

impl From<PushError> for Problem {
    fn from(error: PushError) -> Self {
        let detail = error.to_string();
        match error {
            PushError::Invalid(fault) | PushError::Refused { fault, .. } => Self {
                fault,
                ..Self::bad_request("")
            },
            PushError::Conflict(fault) => Self {
                fault,
                ..Self::new(StatusCode::CONFLICT, "generic-conflict", "Conflict.", "")
            },
            PushError::Unknown(_) => Self::new(
                StatusCode::NOT_FOUND,
                "generic-not-found",
                "Not found.",
                detail,
            ),
            PushError::Stopped => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "service-unavailable",
                "Service unavailable.",
                detail,
            ),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = json!({
            "type": format!("https://api.backend.ai/probs/{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.fault.to_string(),
        });
        if !self.fault.field.is_empty() {
            document["field"] = json!(self.fault.field);
        }
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, kind, document.to_string()).into_response()
    }
}
