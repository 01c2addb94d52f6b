//! Times as a format spells them, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_xds::resource::format::{TimeFormat, TimePart};

use crate::util::time::{civil, timestamp};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment, taken apart.
struct Civil {
    since: Duration,
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: u64,
    /// 1 is the first of January.
    yearday: u64,
}

impl Civil {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let yearday = BEFORE[month as usize - 1] + day + u64::from(leap && month > 2);
        Self {
            since,
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            weekday: (days + 4) % 7,
            yearday,
        }
    }

    /// Year and week of ISO 8601: the week belongs to the year that its Thursday is in.
    fn iso_week(&self) -> (u64, u64) {
        let from_monday = (self.weekday + 6) % 7;
        let days = self.since.as_secs() / 86_400;
        let thursday = UNIX_EPOCH + Duration::from_secs((days + 3 - from_monday) * 86_400);
        let thursday = Self::of(thursday);
        (thursday.year, (thursday.yearday - 1) / 7 + 1)
    }

    fn conversion(&self, c: char) -> String {
        let (y, mo, d) = (self.year, self.month, self.day);
        let (h, m, s) = (self.hour, self.minute, self.second);
        let h12 = (h + 11) % 12 + 1;
        let half = if h < 12 { "AM" } else { "PM" };
        let day = DAYS[self.weekday as usize];
        let month = MONTHS[mo as usize - 1];
        match c {
            'a' => day[..3].to_owned(),
            'A' => day.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'B' => month.to_owned(),
            'c' => format!(
                "{} {} {d:>2} {h:02}:{m:02}:{s:02} {y}",
                &day[..3],
                &month[..3]
            ),
            'C' => format!("{:02}", y / 100),
            'd' => format!("{d:02}"),
            'D' | 'x' => format!("{mo:02}/{d:02}/{:02}", y % 100),
            'e' => format!("{d:>2}"),
            'F' => format!("{y}-{mo:02}-{d:02}"),
            'g' => format!("{:02}", self.iso_week().0 % 100),
            'G' => self.iso_week().0.to_string(),
            'H' => format!("{h:02}"),
            'I' => format!("{h12:02}"),
            'j' => format!("{:03}", self.yearday),
            'm' => format!("{mo:02}"),
            'M' => format!("{m:02}"),
            'p' => half.to_owned(),
            'R' => format!("{h:02}:{m:02}"),
            'S' => format!("{s:02}"),
            'T' | 'X' => format!("{h:02}:{m:02}:{s:02}"),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'V' => format!("{:02}", self.iso_week().1),
            'w' => self.weekday.to_string(),
            'y' => format!("{:02}", y % 100),
            'Y' => y.to_string(),
            'z' => "+0000".to_owned(),
            ':' => "+00:00".to_owned(),
            'Z' => "UTC".to_owned(),
            other => format!("%{other}"),
        }
    }

    /// So many digits of the fraction.
    fn fraction(&self, digits: u8) -> String {
        let nanos = format!("{:09}", self.since.subsec_nanos());
        nanos[..usize::from(digits.min(9))].to_owned()
    }
}

pub(super) fn render(time: SystemTime, format: &TimeFormat) -> String {
    let TimeFormat::Parts(parts) = format else {
        return timestamp(time);
    };
    let civil = Civil::of(time);
    let mut out = String::with_capacity(32);
    for part in parts {
        match part {
            TimePart::Text(text) => out.push_str(text),
            TimePart::Conversion(c) => out.push_str(&civil.conversion(*c)),
            TimePart::Epoch(digits) => {
                out.push_str(&civil.since.as_secs().to_string());
                out.push_str(&civil.fraction(*digits));
            }
            TimePart::Fraction(digits) => out.push_str(&civil.fraction(*digits)),
            TimePart::Seconds(digits) => {
                out.push_str(&format!("{:02}", civil.second));
                if *digits > 0 {
                    out.push('.');
                    out.push_str(&civil.fraction(*digits));
                }
            }
            TimePart::ExactSeconds => {
                out.push_str(&format!("{:02}", civil.second));
                let fraction = civil.fraction(9);
                let fraction = fraction.trim_end_matches('0');
                if !fraction.is_empty() {
                    out.push('.');
                    out.push_str(fraction);
                }
            }
        }
    }
    out
}
