//! `[causeway.acme]`.

use std::time::Duration;

use super::parse;
use crate::config::*;

const BASE: &str = r#"[secrets]
api_secret = "s"
[proxy_worker]
tls_listen = true
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = { host = "127.0.0.1", port = 443 }
[causeway.acme]
accept_terms = true
cache = "/var/lib/acme"
"#;

fn acme(more: &str) -> Result<Acme, String> {
    parse(&format!("{BASE}{more}")).map(|config| {
        assert!(config.unknown.is_empty(), "{:?}", config.unknown);
        assert_eq!(config.tls.listen, Some(Certificates::Automatic));
        assert_eq!(config.causeway.path_tls, Some(Certificates::Automatic));
        config.causeway.acme.expect("the table is read")
    })
}

#[test]
fn the_frontends_say_what_is_certified_unless_the_file_does() {
    let acme_of = |more: &str| acme(more).unwrap();
    let plain = acme_of("");
    assert!(plain.directory.starts_with("https://acme-v02."));
    assert_eq!(plain.challenge, AcmeChallenge::TlsAlpn01);
    assert_eq!(plain.domains, [""; 0]);
    assert_eq!(plain.circuits.as_deref(), Some(".apps.test"));
    assert_eq!(
        (plain.orders_per_hour, plain.propagation),
        (50, Duration::from_secs(10))
    );

    let hook = acme_of("hook = [\"/bin/true\", \"x\"]\nstaging = true\npropagation = 0\n");
    assert!(hook.directory.starts_with("https://acme-staging-"));
    assert_eq!(hook.challenge, AcmeChallenge::Dns01);
    assert_eq!(hook.domains, ["*.apps.test"]);
    assert_eq!((hook.circuits, hook.propagation), (None, Duration::ZERO));
    let command = ["/bin/true", "x"].map(str::to_owned).into();
    assert_eq!(hook.dns, Some(DnsSolver::Hook(command)));

    let text = "contact = [\"a@b.test\", \"mailto:c@d.test\"]\ndomains = [\"W.Test\"]\n\
                circuits = false\neab_key_id = \"k\"\neab_hmac_key = \"aHVzaA==\"\n\
                directory = \"https://ca.test:8443/dir\"\n";
    let given = acme_of(text);
    assert_eq!(given.contact, ["mailto:a@b.test", "mailto:c@d.test"]);
    assert_eq!(
        (given.domains, given.circuits),
        (vec!["w.test".to_owned()], None)
    );
    assert_eq!(given.eab.unwrap().hmac_key(), b"hush");

    let text = "challenge = \"tls-alpn-01\"\n[causeway.acme.rfc2136]\nserver = \"[::1]:53\"\n\
                key_name = \"k.\"\nkey = \"aHVzaA==\"\nalgorithm = \"hmac-sha512\"\n";
    let updates = acme_of(text);
    assert_eq!(updates.challenge, AcmeChallenge::TlsAlpn01, "as given");
    let Some(DnsSolver::Rfc2136(config)) = &updates.dns else {
        panic!("{updates:?}")
    };
    assert_eq!(
        (config.key(), config.algorithm),
        (b"hush".to_vec(), TsigAlgorithm::HmacSha512)
    );
    assert!(!format!("{updates:?}").contains("aHVzaA"));
}

#[test]
fn errors_name_the_key_and_the_place() {
    for (more, expected) in [
        (
            "staging = true\ndirectory = \"https://x/\"\n",
            "w.toml:12:13: causeway.acme.directory: excludes staging",
        ),
        (
            "directory = \"http://x/\"\n",
            "causeway.acme.directory: not an https URL",
        ),
        (
            "ca = \"/nonexistent\"\n",
            "w.toml:11:6: causeway.acme.ca: /nonexistent: ",
        ),
        (
            "contact = [\"nobody\"]\n",
            "causeway.acme.contact: not an address",
        ),
        (
            "challenge = \"dns-01\"\n",
            "causeway.acme.challenge: \"dns-01\" needs hook",
        ),
        (
            "domains = [\"*.x.test\"]\n",
            "causeway.acme.domains: a name with a star",
        ),
        (
            "domains = [\"10.0.0.1\"]\n",
            "causeway.acme.domains: not a host name",
        ),
        (
            "domains = []\ncircuits = false\n",
            "causeway.acme.domains: names nothing to certify",
        ),
        (
            "orders_per_hour = 0\n",
            "causeway.acme.orders_per_hour: must be more than 0",
        ),
        (
            "hook = [\"relative\"]\n",
            "causeway.acme.hook: names no program",
        ),
        (
            "propagation = -1\n",
            "causeway.acme.propagation: must be 0..=3600",
        ),
        (
            "eab_key_id = \"k\"\n",
            "causeway.acme.eab_key_id: needs eab_hmac_key",
        ),
        (
            "eab_key_id = \"k\"\neab_hmac_key = \"!\"\n",
            "causeway.acme.eab_hmac_key: cannot be decoded",
        ),
        (
            "[causeway.acme.rfc2136]\nserver = \"x\"\nkey_name = \"k\"\nkey = \"aHVzaA==\"\n",
            "causeway.acme.rfc2136.server: not host:port",
        ),
        (
            "[causeway.acme.rfc2136]\nserver = \"x:53\"\nkey_name = \"k\"\nkey = \"hush!\"\n",
            "causeway.acme.rfc2136.key: not base64",
        ),
    ] {
        let error = acme(more).unwrap_err();
        assert!(error.contains(expected), "{more}: {error}");
        assert!(!error.contains("hush!"), "{error}");
    }
    for (from, to, expected) in [
        (
            "accept_terms = true",
            "accept_terms = false",
            "w.toml:9:16: causeway.acme.accept_terms: must be true",
        ),
        ("cache = ", "#", "causeway.acme.cache is required"),
        (
            "tls_listen = true",
            "tls_listen = false",
            "w.toml:4:14: proxy_worker.tls_listen: must be true",
        ),
        (
            "tls_listen = true",
            "tls_listen = true\ntls_cert = \"x\"",
            "tls_privkey: exclude [causeway.acme]",
        ),
    ] {
        let error = parse(&BASE.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
