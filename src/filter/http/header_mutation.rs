//! `envoy.filters.http.header_mutation`: changes headers and the query, of its own and as routes say.
//!
//! Configuration: `envoy.extensions.filters.http.header_mutation.v3`. Mutations happen one after
//! another, each on what the one before has left: those of the filter first, then those of the
//! routes from the most specific level to the most general one, or the other way round where
//! `most_specific_header_mutations_wins`.

use std::sync::Arc;

use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::core::key_value_append::KeyValueAppendAction;
use causeway_xds::proto::core::{KeyValueAppend, KeyValueMutation, KeyValuePair};
use causeway_xds::proto::envoy::extensions::filters::http::header_mutation::v3 as proto;
use causeway_xds::proto::google::protobuf::value::Kind;
use causeway_xds::reject::Invalid;
use causeway_xds::resource::parts::{self, At, each, enumeration, not_empty, required};

use super::super::query;
use super::super::registry::{Context, decode};
use super::super::{Answer, Factory, Flow, HttpFilter, Stream};
use crate::formatter::{Facts, Template, Wants};
use crate::route::RouteConfig;
use crate::route::edits::Level;

pub const FACTORY: Factory = Factory {
    message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    name: "envoy.filters.http.header_mutation",
    build,
    per_route: &[(
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        build_per_route,
    )],
};

#[derive(Debug)]
struct HeaderMutation {
    mutations: Mutations,
    most_specific_wins: bool,
}

#[derive(Debug, Default)]
struct Mutations {
    /// One mutation each.
    request: Vec<Level>,
    response: Vec<Level>,
    query: Vec<QueryMutation>,
    wants: Wants,
}

#[derive(Debug)]
enum QueryMutation {
    Set {
        key: String,
        value: Template,
        action: KeyValueAppendAction,
    },
    Remove(String),
}

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let proto::HeaderMutation {
        mutations,
        most_specific_header_mutations_wins,
    } = decode(config)?;
    Ok(Arc::new(HeaderMutation {
        mutations: Mutations::decode(mutations)?,
        most_specific_wins: most_specific_header_mutations_wins,
    }))
}

fn build_per_route(config: &TypedExtension, _: &Context) -> Result<RouteConfig, Invalid> {
    let proto::HeaderMutationPerRoute { mutations } = decode(config)?;
    let mutations = Mutations::decode(mutations)?;
    let wants = mutations.wants.clone();
    Ok(RouteConfig::new(mutations).wanting(wants))
}

impl Mutations {
    fn decode(message: Option<proto::Mutations>) -> Result<Self, Invalid> {
        Self::of(message.unwrap_or_default()).at("mutations")
    }

    fn of(message: proto::Mutations) -> Result<Self, Invalid> {
        let proto::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
        } = message;
        for (given, field) in [
            (
                !response_trailers_mutations.is_empty(),
                "response_trailers_mutations",
            ),
            (
                !request_trailers_mutations.is_empty(),
                "request_trailers_mutations",
            ),
        ] {
            if given {
                return Err(Invalid::at(field, "not supported yet"));
            }
        }
        let mut wants = Wants::NONE;
        let mut mutation = |message| {
            let level = Level::of_mutation(&parts::header_mutation(message)?);
            level.note(&mut wants);
            Ok(level)
        };
        let request = each("request_mutations", request_mutations, &mut mutation)?;
        let response = each("response_mutations", response_mutations, &mut mutation)?;
        let parameters = "query_parameter_mutations";
        let query = each(parameters, query_parameter_mutations, |message| {
            QueryMutation::decode(message, &mut wants)
        })?;
        Ok(Self {
            request,
            response,
            query,
            wants,
        })
    }

    fn of_request(&self, stream: &mut Stream<'_>) {
        for level in &self.request {
            if level.apply_plain(&mut stream.request.headers) {
                continue;
            }
            let headers = &stream.request.headers;
            let changes = stream.with_facts(|facts| level.evaluate(headers, facts));
            if let Some(changes) = changes {
                changes.apply(&mut stream.request.headers);
            }
        }
        if !self.query.is_empty() && stream.request.uri.path_and_query().is_some() {
            let now = stream.request.uri.query().unwrap_or_default();
            let changed = stream.with_facts(|facts| {
                let mut pairs = Pairs::parse(now);
                for mutation in &self.query {
                    mutation.apply(&mut pairs, facts);
                }
                pairs.written()
            });
            if let Some(changed) = changed {
                query::set(stream.request, &changed);
            }
        }
    }

    fn of_response(&self, answer: &mut Answer<'_>) {
        for level in &self.response {
            if level.apply_plain(answer.headers) {
                continue;
            }
            let headers = &*answer.headers;
            let changes = answer.with_facts(|facts| level.evaluate(headers, facts));
            if let Some(changes) = changes {
                changes.apply(answer.headers);
            }
        }
    }
}

