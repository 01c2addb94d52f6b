//! TCP proxies whose bytes travel in a tunnel of HTTP, and what PROXY protocol headers carry besides
//! addresses.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::{THREADS, TestApp};
use crate::support::bootstrap::{
    assignment, bootstrap, cluster, http, http2_cluster, listener, routes, tcp,
};
use crate::support::origin::Origin;
use crate::support::raw::{End, Raw};
use crate::support::{eventually, tcp_echo};

const UUID: &str = "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";

fn log_to(file: &std::path::Path, format: &str) -> Value {
    json!([{"name": "f", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": file,
        "log_format": {"text_format_source": {"inline_string": format}},
    }}])
}

async fn entry(more: &Value, exit: &Value) -> TestApp {
    let entry = listener("entry", &tcp("exit", more));
    TestApp::bootstrap(&bootstrap(&[entry], std::slice::from_ref(exit)).to_string()).await
}

/// Reads the head of a request, byte by byte, so that nothing behind it is taken.
async fn head(stream: &mut tokio::net::TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_tunnel_over_http1_says_where_to_and_for_whom() {
    let (told, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let exit = Origin::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            told.send(head(&mut stream).await).unwrap();
            // What comes with the answer belongs to the tunnel.
            let answer = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nfirst ";
            stream.write_all(answer).await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.write_all(b" last").await.ok();
            write.shutdown().await.ok();
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let app = entry(
        &json!({
            "tunneling_config": {
                "hostname": "app.test:%DOWNSTREAM_LOCAL_PORT%",
                "headers_to_add": [{"header": {
                    "key": "x-for", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}],
                "request_id_extension": {"typed_config": {"@type": UUID}},
                "request_id_header": "x-tunnel",
            },
            "access_log": log_to(&file,
                "%DYNAMIC_METADATA(envoy.filters.network.tcp_proxy:tunnel_request_id)% \
                 %BYTES_SENT% %RESPONSE_FLAGS%\n"),
        }),
        &cluster("exit", exit.address),
    )
    .await;
    let at = app.listener("entry");
    let mut raw = Raw::connect(at).await;
    raw.send("hello").await;
    assert_eq!(raw.bytes(11).await, b"first hello");
    let head = heads.recv().await.unwrap();
    let line = format!("CONNECT app.test:{port} HTTP/1.1\r\n", port = at.port());
    assert!(head.starts_with(&line), "{head}");
    let host = format!("\r\nhost: app.test:{}\r\n", at.port());
    assert!(head.contains(&host), "{head}");
    assert!(head.contains("\r\nx-for: 127.0.0.1\r\n"), "{head}");
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    raw.finish().await;
    assert_eq!(raw.rest().await, (b" last".to_vec(), End::Closed));
    let id = head.split("x-tunnel: ").nth(1).unwrap();
    let line = format!("{} 16 -\n", id.lines().next().unwrap());
    let written = || std::fs::read_to_string(&file).unwrap_or_default() == line;
    eventually("its line in the log", written).await;
    exit.has_no_connection().await;
}

#[tokio::test]
async fn tunnels_over_http2_share_a_connection_and_keep_half_closes() {
    let origin = tcp_echo().await;
    let connect = json!([{"match": {"connect_matcher": {}}, "route": {
        "cluster": "echo",
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
    }}]);
    let manager = http(&json!({
        "route_config": routes(&connect),
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    }));
    let echo = cluster("echo", origin.address);
    let exit = bootstrap(&[listener("exit", &manager)], &[echo]);
    let exit = TestApp::bootstrap(&exit.to_string()).await;
    let to = json!({"tunneling_config": {"hostname": "app.test:443"}});
    let app = entry(&to, &http2_cluster("exit", exit.listener("exit"))).await;
    let data: Vec<u8> = (0..400_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::connect(app.listener("entry")).await;
        raw.send("one ").await;
        assert_eq!(raw.bytes(4).await, b"one ");
        clients.push(raw);
    }
    for raw in &mut clients {
        raw.send(&data).await;
        assert!(raw.bytes(data.len()).await == data, "changed on the way");
        raw.finish().await;
        assert_eq!(raw.rest().await, (Vec::new(), End::Closed));
    }
    // Each data thread has connections of its own.
    let all = app.upstream_connections();
    assert!(
        all <= THREADS as i64,
        "{all} connections of {THREADS} threads"
    );
    origin.has_no_connection().await;
}

#[tokio::test]
async fn an_endpoint_that_opens_no_tunnel_is_passed_over() {
    let unwilling = Origin::tcp(|mut stream| async move {
        head(&mut stream).await;
        let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let willing = Origin::tcp(|mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nyes")
            .await
            .unwrap();
    })
    .await;
    let mut exit = cluster("exit", unwilling.address);
    let other = assignment("exit", willing.address)["endpoints"][0]["lb_endpoints"][0].clone();
    let endpoints = &mut exit["load_assignment"]["endpoints"][0]["lb_endpoints"];
    endpoints.as_array_mut().unwrap().push(other);
    let to = json!({"tunneling_config": {"hostname": "app.test:443"}, "max_connect_attempts": 2});
    let app = entry(&to, &exit).await;
    for _ in 0..6 {
        let mut raw = Raw::connect(app.listener("entry")).await;
        assert_eq!(raw.bytes(3).await, b"yes");
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let log = log_to(&file, "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS%\n");
    let to = json!({"tunneling_config": {"hostname": "app.test:443"}, "access_log": log});
    let app = entry(&to, &cluster("exit", unwilling.address)).await;
    let mut raw = Raw::connect(app.listener("entry")).await;
    assert!(raw.rest().await.0.is_empty());
    let told = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("its line", || told() == "UF tunnel_refused\n").await;

    // No place can be asked for.
    let to = json!({"tunneling_config": {"hostname": "a b"}, "max_connect_attempts": 3});
    let app = entry(&to, &cluster("exit", willing.address)).await;
    let before = willing.connections();
    let mut raw = Raw::connect(app.listener("entry")).await;
    assert!(raw.rest().await.0.is_empty());
    assert_eq!(willing.connections(), before);
}

/// Reads one chunk of a body; empty is the last.
async fn chunk(stream: &mut tokio::net::TcpStream) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    let size = std::str::from_utf8(&line).unwrap().trim_end();
    let mut data = vec![0; usize::from_str_radix(size, 16).unwrap() + 2];
    stream.read_exact(&mut data).await.unwrap();
    data.truncate(data.len() - 2);
    data
}

/// Takes POSTs: says `first`, sends back what comes, and ends with `last` and a trailer.
async fn posted() -> (Origin, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (told, heads) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            told.send(head(&mut stream).await).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nx-by: exit\r\ntransfer-encoding: chunked\r\n\
                trailer: x-end\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(answer).await.unwrap();
            loop {
                let data = chunk(&mut stream).await;
                if data.is_empty() {
                    break;
                }
                let size = format!("{:x}\r\n", data.len());
                stream.write_all(size.as_bytes()).await.unwrap();
                stream.write_all(&data).await.unwrap();
                stream.write_all(b"\r\n").await.unwrap();
            }
            let end = b"4\r\nlast\r\n0\r\nx-end: yes\r\n\r\n";
            stream.write_all(end).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.ok();
        }
    })
    .await;
    (origin, heads)
}

#[tokio::test]
async fn the_bodies_of_a_post_are_a_tunnel_too() {
    let (origin, mut heads) = posted().await;
    let routes = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "o"}}]));
    let front = listener("exit", &http(&json!({"route_config": routes})));
    let exit = bootstrap(&[front], &[cluster("o", origin.address)]);
    let exit = TestApp::bootstrap(&exit.to_string()).await;
    let folder = tempfile::tempdir().unwrap();
    let over_http2 = http2_cluster("exit", exit.listener("exit"));
    for (name, to) in [("h1", cluster("exit", origin.address)), ("h2", over_http2)] {
        let file = folder.path().join(name);
        let more = json!({
            "tunneling_config": {
                "hostname": "app.test:443", "use_post": true, "post_path": "/in?a=b",
                "propagate_response_headers": true, "propagate_response_trailers": true,
            },
            "access_log": log_to(&file, "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers)% \
                %FILTER_STATE(envoy.tcp_proxy.propagate_response_trailers:TYPED)%\n"),
        });
        let app = entry(&more, &to).await;
        let mut raw = Raw::connect(app.listener("entry")).await;
        assert_eq!(raw.bytes(5).await, b"first", "{name}");
        let head = heads.recv().await.unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /in?a=b http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: app.test:443\r\n"), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let data: Vec<u8> = (0..400_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        raw.send(&data).await;
        assert!(raw.bytes(data.len()).await == data, "changed on the way");
        raw.finish().await;
        assert_eq!(raw.rest().await, (b"last".to_vec(), End::Closed), "{name}");
        let written = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually("its line in the log", || !written().is_empty()).await;
        let line = written();
        for part in [
            r#"{"headers":[{"key":":status","value":"200"}"#,
            r#"{"key":"x-by","value":"exit"}"#,
            r#"{"headers":[{"key":"x-end","value":"yes"}]}"#,
        ] {
            assert!(line.contains(part), "{name}: no {part}: {line}");
        }
        // A client that breaks off is no client that has finished.
        let mut raw = Raw::connect(app.listener("entry")).await;
        assert_eq!(raw.bytes(5).await, b"first", "{name}");
        heads.recv().await.unwrap();
        raw.reset();
        drop(app);
    }
    origin.has_no_connection().await;
}

