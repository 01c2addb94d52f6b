//! Times as text, and limits that are spread by chance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A limit with up to so many percent of it more, by chance, so that what began together does not end
/// together.
pub fn jittered(limit: Duration, percent: f64) -> Duration {
    let share = limit.mul_f64(percent / 100.0 * fastrand::f64());
    limit.checked_add(share).unwrap_or(limit)
}

/// RFC 3339 with milliseconds, as proto3 JSON prints a timestamp.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let ms = since.subsec_millis();
    // Digit by digit: every line of an access log has one.
    let mut text = String::with_capacity(24);
    let mut put = |number: u64, digits: u32, end: char| {
        for place in (0..digits).rev() {
            let digit = (number / 10_u64.pow(place) % 10) as u8;
            text.push(char::from(b'0' + digit));
        }
        text.push(end);
    };
    put(year, 4, '-');
    put(month, 2, '-');
    put(day, 2, 'T');
    put(h, 2, ':');
    put(m, 2, ':');
    put(s, 2, '.');
    put(u64::from(ms), 3, 'Z');
    text
}

/// Reads RFC 3339, of any offset, with at most nanoseconds. `None` for anything else, and for what
/// is before 1970.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let bytes = text.as_bytes();
    let is = |at: usize, allowed: &[u8]| bytes.get(at).is_some_and(|b| allowed.contains(b));
    let separated = [
        (4, &b"-"[..]),
        (7, b"-"),
        (10, b"Tt "),
        (13, b":"),
        (16, b":"),
    ];
    if !separated.iter().all(|(at, allowed)| is(*at, allowed)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (h, m, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || h > 23 || m > 59 || s > 60 {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let scale = 9_u32.checked_sub(u32::try_from(length).ok()?)?;
        nanos = fraction[..length].parse::<u32>().ok()? * 10_u32.pow(scale);
        rest = &fraction[length..];
    }
    let seconds = days_of(year, month, day)? * 86_400 + h * 3600 + m * 60 + s;
    let seconds = seconds.checked_add_signed(-offset(rest)?)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// `Z`, `+hh:mm` or `-hh:mm`, in seconds.
fn offset(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let size = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    match text.as_bytes().first()? {
        b'+' => Some(size),
        b'-' => Some(-size),
        _ => None,
    }
}

/// The inverse of [`civil`]; `None` before 1970.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month_from_march) = if month < 3 {
        (year.checked_sub(1)?, month + 9)
    } else {
        (year, month - 3)
    };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// IMF-fixdate (RFC 9110 section 5.6.7), of seconds since 1970.
pub fn http_date(second: u64) -> String {
    // 1970 began on a Thursday.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, of_day) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let name = |names: &[&'static str], at: u64| names[usize::try_from(at).unwrap_or_default()];
    let (weekday, month) = (name(&DAYS, days % 7), name(&MONTHS, month - 1));
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{weekday}, {day:02} {month} {year:04} {h:02}:{m:02}:{s:02} GMT")
}

/// Days since 1970 -> year, month, day. Years begin in March here, so that the leap day is last.
pub fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            // The example of the RFC.
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(second), text);
        }
    }

    #[test]
    fn timestamps_are_civil() {
        let at =
            |seconds: u64, ms: u32| timestamp(UNIX_EPOCH + Duration::new(seconds, ms * 1_000_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.005Z");
        assert_eq!(at(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let reads = |text: &str, seconds: u64, nanos: u32| {
            let expected = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(parse_timestamp(text), Some(expected), "{text}");
        };
        for (seconds, ms) in [(0, 0), (951_782_400, 5), (1_709_251_199, 999)] {
            let nanos = ms * 1_000_000;
            reads(
                &timestamp(UNIX_EPOCH + Duration::new(seconds, nanos)),
                seconds,
                nanos,
            );
        }
        reads("2024-02-29T23:59:59Z", 1_709_251_199, 0);
        reads("2024-03-01T01:59:59.000001+02:00", 1_709_251_199, 1_000);
        reads("2024-02-29 22:29:59.5-01:30", 1_709_251_199, 500_000_000);
        for bad in [
            "",
            "2024",
            "2024-02-29",
            "2024-02-29T23:59:59",
            "2024-13-29T23:59:59Z",
            "2024-02-29T23:59:59.Z",
            "2024-02-29T23:59:59.0123456789Z",
            "1969-12-31T23:59:59Z",
            "2024-02-29T+3:59:59Z",
            "2024-02-29T23:59:59é",
            "2024-02-29T23:59:59+0200",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}
