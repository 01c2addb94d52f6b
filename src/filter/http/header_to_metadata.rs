//! `envoy.filters.http.header_to_metadata`: headers and cookies become dynamic metadata.
//!
//! Configuration: `envoy.extensions.filters.http.header_to_metadata.v3.Config`; that of a route takes
//! the place of the other.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::envoy::extensions::filters::http::header_to_metadata::v3 as proto;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::metadata::MetadataValue;
use causeway_xds::resource::parts::{self, At, each, enumeration, fault, not_empty};
use http::header::{HeaderMap, HeaderName};
use regex::Regex;

use self::proto::config::{self, ValueEncode, ValueType};
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream, StreamState};
use crate::matching::headers::{Values, cookie_value, joined};
use crate::route::RouteConfig;

const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";
/// Longer values are left out, as with Envoy.
const MAX_VALUE: usize = 8 * 1024;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.header_to_metadata.v3.Config",
    name: NAMESPACE,
    build,
    per_route: &[(
        "envoy.extensions.filters.http.header_to_metadata.v3.Config",
        build_per_route,
    )],
};

#[derive(Debug)]
struct HeaderToMetadata {
    request: Vec<Rule>,
    response: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    from: From,
    present: Option<Target>,
    missing: Option<Target>,
    remove: bool,
}

#[derive(Debug)]
enum From {
    Header(HeaderName),
    Cookie(String),
}

/// Where a value goes.
#[derive(Debug)]
struct Target {
    namespace: String,
    key: String,
    /// Instead of what was found; may be empty.
    value: String,
    rewrite: Option<(Regex, String)>,
    number: bool,
    base64: bool,
}

impl Rule {
    fn decode(message: config::Rule, cookies: bool) -> Result<Self, Invalid> {
        let config::Rule {
            header,
            cookie,
            on_header_present,
            on_header_missing,
            remove,
        } = message;
        let from = match (header.is_empty(), cookie.is_empty()) {
            (false, true) => {
                let name = parts::header_name(&header).at("header")?;
                let name = HeaderName::try_from(name);
                From::Header(name.map_err(|_| Invalid::at("header", "is no header name"))?)
            }
            (true, false) if !cookies => {
                return Err(Invalid::at("cookie", "is for requests only"));
            }
            (true, false) if remove => {
                return Err(Invalid::at("remove", "is for headers only"));
            }
            (true, false) => From::Cookie(cookie),
            _ => return Err(fault("one of header and cookie must be given")),
        };
        let target = |message: Option<_>, field| {
            let target = message.map(Target::decode).transpose();
            target.at(field)
        };
        let present = target(on_header_present, "on_header_present")?;
        let missing = target(on_header_missing, "on_header_missing")?;
        if present.is_none() && missing.is_none() {
            return Err(fault(
                "one of on_header_present and on_header_missing must be given",
            ));
        }
        if missing
            .as_ref()
            .is_some_and(|target| target.value.is_empty())
        {
            return Err(Invalid::at("on_header_missing.value", "must not be empty"));
        }
        Ok(Self {
            from,
            present,
            missing,
            remove,
        })
    }

    fn apply(&self, headers: &mut HeaderMap, state: &StreamState) {
        let found = match &self.from {
            From::Header(name) => joined(Values::of(headers, name.as_str())),
            From::Cookie(name) => {
                let mut lines = Values::of(headers, "cookie");
                lines
                    .find_map(|line| cookie_value(line, name))
                    .map(Cow::Borrowed)
            }
        };
        let target = match found {
            Some(_) => &self.present,
            None => &self.missing,
        };
        if let Some(target) = target {
            let found = found.as_deref().unwrap_or_default();
            if let Some(value) = target.value(found) {
                state.set_metadata(&target.namespace, &target.key, value);
            }
        }
        if self.remove
            && let From::Header(name) = &self.from
        {
            headers.remove(name);
        }
    }
}

impl Target {
    fn decode(message: config::KeyValuePair) -> Result<Self, Invalid> {
        let config::KeyValuePair {
            metadata_namespace,
            key,
            value,
            regex_value_rewrite,
            r#type,
            encode,
        } = message;
        let rewrite = regex_value_rewrite.map(parts::substitution).transpose();
        let rewrite = rewrite.at("regex_value_rewrite")?;
        let rewrite = rewrite.map(|(pattern, to)| {
            let pattern = Regex::new(&pattern).map_err(|_| fault("does not compile"));
            Ok::<_, Invalid>((pattern.at("pattern.regex")?, to))
        });
        let rewrite = rewrite.transpose().at("regex_value_rewrite")?;
        if rewrite.is_some() && !value.is_empty() {
            let reason = "is given together with value";
            return Err(Invalid::at("regex_value_rewrite", reason));
        }
        let number = match enumeration(r#type, "type")? {
            ValueType::String => false,
            ValueType::Number => true,
            ValueType::ProtobufValue => {
                return Err(Invalid::at("type", "PROTOBUF_VALUE is not supported yet"));
            }
        };
        Ok(Self {
            namespace: match metadata_namespace.is_empty() {
                true => NAMESPACE.to_owned(),
                false => metadata_namespace,
            },
            key: not_empty(key, "key")?,
            value,
            rewrite,
            number,
            base64: match enumeration(encode, "encode")? {
                ValueEncode::None => false,
                ValueEncode::Base64 => true,
            },
        })
    }

