//! TLS to endpoints: whose name is asked for, and whose certificate is taken.

use super::*;

/// Answers every request on a stream with what `told` says.
async fn answering(mut stream: impl AsyncRead + AsyncWrite + Unpin, told: String) {
    let mut seen = Vec::new();
    loop {
        let mut part = [0; 1024];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(n) => seen.extend_from_slice(&part[..n]),
        }
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let length = told.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{told}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn an_endpoint_is_told_whose_connection_it_gets_and_no_other_client_shares_it() {
    let origin = Origin::tcp(|mut stream| async move {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n") {
            header.push(stream.read_u8().await.unwrap());
        }
        let told = String::from_utf8(header).unwrap();
        answering(stream, told.trim_end().to_owned()).await;
    })
    .await;
    let mut a = cluster("a", origin.address);
    let raw = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    a["transport_socket"] = json!({"name": "proxy_protocol", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.\
                  ProxyProtocolUpstreamTransport",
        "config": {"version": "V1"},
        "transport_socket": {"name": "raw", "typed_config": {"@type": raw}},
    }});
    let web = listener("web", &http(&json!({"route_config": to("a")})));
    let app = TestApp::bootstrap(&bootstrap(&[web], &[a]).to_string()).await;
    let at = app.listener("web");
    let mut connections = Vec::new();
    for count in 1..=2 {
        let stream = TcpStream::connect(at).await.unwrap();
        let own = stream.local_addr().unwrap();
        let (ip, port) = (own.ip(), own.port());
        let expected = format!("PROXY TCP4 {ip} {} {port} {}", at.ip(), at.port());
        let mut client = Http1::over(stream).await;
        for _ in 0..3 {
            assert_eq!(client.get("a", "/").await.text(), expected);
        }
        connections.push(client);
        assert_eq!(origin.connections(), count, "one for each client");
    }
}

/// Answers with the server name that it was called by.
async fn tls_origin(own: &Certificate) -> Origin {
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    let mut config = config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der.clone()], own.private.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Origin::tcp(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not like the certificate leaves.
            if let Ok(stream) = acceptor.accept(stream).await {
                let told = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                answering(stream, told).await;
            }
        }
    })
    .await
}

/// The status of a request to an endpoint whose certificate has to have this name, and the server name
/// that the endpoint was called by.
async fn called(at: &Origin, authority: &Authority, sni: &str, name: &Value) -> (u16, String) {
    let validation = json!({"trusted_ca": {"inline_string": authority.pem},
        "match_typed_subject_alt_names": [name]});
    let mut a = cluster("a", at.address);
    a["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": format!("{TLS}.UpstreamTlsContext"), "sni": sni,
        "common_tls_context": {"validation_context": validation},
    }});
    let web = listener("web", &http(&json!({"route_config": to("a")})));
    let app = TestApp::bootstrap(&bootstrap(&[web], &[a]).to_string()).await;
    let reply = get(app.listener("web"), "any.test", "/").await;
    (reply.status.as_u16(), reply.text())
}

#[tokio::test]
async fn a_server_name_that_cannot_be_sent_is_not_missed_where_the_certificate_says_whose_it_is() {
    let authority = Authority::new();
    let origin = tls_origin(&authority.certificate("b", Some("spiffe://mesh/b"))).await;
    let uri = |uri: &str| json!({"san_type": "URI", "matcher": {"exact": uri}});
    let good = uri("spiffe://mesh/b");
    let sent = (200, "sni.b.http".to_owned());
    assert_eq!(called(&origin, &authority, "sni.b.http", &good).await, sent);
    for sni in ["sni.b.80", "10.0.0.1", "fd00::1"] {
        let unsent = (200, "-".to_owned());
        assert_eq!(
            called(&origin, &authority, sni, &good).await,
            unsent,
            "{sni}"
        );
        let other = uri("spiffe://mesh/other");
        assert_eq!(
            called(&origin, &authority, sni, &other).await.0,
            503,
            "{sni}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_is_called_by_its_own_name() {
    let authority = Authority::new();
    let origin = tls_origin(&authority.certificate("one.test", None)).await;
    for (hostname, checked, answer) in [
        ("one.test", true, (200, "one.test")),
        ("", false, (200, "configured.test")),
        // The certificate is for somebody else.
        ("two.test", true, (503, "")),
        ("", true, (503, "")),
        ("two.test", false, (200, "two.test")),
    ] {
        let mut a = cluster("a", origin.address);
        a["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] =
            json!(hostname);
        a["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"), "sni": "configured.test",
            "auto_host_sni": true, "auto_sni_san_validation": checked,
            "common_tls_context": {"validation_context": {
                "trusted_ca": {"inline_string": authority.pem},
                "match_typed_subject_alt_names": [
                    {"san_type": "DNS", "matcher": {"exact": "one.test"}}]}},
        }});
        let web = listener("web", &http(&json!({"route_config": to("a")})));
        let app = TestApp::bootstrap(&bootstrap(&[web], &[a]).to_string()).await;
        let reply = get(app.listener("web"), "any.test", "/").await;
        assert_eq!(reply.status, answer.0, "{hostname:?}, {checked}");
        if answer.0 == 200 {
            assert_eq!(reply.text(), answer.1, "{hostname:?}, {checked}");
        }
    }
}

