//! When a request is sent again, compiled.

use std::time::{Duration, SystemTime};

use causeway_xds::resource::route as model;
use causeway_xds::resource::route::{BackOff, RateLimited, RetryOn};
use http::header::HeaderName;

use super::matcher::AnyHeader;

/// The policy of a route.
#[derive(Debug)]
pub struct Retry {
    pub on: RetryOn,
    pub retries: u32,
    pub other_hosts: u32,
    /// Zero is none.
    pub per_try_timeout: Duration,
    /// Zero is none.
    pub per_try_idle_timeout: Duration,
    pub status_codes: Vec<u32>,
    /// Of responses.
    pub headers: AnyHeader,
    /// Of requests; none lets every request be sent again.
    pub request_headers: AnyHeader,
    pub back_off: BackOff,
    rate_limited: Option<ResetHeaders>,
}

#[derive(Debug)]
struct ResetHeaders {
    headers: Vec<(HeaderName, bool)>,
    max: Duration,
}

impl Retry {
    pub fn compile(model: &model::Retry) -> Self {
        Self {
            on: model.on,
            retries: model.retries,
            other_hosts: model.other_hosts,
            per_try_timeout: model.per_try_timeout,
            per_try_idle_timeout: model.per_try_idle_timeout,
            status_codes: model.status_codes.clone(),
            headers: AnyHeader::compile(&model.headers),
            request_headers: AnyHeader::compile(&model.request_headers),
            back_off: model.back_off,
            rate_limited: model.rate_limited.as_ref().map(ResetHeaders::compile),
        }
    }

    /// Whether only what was not sent is worth another attempt, whoever asks: as long as nothing
    /// goes wrong a request need not know of such a policy.
    pub fn is_for_unsent(&self) -> bool {
        self.on == RetryOn::CONNECT_FAILURE && self.request_headers.is_empty()
    }

    /// How long an answer asks to be left alone, if it says so in a way that is followed.
    pub fn reset_after(&self, headers: &http::HeaderMap) -> Option<Duration> {
        self.rate_limited
            .as_ref()?
            .after(headers, SystemTime::now())
    }
}

impl ResetHeaders {
    fn compile(model: &RateLimited) -> Self {
        let headers = model.headers.iter();
        Self {
            headers: headers
                .filter_map(|h| Some((h.name.parse().ok()?, h.absolute)))
                .collect(),
            max: model.max,
        }
    }

    fn after(&self, headers: &http::HeaderMap, now: SystemTime) -> Option<Duration> {
        self.headers.iter().find_map(|(name, absolute)| {
            let seconds = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let told = Duration::from_secs(seconds);
            let wait = match absolute {
                false => told,
                true => told.checked_sub(now.duration_since(SystemTime::UNIX_EPOCH).ok()?)?,
            };
            (wait <= self.max).then_some(wait)
        })
    }
}

/// Before the attempt after `made` ones: a random part (of 1) of an interval that doubles.
pub fn back_off(limits: BackOff, made: u32, part: f64) -> Duration {
    let doubled = 1_u32
        .checked_shl(made.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let interval = limits.base.saturating_mul(doubled).min(limits.max);
    // Whole milliseconds, as in Envoy: after an interval of one there is no wait at all.
    Duration::from_millis(interval.mul_f64(part.clamp(0.0, 1.0)).as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn the_interval_doubles_up_to_its_maximum() {
        let limits = BackOff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(35),
        };
        let at = |made| back_off(limits, made, 1.0).as_millis();
        assert_eq!([at(1), at(2), at(3), at(100)], [10, 20, 35, 35]);
        assert_eq!(back_off(limits, 1, 0.59), Duration::from_millis(5));
    }

    #[test]
    fn an_answer_says_when_to_come_back_in_seconds_or_as_a_time() {
        let reset = ResetHeaders::compile(&RateLimited {
            headers: vec![
                model::ResetHeader {
                    name: "retry-after".into(),
                    absolute: false,
                },
                model::ResetHeader {
                    name: "reset-at".into(),
                    absolute: true,
                },
            ],
            max: Duration::from_secs(100),
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        for (after, at, wait) in [
            ("7", "", Some(7)),
            ("", "1005", Some(5)),
            ("101", "1005", Some(5)),
            ("x", "999", None),
            ("", "", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", after.parse().unwrap());
            headers.insert("reset-at", at.parse().unwrap());
            let found = reset.after(&headers, now);
            assert_eq!(found, wait.map(Duration::from_secs), "{after:?} {at:?}");
        }
    }
}