    /// Nothing for what is empty, too long, or not what it should be.
    fn value(&self, found: &[u8]) -> Option<MetadataValue> {
        let found = match self.value.as_str() {
            "" => String::from_utf8_lossy(found),
            value => Cow::Borrowed(value),
        };
        let text = match &self.rewrite {
            Some((regex, to)) => regex.replace_all(&found, to.as_str()).into_owned(),
            None => found.into_owned(),
        };
        if text.is_empty() || text.len() > MAX_VALUE {
            return None;
        }
        let text = match self.base64 {
            true => String::from_utf8(STANDARD.decode(text).ok()?).ok()?,
            false => text,
        };
        Some(match self.number {
            true => MetadataValue::Number(text.trim().parse().ok()?),
            false => MetadataValue::Text(text),
        })
    }
}

impl HeaderToMetadata {
    fn decode(config: &TypedExtension) -> Result<Self, Invalid> {
        let proto::Config {
            request_rules,
            response_rules,
            stat_prefix,
        } = decode(config)?;
        if !stat_prefix.is_empty() {
            return Err(Invalid::at("stat_prefix", "not supported yet"));
        }
        Ok(Self {
            request: each("request_rules", request_rules, |r| Rule::decode(r, true))?,
            response: each("response_rules", response_rules, |r| Rule::decode(r, false))?,
        })
    }
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    Ok(Arc::new(HeaderToMetadata::decode(config)?))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    HeaderToMetadata::decode(config).map(RouteConfig::new)
}

impl HttpFilter for HeaderToMetadata {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        let rules = &stream.route_config().unwrap_or(self).request;
        let state = stream.state();
        for rule in rules {
            rule.apply(&mut stream.request.headers, state);
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        let rules = &answer.route_config().unwrap_or(self).response;
        let Some(state) = answer.state() else {
            return;
        };
        for rule in rules {
            rule.apply(answer.headers, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn rules(rules: Value) -> Result<HeaderToMetadata, String> {
        let config = json!({
            "@type": format!("type.googleapis.com/{}", FACTORY.message),
            "request_rules": rules,
        });
        let any = text::any_from_value(&config).expect("a message");
        HeaderToMetadata::decode(&TypedExtension::from_any("x", any)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_value_is_taken_from_where_the_rule_says() {
        let rules = rules(json!([
            { "header": "x-version", "remove": true,
              "on_header_present": { "metadata_namespace": "envoy.lb", "key": "version" } },
            { "header": "x-none", "on_header_missing": { "key": "default", "value": "1", "type": "NUMBER" } },
            { "header": "x-b64", "on_header_present": { "key": "plain", "encode": "BASE64" } },
            { "header": "x-word", "on_header_present": { "key": "never", "type": "NUMBER" } },
            { "cookie": "sid", "on_header_present": { "key": "sid",
              "regex_value_rewrite": { "pattern": { "regex": "^(.)(.*)$" }, "substitution": "\\2\\1" } } },
        ]))
        .unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-version", "a"),
            ("x-version", "b"),
            ("x-b64", "aGk="),
            ("x-word", "many"),
            ("cookie", "a=1; sid=123"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let state = StreamState::default();
        for rule in &rules.request {
            rule.apply(&mut headers, &state);
        }
        assert!(!headers.contains_key("x-version") && headers.contains_key("x-b64"));
        let value = |namespace: &str, key: &str| {
            let all = state.metadata(namespace)?;
            all.get(&[key.to_owned()]).cloned()
        };
        let text = |t: &str| Some(MetadataValue::Text(t.to_owned()));
        assert_eq!(value("envoy.lb", "version"), text("a,b"));
        assert_eq!(
            value(NAMESPACE, "default"),
            Some(MetadataValue::Number(1.0))
        );
        assert_eq!(value(NAMESPACE, "plain"), text("hi"));
        assert_eq!(value(NAMESPACE, "sid"), text("231"));
        assert_eq!(value(NAMESPACE, "never"), None);
    }

    #[test]
    fn a_rule_that_cannot_be_followed_is_refused_with_its_place() {
        for (rule, reason) in [
            (
                json!({}),
                "request_rules[0]: one of header and cookie must be given",
            ),
            (
                json!({ "header": "a" }),
                "request_rules[0]: one of on_header_present and on_header_missing must be given",
            ),
            (
                json!({ "header": "a", "on_header_missing": { "key": "k" } }),
                "request_rules[0].on_header_missing.value: must not be empty",
            ),
            (
                json!({ "cookie": "a", "remove": true, "on_header_present": { "key": "k" } }),
                "request_rules[0].remove: is for headers only",
            ),
            (
                json!({ "header": "a", "on_header_present": { "key": "k", "type": "PROTOBUF_VALUE" } }),
                "request_rules[0].on_header_present.type: PROTOBUF_VALUE is not supported yet",
            ),
        ] {
            assert_eq!(rules(json!([rule])).err().unwrap(), reason);
        }
    }
}