#[tokio::test]
async fn an_address_in_a_certificate_may_be_told_by_a_part_of_it() {
    let authority = Authority::new();
    let origin = tls_origin(&authority.certificate("10.1.2.3", None)).await;
    for (kind, matcher, status) in [
        ("IP_ADDRESS", json!({"prefix": "10.1."}), 200),
        ("IP_ADDRESS", json!({"exact": "10.1.2.3"}), 200),
        ("IP_ADDRESS", json!({"prefix": "10.2."}), 503),
        ("IP_ADDRESS", json!({"exact": "b.test"}), 503),
        ("DNS", json!({"prefix": "10.1."}), 503),
    ] {
        let name = json!({"san_type": kind, "matcher": matcher});
        let answer = called(&origin, &authority, "", &name).await;
        assert_eq!(answer.0, status, "{kind} {matcher}");
    }
}

#[tokio::test]
async fn the_name_of_a_request_goes_to_the_endpoint_and_its_certificate_is_for_it() {
    let authority = Authority::new();
    let origin = tls_origin(&authority.certificate("*.a.test", None)).await;
    let mut a = cluster("a", origin.address);
    let validation = json!({
        "trusted_ca": {"inline_string": authority.pem},
        // The name of the request takes its place.
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "other"}}],
    });
    a["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": format!("{TLS}.UpstreamTlsContext"),
        "common_tls_context": {"validation_context": validation},
    }});
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    a["typed_extension_protocol_options"] = json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
        "auto_config": {},
    }});
    let web = listener("web", &http(&json!({"route_config": to("a")})));
    let app = TestApp::bootstrap(&bootstrap(&[web], &[a]).to_string()).await;
    let at = app.listener("web");
    for _ in 0..2 {
        for name in ["x.a.test", "Y.a.test:8443"] {
            let reply = get(at, name, "/").await;
            let told = name.to_lowercase().replace(":8443", "");
            assert_eq!((reply.status.as_u16(), reply.text()), (200, told));
        }
        assert_eq!(get(at, "b.test", "/").await.status, 503, "not its name");
    }
}

#[tokio::test]
async fn the_name_of_an_endpoint_goes_before_that_of_its_cluster() {
    let authority = Authority::new();
    let origin = tls_origin(&authority.certificate("*.a.test", None)).await;
    for (hostname, told) in [("x.a.test", "x.a.test"), ("", "y.a.test"), ("b.test", "")] {
        let mut a = cluster("a", origin.address);
        let endpoint = &mut a["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        endpoint["hostname"] = json!(hostname);
        let validation = json!({
            "trusted_ca": {"inline_string": authority.pem},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "other"}}],
        });
        a["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"),
            "sni": "y.a.test",
            "auto_host_sni": true,
            "auto_sni_san_validation": true,
            "common_tls_context": {"validation_context": validation},
        }});
        let web = listener("web", &http(&json!({"route_config": to("a")})));
        let app = TestApp::bootstrap(&bootstrap(&[web], &[a]).to_string()).await;
        let reply = get(app.listener("web"), "any.test", "/").await;
        match told {
            "" => assert_eq!(reply.status, 503, "the certificate is not for {hostname}"),
            told => assert_eq!((reply.status.as_u16(), &*reply.text()), (200, told)),
        }
    }
}
