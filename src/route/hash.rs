//! The hash of a request, by which policies that hash choose an endpoint. The same as Envoy's for
//! the same request, so that clients stay where they are when one proxy takes the other's place.

use std::fmt::Write as _;
use std::net::IpAddr;

use causeway_xds::resource::route as model;
use causeway_xds::resource::route::{HashBy, HashCookie};
use http::header::HeaderValue;
use regex::bytes::Regex;
use xxhash_rust::xxh64::xxh64;

use super::RequestView;
use super::matcher::{cookie_value, query_value};

/// The policies of a route in order.
#[derive(Debug, Default)]
pub struct Hashing(Vec<Policy>);

#[derive(Debug)]
struct Policy {
    by: By,
    terminal: bool,
}

#[derive(Debug)]
enum By {
    Header {
        name: String,
        rewrite: Option<(Regex, Vec<u8>)>,
    },
    Cookie(HashCookie),
    SourceIp,
    Query(String),
}

/// The hash, and the cookies by which the client will have it again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    pub hash: Option<u64>,
    pub cookies: Vec<HeaderValue>,
}

impl Hashing {
    pub fn compile(models: &[model::HashPolicy]) -> Self {
        let policies = models.iter().filter_map(|model| {
            let by = match &model.by {
                HashBy::Header { name, rewrite } => By::Header {
                    name: name.clone(),
                    rewrite: rewrite.as_ref().and_then(|(pattern, with)| {
                        // Checked to compile when the resource was decoded.
                        Some((Regex::new(pattern).ok()?, with.clone().into_bytes()))
                    }),
                },
                HashBy::Cookie(cookie) => By::Cookie(cookie.clone()),
                HashBy::SourceIp => By::SourceIp,
                HashBy::Query(name) => By::Query(name.clone()),
                HashBy::Nothing => return None,
            };
            Some(Policy {
                by,
                terminal: model.terminal,
            })
        });
        Self(policies.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `fresh` is what a client without a cookie is known by from now on: the same for all requests
    /// of its connection, since several may be under way before it has the cookie.
    pub fn of(
        &self,
        request: &impl RequestView,
        client: IpAddr,
        fresh: impl Fn() -> u64,
    ) -> Hashed {
        let mut hashed = Hashed::default();
        for policy in &self.0 {
            let new = match &policy.by {
                By::Header { name, rewrite } => of_header(request, name, rewrite.as_ref()),
                By::SourceIp => Some(of_address(client)),
                By::Query(name) => query_value(request.query(), name).map(|v| xxh64(v, 0)),
                By::Cookie(cookie) => of_cookie(request, cookie).or_else(|| {
                    let value = format!("{:016x}", fresh());
                    hashed.cookies.push(set_cookie(cookie, &value)?);
                    Some(xxh64(value.as_bytes(), 0))
                }),
            };
            if let Some(new) = new {
                // Rotated, so that two policies that agree do not cancel each other out.
                let before = hashed.hash.map_or(0, |hash| hash.rotate_left(1));
                hashed.hash = Some(before ^ new);
            }
            if policy.terminal && hashed.hash.is_some() {
                break;
            }
        }
        hashed
    }
}

/// Of a client's address.
pub fn of_address(client: IpAddr) -> u64 {
    of_text(&client.to_string())
}

/// Of a text.
pub fn of_text(text: &str) -> u64 {
    xxh64(text.as_bytes(), 0)
}

/// All values together, whatever their order was.
fn of_header(
    request: &impl RequestView,
    name: &str,
    rewrite: Option<&(Regex, Vec<u8>)>,
) -> Option<u64> {
    let mut values: Vec<Vec<u8>> = request
        .values(name)
        .map(|value| match rewrite {
            Some((pattern, with)) => pattern.replace_all(value, &with[..]).into_owned(),
            None => value.to_vec(),
        })
        .collect();
    if values.is_empty() {
        return None;
    }
    values.sort_unstable();
    Some(xxh64(&values.concat(), 0))
}

fn of_cookie(request: &impl RequestView, cookie: &HashCookie) -> Option<u64> {
    let mut fields = request.values("cookie");
    let value = fields.find_map(|field| cookie_value(field, &cookie.name));
    value.filter(|v| !v.is_empty()).map(|value| xxh64(value, 0))
}

/// `None` when a client without the cookie is not given one.
fn set_cookie(cookie: &HashCookie, value: &str) -> Option<HeaderValue> {
    let ttl = cookie.ttl?.as_secs();
    let mut text = format!("{}=\"{value}\"", cookie.name);
    // Writing to a string cannot fail.
    if ttl != 0 {
        let _ = write!(text, "; Max-Age={ttl}");
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = match value.is_empty() {
            true => write!(text, "; {name}"),
            false => write!(text, "; {name}={value}"),
        };
    }
    text.push_str("; HttpOnly");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::route::matcher::{Headers, Values};

    struct Request(HeaderMap, &'static str);

    impl Headers for Request {
        fn values<'h>(&'h self, name: &str) -> Values<'h> {
            Values::of(&self.0, name)
        }
    }

    impl RequestView for Request {
        fn path(&self) -> &str {
            "/"
        }
        fn query(&self) -> &str {
            self.1
        }
        fn random(&self) -> u64 {
            0
        }
    }

    fn request(headers: &[(&'static str, &'static str)], query: &'static str) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Request(map, query)
    }

    fn header(name: &str, terminal: bool) -> model::HashPolicy {
        model::HashPolicy {
            by: HashBy::Header {
                name: name.into(),
                rewrite: None,
            },
            terminal,
        }
    }

    fn hash(policies: &[model::HashPolicy], request: &Request) -> Hashed {
        let client = "192.0.2.1".parse().unwrap();
        Hashing::compile(policies).of(request, client, || 0xabc)
    }

    #[test]
    fn hashes_are_combined_until_one_is_final() {
        let both = request(&[("a", "1"), ("b", "2")], "");
        let (one, two) = (xxh64(b"1", 0), xxh64(b"2", 0));
        let of = |policies: &[model::HashPolicy]| hash(policies, &both).hash;
        assert_eq!(of(&[header("a", false)]), Some(one));
        let combined = one.rotate_left(1) ^ two;
        assert_eq!(
            of(&[header("a", false), header("b", false)]),
            Some(combined)
        );
        assert_eq!(of(&[header("a", true), header("b", false)]), Some(one));
        assert_eq!(of(&[header("x", true), header("b", false)]), Some(two));
        assert_eq!(of(&[header("x", false)]), None);
    }

    #[test]
    fn the_order_of_values_does_not_count() {
        let policy = [header("a", false)];
        let one = hash(&policy, &request(&[("a", "1"), ("a", "2")], ""));
        let other = hash(&policy, &request(&[("a", "2"), ("a", "1")], ""));
        assert_eq!(one, other);
        assert_eq!(one.hash, Some(xxh64(b"12", 0)));
    }

    #[test]
    fn query_and_address_are_hashed_as_they_are_written() {
        let by = |by| model::HashPolicy {
            by,
            terminal: false,
        };
        let asked = request(&[], "x=1&user=a%20b");
        let query = hash(&[by(HashBy::Query("user".into()))], &asked).hash;
        assert_eq!(query, Some(xxh64(b"a%20b", 0)));
        let address = hash(&[by(HashBy::SourceIp)], &asked).hash;
        assert_eq!(address, Some(xxh64(b"192.0.2.1", 0)));
    }

    #[test]
    fn a_client_without_the_cookie_is_given_one() {
        let cookie = |ttl| {
            [model::HashPolicy {
                by: HashBy::Cookie(HashCookie {
                    name: "stick".into(),
                    ttl,
                    path: "/p".into(),
                    attributes: vec![
                        ("SameSite".into(), "Lax".into()),
                        ("Secure".into(), String::new()),
                    ],
                }),
                terminal: false,
            }]
        };
        let minute = Some(Duration::from_secs(60));
        let given = hash(&cookie(minute), &request(&[], ""));
        assert_eq!(
            given.cookies,
            ["stick=\"0000000000000abc\"; Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly"]
        );
        let back = request(&[("cookie", "a=b; stick=\"0000000000000abc\"")], "");
        let again = hash(&cookie(minute), &back);
        assert_eq!((again.hash, again.cookies.len()), (given.hash, 0));
        assert_eq!(hash(&cookie(None), &request(&[], "")), Hashed::default());
    }
}
