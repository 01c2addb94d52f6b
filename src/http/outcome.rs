//! What an attempt came to, as outlier detection counts it.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Response, StatusCode};

use super::attempts::Lost;
use super::retry::Reset;
use crate::cluster::outlier::Outcome;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `connected`: there was a connection to the endpoint. `None`: it says nothing of the endpoint.
pub fn of<B>(attempt: Result<&Response<B>, &Lost>, connected: bool) -> Option<Outcome> {
    match attempt {
        Ok(answer) => {
            let status = grpc(answer.headers()).unwrap_or(answer.status());
            Some(Outcome::Answered(status.as_u16()))
        }
        Err(lost) if lost.is_timeout() => {
            Some(Outcome::TimedOut(lost.failure.status.as_u16(), connected))
        }
        Err(lost) => match lost.reset {
            Reset::Connect => Some(Outcome::Unreachable),
            Reset::Refused | Reset::Broken => Some(Outcome::Reset),
            Reset::Overflow | Reset::Final => None,
        },
    }
}

/// The status of an answer to gRPC that has nothing but a head, as one of HTTP.
fn grpc(headers: &HeaderMap) -> Option<StatusCode> {
    let status = headers.get(GRPC_STATUS)?;
    let kind = headers.get(CONTENT_TYPE)?;
    if !kind.as_bytes().starts_with(b"application/grpc") {
        return None;
    }
    let status: u16 = status.to_str().ok()?.parse().ok()?;
    let status = match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&str, &str)]) -> Option<Outcome> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        of(Ok(&response.body(()).unwrap()), true)
    }

    #[test]
    fn an_answer_counts_by_its_status_and_that_of_grpc_by_its_own() {
        assert_eq!(answer(404, &[]), Some(Outcome::Answered(404)));
        let grpc = ("content-type", "application/grpc+proto");
        let status = |value| answer(200, &[grpc, ("grpc-status", value)]);
        assert_eq!(status("0"), Some(Outcome::Answered(200)));
        assert_eq!(status("14"), Some(Outcome::Answered(503)));
        assert_eq!(status("5"), Some(Outcome::Answered(404)));
        assert_eq!(status("77"), Some(Outcome::Answered(500)));
        assert_eq!(status("word"), Some(Outcome::Answered(200)));
        let other = answer(200, &[("grpc-status", "14")]);
        assert_eq!(other, Some(Outcome::Answered(200)));
    }
}
