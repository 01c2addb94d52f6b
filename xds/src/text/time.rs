//! Durations and timestamps as text.

use super::fault::Fault;
use super::node::{Node, Value};
use super::scalar::{Scalar, expected};

/// Seconds and nanoseconds: fields 1 and 2 of both `Duration` and `Timestamp`.
#[allow(clippy::cast_sign_loss)] // sign extension, as the wire format prescribes
fn write_time(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
        if value != 0 {
            Scalar::Varint(value as u64).write_field(number, out);
        }
    }
}

pub(super) fn duration(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let text = match &node.value {
        Value::String(text) => text,
        Value::Int(n) => {
            return Err(Fault::new(node.place, "a duration needs a unit")
                .hint(Some(format!("for seconds write \"{n}s\""))));
        }
        _ => return Err(expected("a duration", node)),
    };
    let Some((seconds, nanos)) = parse_duration(text) else {
        return Err(Fault::new(node.place, format!("not a duration: {text:?}"))
            .hint(Some(duration_hint(text))));
    };
    write_time(seconds, nanos, out);
    Ok(())
}

/// `[-]seconds[.fraction]s`, the only form there is in proto3 JSON.
fn parse_duration(text: &str) -> Option<(i64, i32)> {
    const MAX_SECONDS: i64 = 315_576_000_000;
    let number = text.strip_suffix('s')?;
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |n| (-1, n));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let seconds: i64 = digits(whole)?.parse().ok()?;
    let nanos = nanos(fraction)?;
    (seconds <= MAX_SECONDS).then_some((sign * seconds, i32::try_from(sign).ok()? * nanos))
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// Up to nine digits after the point.
fn nanos(fraction: &str) -> Option<i32> {
    if fraction.is_empty() {
        return Some(0);
    }
    let width = digits(fraction).filter(|f| f.len() <= 9)?.len();
    let value: i32 = fraction.parse().ok()?;
    Some(value * 10i32.pow(u32::try_from(9 - width).ok()?))
}

/// Other tools' units, said in seconds.
fn duration_hint(text: &str) -> String {
    const MILLIS: [(&str, u64); 3] = [("ms", 1), ("m", 60_000), ("h", 3_600_000)];
    for (unit, millis) in MILLIS {
        let number = text
            .strip_suffix(unit)
            .and_then(|n| n.trim().parse::<u64>().ok());
        let Some(total) = number.and_then(|n| n.checked_mul(millis)) else {
            continue;
        };
        let (seconds, rest) = (total / 1000, total % 1000);
        return if rest == 0 {
            format!("write \"{seconds}s\"")
        } else {
            format!("write \"{seconds}.{rest:03}s\"")
        };
    }
    "write seconds, such as \"1.5s\"".to_owned()
}

pub(super) fn timestamp(node: &Node<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let Value::String(text) = &node.value else {
        return Err(expected("a timestamp", node));
    };
    let Some((seconds, nanos)) = parse_timestamp(text) else {
        let reason = format!("not a timestamp: {text:?}");
        return Err(Fault::new(node.place, reason)
            .hint(Some("write it as \"2026-01-31T12:00:00Z\"".to_owned())));
    };
    write_time(seconds, nanos, out);
    Ok(())
}

/// RFC 3339, section 5.6.
fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut date = date.splitn(3, '-').map(|p| digits(p)?.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, offset) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|p| digits(p)?.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let in_range = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let offset = if matches!(offset, "Z" | "z") {
        0
    } else {
        let (hours, minutes) = offset[1..].split_once(':')?;
        let hours: i64 = digits(hours)?.parse().ok().filter(|h| *h < 24)?;
        let minutes: i64 = digits(minutes)?.parse().ok().filter(|m| *m < 60)?;
        (hours * 60 + minutes) * if offset.starts_with('-') { -60 } else { 60 }
    };
    let days = days_since_epoch(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some((seconds, nanos(fraction)?))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |y: i64| y / 4 - y / 100 + y / 400;
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let months: i64 = (1..month).map(|m| days_in(year, m)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds() {
        assert_eq!(parse_duration("5s"), Some((5, 0)));
        assert_eq!(parse_duration("0.25s"), Some((0, 250_000_000)));
        assert_eq!(parse_duration("-1.5s"), Some((-1, -500_000_000)));
        for wrong in [
            "500ms",
            "5",
            "s",
            ".5s",
            "1e3s",
            "+1s",
            "1.0000000000s",
            "315576000001s",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert_eq!(duration_hint("500ms"), "write \"0.500s\"");
        assert_eq!(duration_hint("5m"), "write \"300s\"");
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        assert_eq!(parse_timestamp("1970-01-01T00:00:00Z"), Some((0, 0)));
        assert_eq!(
            parse_timestamp("2026-11-24T12:30:00.5+09:00"),
            Some((1_795_491_000, 500_000_000))
        );
        assert_eq!(
            parse_timestamp("2024-02-29T00:00:00Z"),
            Some((1_709_164_800, 0))
        );
        for wrong in [
            "2023-02-29T00:00:00Z",
            "2023-01-01",
            "2023-01-01T24:00:00Z",
            "T",
            "-T:Z",
        ] {
            assert_eq!(parse_timestamp(wrong), None, "{wrong}");
        }
    }
}
