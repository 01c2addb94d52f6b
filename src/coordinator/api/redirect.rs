//! Where a user is sent, and with which cookie. Pure.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::coordinator::model::{Circuit, Slot};
use crate::coordinator::permit::COOKIE;
use crate::coordinator::translate::path_segment;
use crate::util::Secret;

/// A week, as long as ever.
const MAX_AGE: u32 = 604_800;
/// Where the desktop client of Backend.AI listens for apps that are no web pages.
const DESKTOP_CLIENT: &str = "http://localhost:45678/start";

/// How users reach the frontends of this worker.
#[derive(Clone, Debug, Default)]
pub struct PublicAddresses {
    /// Whether users speak TLS to the port and wildcard frontends, here or at a balancer.
    pub https: bool,
    /// Host of the port frontend. `None`: there is none.
    pub port_host: Option<String>,
    pub wildcard: Option<WildcardAddress>,
    pub path: Option<PathAddress>,
}

#[derive(Clone, Debug)]
pub struct WildcardAddress {
    /// Begins with a dot.
    pub domain: String,
    /// The advertised port, else the one that is bound.
    pub port: u16,
}

#[derive(Clone, Debug)]
pub struct PathAddress {
    pub https: bool,
    pub at: HostPort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl PublicAddresses {
    /// Where a circuit is reached by its slot; `None` if this worker has no such frontend.
    pub fn of_slot(&self, slot: &Slot) -> Option<HostPort> {
        match slot {
            Slot::Port(port) => Some(HostPort {
                host: self.port_host.clone()?,
                port: *port,
            }),
            Slot::Subdomain(label) => {
                let wildcard = self.wildcard.as_ref()?;
                Some(HostPort {
                    host: format!("{label}{}", wildcard.domain),
                    port: wildcard.port,
                })
            }
        }
    }

    /// The domain that all subdomains share a cookie over.
    pub fn cookie_domain(&self, slot: &Slot) -> Option<&str> {
        match (slot, &self.wildcard) {
            (Slot::Subdomain(_), Some(wildcard)) => Some(&wildcard.domain),
            _ => None,
        }
    }
}

/// The path under which the path frontend serves a circuit, without a slash at its end.
pub fn app_path(circuit: &Circuit) -> Option<String> {
    let segment: Uuid = circuit.path_segments().next()?;
    Some(format!("/{segment}/{}", path_segment(&circuit.app)))
}

pub fn url(https: bool, at: &HostPort, path: &str) -> String {
    let scheme = if https { "https" } else { "http" };
    format!("{scheme}://{at}{path}")
}

/// The claim `redirect` as a path, which may have a query. Empty stays empty.
///
/// The claim is signed, but whoever asks the Coordinator for a link chooses it. It must not lead
/// away from the app: so it is a path, with one slash in front, and what browsers read as a slash
/// or skip (`\`, tabs, line ends) is percent-encoded and thereby nothing special.
pub fn path_of(redirect: &str) -> String {
    let inner = redirect.trim_start_matches(|c: char| {
        matches!(c, '/' | '\\') || c.is_whitespace() || c.is_control()
    });
    if redirect.is_empty() {
        return String::new();
    }
    let mut path = String::with_capacity(inner.len() + 1);
    path.push('/');
    for byte in inner.bytes() {
        match byte {
            b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                let _ = write!(path, "%{byte:02X}");
            }
            0x21..=0x7e => path.push(char::from(byte)),
            _ => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

/// What the desktop client is called with to open a way to a TCP app.
pub fn desktop_client(token: &str, gateway: &HostPort) -> String {
    let gateway = path_segment(&format!("tcp://{gateway}"));
    let token = path_segment(token);
    format!("{DESKTOP_CLIENT}?directTCP=true&auth={token}&proto=tcp&gateway={gateway}")
}

/// Where a permit is valid.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'s> {
    /// `None`: the host that sets it.
    pub domain: Option<&'s str>,
    pub path: &'s str,
    pub https: bool,
}

/// A `Set-Cookie` value, byte for byte as the other workers write it. The quotes are theirs, too.
pub fn cookie(permit: &Secret, scope: Scope<'_>) -> String {
    let mut cookie = format!("{COOKIE}=\"{}\"", permit.expose());
    if let Some(domain) = scope.domain {
        let _ = write!(cookie, "; Domain={domain}");
    }
    let path = scope.path;
    let _ = write!(
        cookie,
        "; HttpOnly; Max-Age={MAX_AGE}; Path={path}; SameSite=Lax"
    );
    if scope.https {
        cookie.push_str("; Secure");
    }
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_a_path_of_the_app() {
        for (claim, path) in [
            ("", ""),
            ("/", "/"),
            ("lab", "/lab"),
            ("/lab/tree?reset=1&x=%2F", "/lab/tree?reset=1&x=%2F"),
            ("lab#cell", "/lab#cell"),
            ("//evil.test/x", "/evil.test/x"),
            ("///evil.test", "/evil.test"),
            ("/\\evil.test", "/evil.test"),
            ("\\\\evil.test", "/evil.test"),
            ("/\t/evil.test", "/evil.test"),
            (" //evil.test", "/evil.test"),
            ("/a\\b", "/a%5Cb"),
            ("@evil.test/", "/@evil.test/"),
            (":80@evil.test", "/:80@evil.test"),
            ("http://evil.test/", "/http://evil.test/"),
            ("javascript:alert(1)", "/javascript:alert(1)"),
            ("/a\r\nSet-Cookie: x=y", "/a%0D%0ASet-Cookie:%20x=y"),
            ("/\u{ad6c}", "/%EA%B5%AC"),
            ("/\u{7f}", "/"),
        ] {
            assert_eq!(path_of(claim), path, "{claim:?}");
        }
    }

    /// Whatever the claim is, the address is that of the frontend.
    #[test]
    fn no_redirect_leaves_the_host() {
        let at = HostPort {
            host: "app.apps.test".into(),
            port: 8080,
        };
        let mut rng = fastrand::Rng::with_seed(5);
        let pieces = [
            "/",
            "\\",
            "@",
            ":",
            "//",
            "evil.test",
            "?",
            "#",
            "\t",
            "\n",
            " ",
            "%2f",
            "..",
            "\u{0}",
            "\u{2028}",
            "http:",
            "[",
            "]",
        ];
        for _ in 0..20_000 {
            let claim: String = (0..rng.usize(..7))
                .map(|_| pieces[rng.usize(..pieces.len())])
                .collect();
            let url = url(false, &at, &path_of(&claim));
            let rest = url.strip_prefix("http://app.apps.test:8080").unwrap();
            assert!(
                rest.is_empty() || (rest.starts_with('/') && !rest.starts_with("//")),
                "{claim:?} {url:?}"
            );
            assert!(
                rest.bytes()
                    .all(|b| (0x21..0x7f).contains(&b) && b != b'\\'),
                "{claim:?} {url:?}"
            );
        }
    }

    #[test]
    fn cookies_are_as_the_other_workers_write_them() {
        let permit = Secret::new("YQ==");
        let scope = Scope {
            domain: Some(".apps.test"),
            path: "/",
            https: true,
        };
        assert_eq!(
            cookie(&permit, scope),
            "appproxy_permit=\"YQ==\"; Domain=.apps.test; HttpOnly; Max-Age=604800; Path=/; \
             SameSite=Lax; Secure"
        );
        let scope = Scope {
            domain: None,
            path: "/s/app",
            https: false,
        };
        assert_eq!(
            cookie(&permit, scope),
            "appproxy_permit=\"YQ==\"; HttpOnly; Max-Age=604800; Path=/s/app; SameSite=Lax"
        );
    }

    #[test]
    fn an_ipv6_host_is_bracketed() {
        let at = |host: &str| {
            HostPort {
                host: host.into(),
                port: 1,
            }
            .to_string()
        };
        assert_eq!(at("::1"), "[::1]:1");
        assert_eq!(at("[::1]"), "[::1]:1");
        assert_eq!(at("h"), "h:1");
    }
}
