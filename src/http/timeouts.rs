//! How long one request may take: what its route says, changed by what the request says.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::reply::is_grpc;
use crate::route::action::{Forward, milliseconds};

pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const ALTERNATIVE: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Zero is none everywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// Of all attempts together.
    pub route: Duration,
    pub per_try: Duration,
    pub per_try_idle: Duration,
    /// From the head of the request to the end of the response.
    pub duration: Duration,
    /// A timeout is answered by 204 (`x-envoy-upstream-rq-timeout-alt-response`).
    pub alternative: bool,
}

impl Timeouts {
    /// Also tells the upstream what to expect. `asks` is whether the request has `x-envoy-*`
    /// fields, and `manager` the connection manager's `max_stream_duration`.
    pub fn of(
        forward: &Forward,
        manager: Duration,
        headers: &mut HeaderMap,
        asks: bool,
        tell: bool,
    ) -> Self {
        let mut timeouts = Self {
            route: forward.timeout,
            duration: manager,
            ..Self::default()
        };
        if let Some(retry) = &forward.retry {
            timeouts.per_try = retry.per_try_timeout;
            timeouts.per_try_idle = retry.per_try_idle_timeout;
        }
        if forward.max_stream_duration.is_some() || !manager.is_zero() {
            timeouts.limit_duration(forward, headers);
        }
        let mut changed = timeouts.by_grpc(forward, headers);
        if asks {
            changed |= timeouts.by_request(headers);
        }
        if !timeouts.route.is_zero() && timeouts.per_try >= timeouts.route {
            timeouts.per_try = Duration::ZERO;
        }
        if tell {
            let told = match changed {
                false => forward.timeout_header.clone(),
                true => timeouts.expected(Duration::ZERO).map(milliseconds),
            };
            if let Some(told) = told {
                headers.insert(EXPECTED_TIMEOUT, told);
            }
        }
        timeouts
    }

    /// What an attempt can be told after some of the time is over.
    pub fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let limit = match self.per_try.is_zero() {
            true => self.route,
            false => self.per_try,
        };
        if limit.is_zero() {
            return None;
        }
        if self.route.is_zero() {
            return Some(limit);
        }
        // Zero would mean that there is no limit.
        let left = self
            .route
            .saturating_sub(elapsed)
            .max(Duration::from_millis(1));
        Some(limit.min(left))
    }

    /// The fields by which a request changes its limits; they go no further.
    fn by_request(&mut self, headers: &mut HeaderMap) -> bool {
        let mut take = |name: &HeaderName| {
            let value = headers.remove(name)?;
            value.to_str().ok()?.parse().ok().map(Duration::from_millis)
        };
        let (route, per_try) = (take(&TIMEOUT), take(&PER_TRY));
        self.route = route.unwrap_or(self.route);
        self.per_try = per_try.unwrap_or(self.per_try);
        self.alternative = headers.remove(ALTERNATIVE).is_some();
        route.is_some() || per_try.is_some()
    }

    /// `max_grpc_timeout`.
    fn by_grpc(&mut self, forward: &Forward, headers: &mut HeaderMap) -> bool {
        let rule = forward.grpc_timeout.as_deref();
        let Some(rule) = rule.filter(|_| is_grpc(headers)) else {
            return false;
        };
        let mut asked = grpc_timeout(headers).unwrap_or_default();
        if let Some(offset) = rule.offset
            && offset < asked
        {
            asked -= offset;
        }
        if !rule.max.is_zero() && (asked.is_zero() || asked > rule.max) {
            asked = rule.max;
        }
        self.route = asked;
        if !asked.is_zero() {
            headers.insert(GRPC_TIMEOUT, grpc_text(asked));
        }
        true
    }

    fn limit_duration(&mut self, forward: &Forward, headers: &mut HeaderMap) {
        let rule = forward.max_stream_duration.as_deref().copied();
        let rule = rule.unwrap_or_default();
        let asked = grpc_timeout(headers);
        match (asked, rule.grpc_max) {
            (Some(asked), Some(max)) => {
                let mut limit = asked;
                if !max.is_zero() && limit > max {
                    limit = max;
                }
                if let Some(offset) = rule.grpc_offset
                    && !limit.is_zero()
                {
                    limit = limit.saturating_sub(offset);
                }
                // No time at all, which is not the same as no limit.
                self.duration = limit.max(Duration::from_millis(1));
                headers.insert(GRPC_TIMEOUT, grpc_text(limit));
            }
            _ => {
                self.duration = rule.limit.unwrap_or(self.duration);
                if asked.is_some() && !self.duration.is_zero() {
                    headers.insert(GRPC_TIMEOUT, grpc_text(self.duration));
                }
            }
        }
    }
}

/// "TimeoutValue TimeoutUnit" of gRPC over HTTP/2: at most eight digits and a letter.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    let exact = match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    };
    // To whole milliseconds, upwards.
    Some(Duration::from_millis(
        u64::try_from(exact.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
    ))
}

/// In the smallest unit from milliseconds on that takes eight digits.
fn grpc_text(time: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let ms = time.as_millis();
    let units = [(1, "m"), (1000, "S"), (60_000, "M"), (3_600_000, "H")];
    let fits = units.iter().find(|(per, _)| ms / per <= MOST);
    let text = fits.map_or_else(
        || format!("{MOST}H"),
        |(per, unit)| format!("{}{unit}", ms / per),
    );
    HeaderValue::try_from(text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        let read = |text: &'static str| {
            grpc_timeout(&HeaderMap::from_iter([(
                GRPC_TIMEOUT,
                HeaderValue::from_static(text),
            )]))
        };
        for (text, ms) in [
            ("200m", 200),
            ("5S", 5000),
            ("1M", 60_000),
            ("1H", 3_600_000),
            ("1500u", 2),
            ("1n", 1),
        ] {
            assert_eq!(read(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "m", "1", "1x", "123456789m", "-1S", "1 m"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(grpc_text(Duration::from_millis(400)), "400m");
        assert_eq!(grpc_text(Duration::from_secs(100_000)), "100000S");
    }

    #[test]
    fn an_attempt_is_told_what_is_left() {
        let ms = Duration::from_millis;
        let mut timeouts = Timeouts {
            route: ms(500),
            per_try: ms(200),
            ..Timeouts::default()
        };
        assert_eq!(timeouts.expected(ms(0)), Some(ms(200)));
        assert_eq!(timeouts.expected(ms(412)), Some(ms(88)));
        assert_eq!(timeouts.expected(ms(600)), Some(ms(1)));
        timeouts.route = Duration::ZERO;
        assert_eq!(timeouts.expected(ms(600)), Some(ms(200)));
        assert_eq!(Timeouts::default().expected(ms(1)), None);
    }
}
