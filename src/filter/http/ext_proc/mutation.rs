//! What the processor may change of headers, and how it is done.

use causeway_xds::proto::BoolValue;
use causeway_xds::proto::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
use causeway_xds::proto::envoy::service::ext_proc::v3::HeaderMutation;
use causeway_xds::proto::envoy::r#type::matcher::v3 as matcher;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{At, asked_header, flag, string_matcher};
use http::header::HeaderName;

use crate::filter::target::Target;
use crate::matching::text::Test;
use crate::telemetry::stats::Counter;

/// `HeaderMutationRules`
#[derive(Debug, Default)]
pub struct Rules {
    all_routing: bool,
    envoy: bool,
    no_system: bool,
    nothing: bool,
    allow: Option<Test>,
    disallow: Option<Test>,
    is_error: bool,
    /// The processor is believed what it says of lengths.
    length: bool,
}

/// The processor asks for what it may not do, or nobody can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Rules {
    pub fn decode(message: Option<HeaderMutationRules>) -> Result<Self, Invalid> {
        let HeaderMutationRules {
            allow_all_routing,
            allow_envoy,
            disallow_system,
            disallow_all,
            allow_expression,
            disallow_expression,
            disallow_is_error,
        } = message.unwrap_or_default();
        let on = |value: Option<BoolValue>| flag(value, false);
        let test = |regex: Option<matcher::RegexMatcher>, field| {
            let Some(regex) = regex else {
                return Ok(None);
            };
            let pattern = matcher::string_matcher::MatchPattern::SafeRegex(regex);
            let matcher = string_matcher(matcher::StringMatcher {
                ignore_case: false,
                match_pattern: Some(pattern),
            });
            Ok(Some(Test::string(&matcher.at(field)?)))
        };
        Ok(Self {
            all_routing: on(allow_all_routing),
            envoy: on(allow_envoy),
            no_system: on(disallow_system),
            nothing: on(disallow_all),
            allow: test(allow_expression, "allow_expression")?,
            disallow: test(disallow_expression, "disallow_expression")?,
            is_error: on(disallow_is_error),
            length: false,
        })
    }

    pub fn with_length(self, length: bool) -> Self {
        Self { length, ..self }
    }

    /// Of who may change everything.
    pub fn all() -> Self {
        Self {
            all_routing: true,
            envoy: true,
            ..Self::default()
        }
    }

    /// `name` in lower case, a pseudo header with its colon.
    fn allows(&self, name: &str, removed: bool) -> bool {
        let is = |test: &Option<Test>| test.as_ref().is_some_and(|t| t.matches(name.as_bytes()));
        let system = name.starts_with(':');
        if removed && (system || name == "host") {
            return false;
        }
        if is(&self.disallow) {
            return false;
        }
        if is(&self.allow) {
            return true;
        }
        let routing = matches!(name, "host" | ":authority" | ":scheme" | ":method");
        let forbidden = self.nothing
            || self.no_system && system
            || !self.all_routing && routing
            || !self.envoy && name.starts_with("x-envoy");
        !forbidden
    }

    /// Removes first, then sets.
    ///
    /// # Errors
    /// [`Refused`], with part of it done: the message ends here.
    pub fn apply(
        &self,
        mutation: HeaderMutation,
        target: &mut Target<'_>,
        rejected: &Counter,
    ) -> Result<(), Refused> {
        let HeaderMutation {
            set_headers,
            remove_headers,
        } = mutation;
        let refused = || {
            rejected.inc();
            match self.is_error {
                true => Err(Refused),
                false => Ok(()),
            }
        };
        for name in remove_headers {
            let name = name.to_ascii_lowercase();
            if !self.allows(&name, true) {
                refused()?;
            } else if let Ok(name) = name.parse::<HeaderName>() {
                target.headers().remove(name);
            }
        }
        for option in set_headers {
            let Some((name, value, action)) = asked_header(option) else {
                continue;
            };
            // A body that is there has the length that it has.
            if name == "content-length" && !self.length {
                continue;
            }
            if !self.allows(&name, false) {
                refused()?;
            } else if !target.set(&name, &value, action) {
                rejected.inc();
                return Err(Refused);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::proto::core::{HeaderValue as Raw, HeaderValueOption};
    use http::header::HeaderMap;

    use super::*;

    fn set(name: &str, value: &str) -> HeaderMutation {
        HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header: Some(Raw {
                    key: name.into(),
                    raw_value: value.into(),
                    ..Raw::default()
                }),
                ..HeaderValueOption::default()
            }],
            remove_headers: Vec::new(),
        }
    }

    fn rules(change: impl FnOnce(&mut HeaderMutationRules)) -> Rules {
        let mut message = HeaderMutationRules::default();
        change(&mut message);
        Rules::decode(Some(message)).unwrap()
    }

    fn on() -> Option<BoolValue> {
        Some(BoolValue { value: true })
    }

    #[test]
    fn what_decides_about_a_request_is_not_changed_unless_that_is_allowed() {
        let plain = Rules::default();
        for name in [
            "host",
            ":authority",
            ":scheme",
            ":method",
            "x-envoy-retry-on",
        ] {
            assert!(!plain.allows(name, false), "{name}");
        }
        assert!(plain.allows(":path", false) && plain.allows("x-a", false));
        assert!(!plain.allows("host", true) && !plain.allows(":path", true));
        let routing = rules(|rules| rules.allow_all_routing = on());
        assert!(routing.allows("host", false) && !routing.allows("host", true));
        let envoy = rules(|rules| rules.allow_envoy = on());
        assert!(envoy.allows("x-envoy-a", false));
        let system = rules(|rules| rules.disallow_system = on());
        assert!(!system.allows(":path", false) && system.allows("a", false));
    }

    #[test]
    fn an_expression_counts_before_the_rest() {
        let regex = |pattern: &str| {
            Some(matcher::RegexMatcher {
                regex: pattern.into(),
                ..Default::default()
            })
        };
        let rules = rules(|rules| {
            rules.disallow_all = on();
            rules.allow_expression = regex("x-.*");
            rules.disallow_expression = regex("x-no.*");
        });
        assert!(rules.allows("x-a", false) && rules.allows("x-envoy-a", false));
        assert!(!rules.allows("x-no-a", false) && !rules.allows("a", false));
    }

    #[test]
    fn what_is_not_allowed_is_counted_and_may_be_an_error() {
        let counter = Counter::default();
        let mut headers = HeaderMap::new();
        let mut target = Target::Plain(&mut headers);
        let plain = Rules::default();
        assert_eq!(
            plain.apply(set("x-envoy-a", "1"), &mut target, &counter),
            Ok(())
        );
        let strict = rules(|rules| rules.disallow_is_error = on());
        assert_eq!(
            strict.apply(set("x-envoy-a", "1"), &mut target, &counter),
            Err(Refused)
        );
        assert_eq!(counter.value(), 2);
        // No header can have that.
        assert_eq!(
            plain.apply(set("a", "1\r\nb: 2"), &mut target, &counter),
            Err(Refused)
        );
        assert_eq!(
            plain.apply(set("transfer-encoding", "chunked"), &mut target, &counter),
            Err(Refused)
        );
        let length = |text| set("content-length", text);
        assert_eq!(plain.apply(length("7"), &mut target, &counter), Ok(()));
        let believing = Rules::default().with_length(true);
        assert_eq!(
            believing.apply(length("1, 2"), &mut target, &counter),
            Err(Refused)
        );
        assert!(headers.is_empty());
    }

    #[test]
    #[expect(deprecated, reason = "`append` is what processors write")]
    fn values_replace_unless_they_are_to_be_appended() {
        let counter = Counter::default();
        let mut headers = HeaderMap::new();
        let rules = Rules::default();
        let mut both = set("a", "1");
        both.set_headers.extend(set("a", "2").set_headers);
        let mut target = Target::Plain(&mut headers);
        rules.apply(both, &mut target, &counter).unwrap();
        assert_eq!(target.headers().get_all("a").iter().count(), 1);
        let mut more = set("a", "3");
        more.set_headers[0].append = on();
        rules.apply(more, &mut target, &counter).unwrap();
        assert_eq!(target.headers().get_all("a").iter().count(), 2);
        let gone = HeaderMutation {
            set_headers: Vec::new(),
            remove_headers: vec!["A".into()],
        };
        rules.apply(gone, &mut target, &counter).unwrap();
        assert!(headers.is_empty());
    }
}
