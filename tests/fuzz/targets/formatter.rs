//! A substitution format, and behind a NUL what a header says: parsed and filled.
#![no_main]

use std::time::{Duration, SystemTime};

use causeway::formatter::{Facts, Key, MAX_TEXT, Template, Value, Wants};
use causeway_xds::resource::format::{Fact, Format, Point};
use http::HeaderName;
use libfuzzer_sys::fuzz_target;

/// Whatever is asked, the answer is the same bytes.
struct Same<'f>(&'f [u8]);

impl Facts for Same<'_> {
    fn request(&self, _: &Key) -> Value<'_> {
        Value::Bytes(self.0.into())
    }
    fn response(&self, _: &Key) -> Value<'_> {
        Value::Bytes(self.0.into())
    }
    fn trailer(&self, _: &HeaderName) -> Value<'_> {
        Value::Bytes(self.0.into())
    }
    fn fact(&self, _: Fact) -> Value<'_> {
        Value::Text(String::from_utf8_lossy(self.0))
    }
    fn start(&self) -> SystemTime {
        let seconds = self.0.iter().fold(0, |all, byte| all << 3 ^ u64::from(*byte));
        SystemTime::UNIX_EPOCH + Duration::new(seconds >> 30, self.0.len() as u32)
    }
    fn point(&self, point: Point) -> Option<Duration> {
        (point != Point::UpstreamRxEnd).then(|| Duration::from_nanos(self.0.len() as u64))
    }
}

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0);
    let (format, said) = data.split_at(at.unwrap_or(data.len()));
    let Ok(text) = std::str::from_utf8(format) else {
        return;
    };
    match Format::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(format) => {
            let template = Template::compile(&format, "-");
            template.note(&mut Wants::default());
            assert!(template.render(&Same(said)).len() <= MAX_TEXT);
            let quoted = template.quoted().render(&Same(said));
            assert!(quoted.len() <= MAX_TEXT);
        }
    }
});