/// A PROXY protocol header of version 2 without addresses, for the length of its extensions.
fn header(extensions: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 10, 0, 0, 1, 0x15, 0xb3, 0, 80];
    let length = u16::try_from(addresses.len() + extensions.len()).unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(extensions);
    header
}

#[tokio::test]
async fn extensions_of_a_header_are_logged_and_passed_on_with_others() {
    let (told, mut headers) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
            stream.read_exact(&mut rest).await.unwrap();
            told.send(rest).unwrap();
            stream.write_all(b"ok").await.unwrap();
        }
    })
    .await;
    let mut a = cluster("a", origin.address);
    let raw = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    a["transport_socket"] = json!({"name": "proxy_protocol", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.\
                  ProxyProtocolUpstreamTransport",
        "config": {
            "version": "V2",
            "pass_through_tlvs": {"match_type": "INCLUDE", "tlv_type": [0xea, 0xeb, 0xf0]},
            "added_tlvs": [{"type": 0xf1, "value": base64("added")}],
        },
        "transport_socket": {"name": "raw", "typed_config": {"@type": raw}},
    }});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let format = "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:authority)% \
                  %DOWNSTREAM_REMOTE_ADDRESS%\n";
    let more = json!({
        "access_log": log_to(&file, format),
        "proxy_protocol_tlvs": [{"type": 0xf0, "format_string": {"text_format_source": {
            "inline_string": "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:authority)%!"}}}],
        "proxy_protocol_tlv_merge_policy": "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD",
    });
    let filter = json!([{"name": "pp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        "rules": [{"tlv_type": 2, "on_tlv_present": {"key": "authority"}}],
        "pass_through_tlvs": {"match_type": "INCLUDE_ALL"},
    }}]);
    let mut l4 = listener("l4", &tcp("a", &more));
    l4["listener_filters"] = filter.clone();
    let mut l7 = listener(
        "l7",
        &http(&json!({
            "route_config": routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}])),
            "access_log": log_to(&file, format),
        })),
    );
    l7["listener_filters"] = filter;
    let app = TestApp::bootstrap(&bootstrap(&[l4, l7], &[a]).to_string()).await;

    let extensions = b"\x02\0\x08app.test\xea\0\x01x\x30\0\x01n";
    let mut raw = Raw::connect(app.listener("l4")).await;
    raw.send(header(extensions)).await;
    assert_eq!(raw.bytes(2).await, b"ok");
    let passed = headers.recv().await.unwrap();
    assert_eq!(
        passed[12..],
        *b"\xea\0\x01x\xf0\0\x09app.test!\xf1\0\x05added"
    );
    drop(raw);
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("its line", || text() == "app.test 203.0.113.9:5555\n").await;

    // The same for requests, which see what was noted of their connection.
    let mut raw = Raw::connect(app.listener("l7")).await;
    raw.send(header(extensions)).await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let passed = headers.recv().await.unwrap();
    assert_eq!(passed[12..], *b"\xea\0\x01x\xf1\0\x05added");
    drop(raw);
    eventually("its line", || text().lines().count() == 2).await;
    assert!(
        text().lines().nth(1).unwrap().starts_with("app.test "),
        "{}",
        text()
    );
}
