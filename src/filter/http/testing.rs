//! Messages that the tests of filters share.

use causeway_xds::proto::core::RuntimeFractionalPercent;
use causeway_xds::proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use causeway_xds::proto::envoy::r#type::v3::FractionalPercent;

/// All requests.
pub fn always() -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        runtime_key: String::new(),
    }
}

pub fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        ignore_case: false,
        match_pattern: Some(string_matcher::MatchPattern::Exact(text.into())),
    }
}
