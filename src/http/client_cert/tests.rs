use http::header::HeaderMap;

use super::*;
use crate::tls::PeerCertificate;

fn session(peer: bool) -> Session {
    let params = rcgen::CertificateParams::new(["a.test".to_owned(), "b.test".to_owned()]);
    let mut params = params.unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    Session {
        version: "TLSv1.3",
        protocol: None,
        peer: peer.then(|| PeerCertificate::new(vec![cert.der().clone()], true)),
        local_uris: vec!["spiffe://me".into(), "spiffe://i".into()],
    }
}

fn applied(rules: &ClientCert, session: Option<&Session>) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for sent in ["Hash=1", "Hash=2"] {
        headers.append(X_FORWARDED_CLIENT_CERT, HeaderValue::from_static(sent));
    }
    let names = Names::of(&headers);
    apply(&mut headers, names, rules, session);
    let told = headers.get_all(&X_FORWARDED_CLIENT_CERT).iter();
    told.map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_client_without_a_certificate_tells_nothing_unless_it_is_always_believed() {
    let details = CertDetails::default;
    let plain = session(false);
    for session in [None, Some(&plain)] {
        for rules in [
            ClientCert::Sanitize,
            ClientCert::ForwardOnly,
            ClientCert::AppendForward(details()),
            ClientCert::SanitizeSet(details()),
        ] {
            assert!(applied(&rules, session).is_empty(), "{rules:?}");
        }
        let always = applied(&ClientCert::AlwaysForwardOnly, session);
        assert_eq!(always, ["Hash=1", "Hash=2"]);
    }
}

#[test]
fn a_certificate_is_told_as_is_asked_for() {
    let session = session(true);
    let of = |rules| applied(&rules, Some(&session));
    let hash = &session.peer.as_ref().unwrap().hash;
    let own = format!("By=spiffe://me;By=spiffe://i;Hash={hash}");
    assert!(of(ClientCert::Sanitize).is_empty());
    assert_eq!(of(ClientCert::ForwardOnly), ["Hash=1", "Hash=2"]);
    let none = CertDetails::default;
    assert_eq!(of(ClientCert::SanitizeSet(none())).join("|"), own);
    let appended = format!("Hash=1,Hash=2,{own}");
    assert_eq!(of(ClientCert::AppendForward(none())), [appended]);
    let names = CertDetails {
        subject: true,
        uri: true,
        dns: true,
        ..none()
    };
    let told = format!("{own};Subject=\"\";URI=;DNS=a.test;DNS=b.test");
    assert_eq!(of(ClientCert::SanitizeSet(names)), [told]);
    let whole = CertDetails {
        cert: true,
        chain: true,
        ..none()
    };
    let told = of(ClientCert::SanitizeSet(whole)).remove(0);
    let told = told.strip_prefix(&own).unwrap();
    let (cert, chain) = told
        .strip_prefix(";Cert=\"")
        .unwrap()
        .split_once("\";Chain=\"")
        .unwrap();
    assert_eq!(
        cert,
        chain.strip_suffix('"').unwrap(),
        "it sent no more than one"
    );
    assert!(
        cert.starts_with("-----BEGIN%20CERTIFICATE-----%0A"),
        "{cert}"
    );
    assert!(cert.ends_with("-----END%20CERTIFICATE-----%0A"), "{cert}");
}
