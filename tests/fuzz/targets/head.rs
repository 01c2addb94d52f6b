//! A digit for the rules, then the head of a request as it is sent: sanitised, which has to be the
//! last word, and free of what belongs to one connection.
#![no_main]

use std::sync::LazyLock;

use causeway::http::head::sanitise;
use causeway_fuzz::managers;
use causeway_xds::resource::http_manager::HttpManager;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;

static MANAGERS: LazyLock<Vec<HttpManager>> = LazyLock::new(managers);

/// As the HTTP engine makes one.
fn parse(bytes: &[u8]) -> Option<Parts> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let parsed = head.parse(bytes).ok()?;
    parsed.is_complete().then_some(())?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(head.method?.as_bytes()).ok()?;
    // A fragment is refused by the bytes as they came, which are not here.
    let target = head.path.filter(|target| !target.contains('#'))?;
    parts.uri = target.parse::<Uri>().ok()?;
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        parts.headers.append(name, value);
    }
    Some(parts)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let manager = &MANAGERS[usize::from(first.wrapping_sub(b'0')) % MANAGERS.len()];
    let Some(mut parts) = parse(rest) else {
        return;
    };
    match sanitise(&mut parts, manager, Some(80), None) {
        Err(failure) => assert!(failure.status.is_client_error() || failure.status.is_server_error()),
        Ok(facts) if facts.redirect.is_some() => {}
        Ok(facts) => {
            assert!(!parts.headers.contains_key("keep-alive"));
            // What a request wants to become stays to be seen, and is said in one way.
            let upgrades = facts.upgrade.is_some_and(|upgrade| !upgrade.connect);
            assert_eq!(parts.headers.contains_key("upgrade"), upgrades);
            let connection: Vec<_> = parts.headers.get_all("connection").iter().collect();
            match upgrades {
                true => assert_eq!(connection, ["Upgrade"]),
                false => assert!(connection.is_empty()),
            }
            let once = parts.clone();
            let again = sanitise(&mut parts, manager, Some(80), None);
            assert!(again.is_ok(), "refused the second time");
            assert_eq!((&parts.uri, &parts.headers), (&once.uri, &once.headers));
        }
    }
});
