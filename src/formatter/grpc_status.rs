//! The gRPC status of an answer, wherever it is said.

use causeway_xds::resource::format::{Fact, GrpcStatusForm};
use http::header::{CONTENT_TYPE, HeaderName};

use crate::formatter::facts::{Facts, Key, Value};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// In the order of their numbers, in both forms.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The number of the gRPC status of an answer: from its trailers, its head, or the HTTP status.
pub fn grpc_status_number(facts: &dyn Facts) -> Option<u64> {
    let number = |value: Value<'_>| std::str::from_utf8(value.bytes()?).ok()?.parse().ok();
    let told = number(facts.trailer(&GRPC_STATUS))
        .or_else(|| number(facts.response(&Key::Field(GRPC_STATUS))));
    told.or_else(|| match facts.fact(Fact::ResponseCode) {
        Value::Number(code) => Some(match code {
            200 => 0,
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        }),
        _ => None,
    })
}

pub(super) fn grpc_status(facts: &dyn Facts, form: GrpcStatusForm) -> Value<'static> {
    let kind = facts.request(&Key::Field(CONTENT_TYPE));
    let is_grpc = kind.bytes().is_some_and(|kind| {
        kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';'))
    });
    let Some(number) = is_grpc.then(|| grpc_status_number(facts)).flatten() else {
        return Value::Missing;
    };
    let known = usize::try_from(number)
        .ok()
        .and_then(|n| GRPC_STATUSES.get(n));
    match (form, known) {
        (GrpcStatusForm::Number, _) => Value::Number(number),
        (GrpcStatusForm::Camel, Some((camel, _))) => Value::word(camel),
        (GrpcStatusForm::Snake, Some((_, snake))) => Value::word(snake),
        (_, None) => Value::shown(Some(number)),
    }
}
