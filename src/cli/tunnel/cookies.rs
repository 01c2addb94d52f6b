//! The cookies of a file that go with a request.

use std::time::SystemTime;

/// What a file is looked through for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub host: &'a str,
    pub path: &'a str,
    /// Over TLS.
    pub secure: bool,
    pub now: SystemTime,
}

/// The value of a `Cookie` field. Lines are either those of a cookie jar, as `curl -c` and browsers
/// write it, of which those count that belong to the request; or `NAME=VALUE`, which always counts.
pub fn of(file: &str, asked: Asked<'_>) -> String {
    let found: Vec<String> = file
        .lines()
        .filter_map(|line| cookie(line, asked))
        .collect();
    found.join("; ")
}

fn cookie(line: &str, asked: Asked<'_>) -> Option<String> {
    // A comment, except that jars mark cookies by it which scripts do not see.
    let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
    let line = line.trim_end_matches('\r');
    if line.starts_with('#') || line.trim().is_empty() {
        return None;
    }
    let fields: Vec<&str> = line.split('\t').collect();
    let [domain, subdomains, path, secure, expires, name, value] = fields[..] else {
        return line.contains('=').then(|| line.trim().to_owned());
    };
    let seconds = asked.now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = seconds.map_or(0, |since| since.as_secs());
    // 0: until the end of the session, which a file does not know.
    let fresh = expires
        .parse::<u64>()
        .is_ok_and(|at| at == 0 || at > seconds);
    let belongs = fresh
        && (asked.secure || !secure.eq_ignore_ascii_case("true"))
        && of_host(asked.host, domain, subdomains.eq_ignore_ascii_case("true"))
        && of_path(asked.path, path);
    belongs.then(|| format!("{name}={value}"))
}

/// RFC 6265 section 5.1.3.
fn of_host(host: &str, domain: &str, subdomains: bool) -> bool {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
    host == domain
        || (subdomains
            && host
                .strip_suffix(&domain)
                .is_some_and(|rest| rest.ends_with('.')))
}

/// RFC 6265 section 5.1.4.
fn of_path(asked: &str, path: &str) -> bool {
    asked == path
        || asked
            .strip_prefix(path)
            .is_some_and(|rest| path.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found(file: &str) -> String {
        let asked = Asked {
            host: "app.apps.test",
            path: "/s/ssh/",
            secure: false,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        };
        of(file, asked)
    }

    #[test]
    fn those_of_a_jar_count_that_belong_to_the_request() {
        for (line, counts) in [
            (".apps.test\tTRUE\t/\tFALSE\t0\ta\t1", true),
            ("#HttpOnly_.apps.test\tTRUE\t/\tFALSE\t1001\ta\t1", true),
            ("APP.apps.test\tFALSE\t/s/ssh\tFALSE\t0\ta\t1\r", true),
            ("apps.test\tFALSE\t/\tFALSE\t0\ta\t1", false),
            ("ps.test\tTRUE\t/\tFALSE\t0\ta\t1", false),
            (".apps.test\tTRUE\t/\tTRUE\t0\ta\t1", false),
            (".apps.test\tTRUE\t/\tFALSE\t1000\ta\t1", false),
            (".apps.test\tTRUE\t/s/s\tFALSE\t0\ta\t1", false),
            ("# .apps.test\tTRUE\t/\tFALSE\t0\ta\t1", false),
        ] {
            assert_eq!(found(line), if counts { "a=1" } else { "" }, "{line}");
        }
    }

    #[test]
    fn a_plain_line_counts_as_it_is() {
        assert_eq!(
            found("\n# permit\nappproxy_permit=\"x\"\n"),
            "appproxy_permit=\"x\""
        );
        assert_eq!(found("a=1\nb=2"), "a=1; b=2");
        assert_eq!(found("no cookie"), "");
    }
}