impl QueryMutation {
    fn decode(message: KeyValueMutation, wants: &mut Wants) -> Result<Self, Invalid> {
        let KeyValueMutation { append, remove } = message;
        let Some(append) = append else {
            return not_empty(remove, "remove").map(Self::Remove);
        };
        if !remove.is_empty() {
            return Err(Invalid::at("remove", "is given together with append"));
        }
        let decode = || {
            #[expect(deprecated, reason = "named so that nothing is skipped")]
            let KeyValueAppend {
                record,
                entry,
                action,
            } = append;
            if entry.is_some() {
                return Err(Invalid::at("entry", "not supported yet"));
            }
            let KeyValuePair { key, value } = required(record, "record")?;
            let Some(Kind::StringValue(text)) = value.and_then(|value| value.kind) else {
                return Err(Invalid::at("record.value", "must be a text"));
            };
            let value = Template::compile(&parts::format(&text).at("record.value")?, "");
            value.note(wants);
            Ok(Self::Set {
                key: not_empty(key, "record.key")?,
                value,
                action: enumeration(action, "action")?,
            })
        };
        decode().at("append")
    }

    fn apply(&self, pairs: &mut Pairs, facts: &dyn Facts) {
        use KeyValueAppendAction as A;
        match self {
            Self::Remove(key) => pairs.remove(key),
            Self::Set { key, value, action } => {
                let there = pairs.has(key);
                match action {
                    A::AddIfAbsent if there => return,
                    A::OverwriteIfExists if !there => return,
                    A::OverwriteIfExists | A::OverwriteIfExistsOrAdd => pairs.remove(key),
                    A::AppendIfExistsOrAdd | A::AddIfAbsent => {}
                }
                pairs.add(key, &value.render(facts));
            }
        }
    }
}

/// The parameters of a query, as they are written.
struct Pairs(Vec<String>);

impl Pairs {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(str::to_owned).collect())
    }

    fn is(pair: &str, key: &str) -> bool {
        let mut parsed = form_urlencoded::parse(pair.as_bytes());
        parsed.next().is_some_and(|(name, _)| name == key)
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|pair| Self::is(pair, key))
    }

    fn remove(&mut self, key: &str) {
        self.0.retain(|pair| !Self::is(pair, key));
    }

    fn add(&mut self, key: &str, value: &[u8]) {
        let mut pair = String::new();
        escape(key.as_bytes(), &mut pair);
        pair.push('=');
        escape(value, &mut pair);
        self.0.push(pair);
    }

    fn written(&self) -> String {
        self.0.join("&")
    }
}

/// RFC 3986: all but the unreserved characters.
fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

impl HttpFilter for HeaderMutation {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        self.mutations.of_request(stream);
        let levels = stream.route_configs::<Mutations>();
        if self.most_specific_wins {
            levels.for_each(|level| level.of_request(stream));
        } else {
            levels.rev().for_each(|level| level.of_request(stream));
        }
        Flow::Continue
    }

    fn response(&self, answer: &mut Answer<'_>) {
        self.mutations.of_response(answer);
        let levels = answer.route_configs::<Mutations>();
        if self.most_specific_wins {
            levels.for_each(|level| level.of_response(answer));
        } else {
            levels.rev().for_each(|level| level.of_response(answer));
        }
    }

    fn wants(&self) -> Wants {
        self.mutations.wants.clone()
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::text;
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use serde_json::{Value, json};

    use super::*;

    fn mutations(message: Value) -> Result<Mutations, String> {
        let message = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": message,
        });
        let any = text::any_from_value(&message).expect("a message");
        let message: proto::HeaderMutationPerRoute = parts::unpack(&any).expect("mutations");
        Mutations::decode(message.mutations).map_err(|e| e.to_string())
    }

    #[test]
    fn headers_are_removed_by_name_and_by_what_their_names_match() {
        let mutations = mutations(json!({ "response_mutations": [
            { "remove": "x-gone" },
            { "remove_on_match": { "key_matcher": { "prefix": "x-internal-" } } },
            { "remove_on_match": { "key_matcher": { "prefix": "h" } } },
        ] }))
        .unwrap();
        let mut headers = HeaderMap::new();
        for name in ["x-gone", "x-internal-a", "x-internal-b", "x-kept", "host"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        for level in &mutations.response {
            assert!(level.apply_plain(&mut headers));
        }
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-kept"]);
    }

    #[test]
    fn parameters_are_added_and_taken_out_and_the_others_stay_as_written() {
        let mut pairs = Pairs::parse("a=%41&b&b=2&c=x+y");
        assert!(pairs.has("b") && !pairs.has("d"));
        pairs.remove("b");
        pairs.add("d e", b"1&2");
        assert_eq!(pairs.written(), "a=%41&c=x+y&d%20e=1%262");
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_place() {
        for (message, reason) in [
            (
                json!({ "request_mutations": [{ "remove": "Host" }] }),
                "mutations.request_mutations[0].remove: \"Host\" may not be changed as a header",
            ),
            (
                json!({ "request_mutations": [{}] }),
                "mutations.request_mutations[0].action: must be given",
            ),
            (
                json!({ "query_parameter_mutations": [{ "append": {} }] }),
                "mutations.query_parameter_mutations[0].append.record: must be given",
            ),
            (
                json!({ "query_parameter_mutations": [{}] }),
                "mutations.query_parameter_mutations[0].remove: must not be empty",
            ),
            (
                json!({ "response_trailers_mutations": [{ "remove": "a" }] }),
                "mutations.response_trailers_mutations: not supported yet",
            ),
        ] {
            assert_eq!(mutations(message).unwrap_err(), reason);
        }
    }
}
