use serde_json::{Value, json};

use super::*;

const OURS: &str = "worker-1";

/// A list of one circuit as a Coordinator of the first generation wrote it.
const CIRCUITS: &str = r#"[{"id":"7ac87fa0-46b1-48cd-9d2d-1b50fa16a6de","app":"jupyter","protocol":"http","worker":"fc20e9f2-a6e4-4db1-b16d-51e02d357e2f","app_mode":"interactive","frontend_mode":"wildcard","envs":{},"arguments":null,"open_to_public":false,"allowed_client_ips":null,"port":null,"subdomain":"app-5c48d10c","user_id":"f38dea23-50fa-42a0-b5ae-338f5f4693f4","endpoint_id":null,"runtime_variant":null,"route_info":[{"route_id":null,"session_id":"11111111-2222-3333-4444-555555555555","session_name":null,"kernel_host":"127.0.0.1","kernel_port":21040,"protocol":"http","traffic_ratio":1.0,"health_status":null,"last_health_check":null,"consecutive_failures":0}],"session_ids":["11111111-2222-3333-4444-555555555555"],"created_at":"2026-11-24T08:43:58.661195Z","updated_at":"2026-11-24T08:43:58.661200Z"}]"#;

fn circuits() -> Vec<Value> {
    serde_json::from_str(CIRCUITS).unwrap()
}

/// A message of the first generation.
fn packed(name: &str, parts: &[&str]) -> Vec<u8> {
    let args = STANDARD.encode(rmp_serde::to_vec(parts).unwrap());
    message(json!({"name": name, "source": "appproxy-coordinator", "args": args}))
}

/// A message of the second generation.
fn texted(name: &str, payload: &Value) -> Vec<u8> {
    let payload = payload.to_string();
    message(json!({"name": name, "source": "appproxy-coordinator", "payload": payload}))
}

fn message(fields: Value) -> Vec<u8> {
    fields.to_string().into_bytes()
}

#[test]
fn an_empty_reply_is_both_vectors_in_one() {
    let reply = encode(&Reply::Added { circuits: vec![] }, OURS);
    assert_eq!(
        reply,
        concat!(
            r#"{"name":"appproxy_worker_circuit_added_event","source":"appproxy-worker","#,
            r#""args":"kqh3b3JrZXItMaJbXQ==","#,
            r#""payload":"{\"target_worker_authority\":\"worker-1\",\"circuits\":[]}","#,
            r#""metadata":"{\"request_id\":null,\"user\":null}"}"#
        )
    );
}

#[test]
fn a_reply_hands_back_what_was_received() {
    let reply = encode(
        &Reply::Added {
            circuits: circuits(),
        },
        "worker-wild",
    );
    let reply: Value = serde_json::from_str(&reply).unwrap();
    let payload: Value = serde_json::from_str(reply["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload["circuits"], json!(circuits()));
    let packed = STANDARD.decode(reply["args"].as_str().unwrap()).unwrap();
    // An array of two, a text of 11 bytes, then one whose length takes two bytes.
    let head = [&[0x92, 0xAB], b"worker-wild".as_slice(), &[0xDA]].concat();
    assert_eq!(packed[..head.len()], head);
    let length = u16::from_be_bytes([packed[14], packed[15]]);
    assert_eq!(usize::from(length), CIRCUITS.len());
    assert_eq!(&packed[16..], CIRCUITS.as_bytes(), "to the letter");
}

#[test]
fn both_generations_yield_the_same_event() {
    let created = Event::Created {
        circuits: circuits(),
    };
    let to = json!({"target_worker_authority": OURS, "circuits": circuits()});
    let first = packed(CREATED, &[OURS, CIRCUITS]);
    assert_eq!(decode(&first, OURS), Ok(Some(created.clone())));
    assert_eq!(decode(&texted(CREATED, &to), OURS), Ok(Some(created)));

    let removed = Event::Removed {
        circuits: circuits(),
    };
    let first = packed(REMOVED, &[OURS, CIRCUITS]);
    assert_eq!(decode(&first, OURS), Ok(Some(removed.clone())));
    assert_eq!(decode(&texted(REMOVED, &to), OURS), Ok(Some(removed)));

    let (circuit, routes) = (circuits().remove(0), json!([{"kernel_port": 8080}]));
    let to = json!({"target_worker_authority": OURS, "circuit": circuit, "routes": routes});
    let parts = [OURS, &circuit.to_string(), &routes.to_string()];
    let updated = Event::RoutesUpdated {
        circuit,
        routes: routes.as_array().unwrap().clone(),
    };
    assert_eq!(
        decode(&packed(ROUTES_UPDATED, &parts), OURS),
        Ok(Some(updated.clone()))
    );
    assert_eq!(
        decode(&texted(ROUTES_UPDATED, &to), OURS),
        Ok(Some(updated))
    );
}

#[test]
fn an_empty_list_of_routes_is_an_event() {
    let decoded = decode(&packed(ROUTES_UPDATED, &[OURS, "{}", "[]"]), OURS);
    let updated = Event::RoutesUpdated {
        circuit: json!({}),
        routes: vec![],
    };
    assert_eq!(decoded, Ok(Some(updated)));
}

#[test]
fn the_payload_wins_over_args() {
    let args = STANDARD.encode(rmp_serde::to_vec(&[OURS, "[1]"]).unwrap());
    let payload = r#"{"target_worker_authority":"worker-1","circuits":[2]}"#;
    let both = json!({"name": CREATED, "args": args, "payload": payload});
    let event = Event::Created {
        circuits: vec![json!(2)],
    };
    assert_eq!(decode(&message(both), OURS), Ok(Some(event)));
    let null = json!({"name": CREATED, "args": args, "payload": null});
    let event = Event::Created {
        circuits: vec![json!(1)],
    };
    assert_eq!(decode(&message(null), OURS), Ok(Some(event)));
}

#[test]
fn metadata_and_unknown_fields_are_tolerated_in_any_form() {
    let payload = r#"{"target_worker_authority":"worker-1","circuits":[],"new":1}"#;
    for metadata in [
        json!(null),
        json!("{broken"),
        json!({"a": [1]}),
        json!(7),
        json!([]),
    ] {
        let fields = json!({"name": REMOVED, "payload": payload, "metadata": metadata, "x": {}});
        let event = Event::Removed { circuits: vec![] };
        assert_eq!(
            decode(&message(fields), OURS),
            Ok(Some(event)),
            "{metadata}"
        );
    }
    let longer = packed(CREATED, &[OURS, "[]", "something new"]);
    assert!(matches!(
        decode(&longer, OURS),
        Ok(Some(Event::Created { .. }))
    ));
}

#[test]
fn what_does_not_concern_this_worker_is_passed_over() {
    let theirs = json!({"target_worker_authority": "worker-2", "circuits": []});
    let own = encode(
        &Reply::Added {
            circuits: circuits(),
        },
        OURS,
    )
    .into_bytes();
    for (what, other) in [
        (
            "another worker's, first generation",
            packed(CREATED, &["worker-2", "[]"]),
        ),
        (
            "another worker's, unread beyond the name",
            packed(CREATED, &["worker-2", "{broken"]),
        ),
        (
            "another worker's, second generation",
            texted(CREATED, &theirs),
        ),
        ("our own reply", own),
        (
            "a kind that is not known",
            packed("vfolder_deleted_event", &["x"]),
        ),
        (
            "such a kind without a body",
            message(json!({"name": "anything"})),
        ),
    ] {
        assert_eq!(decode(&other, OURS), Ok(None), "{what}");
    }
}

#[test]
fn a_bad_circuit_does_not_spoil_its_neighbours() {
    let event = Event::Created {
        circuits: vec![json!(null), json!({"id": 1})],
    };
    assert_eq!(
        decode(&packed(CREATED, &[OURS, r#"[null,{"id":1}]"#]), OURS),
        Ok(Some(event))
    );
}

#[test]
fn malformed_messages_are_errors_that_name_the_place() {
    let raw = |packed: &[u8]| message(json!({"name": CREATED, "args": STANDARD.encode(packed)}));
    let payload = |text: &str| message(json!({"name": CREATED, "payload": text}));
    let ours = r#"{"target_worker_authority":"worker-1","#;
    let table: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("nothing", vec![], "", "EOF"),
        ("no JSON", b"hello".to_vec(), "", "expected"),
        (
            "no UTF-8",
            b"{\"name\":\"\xFF\xFE\"}".to_vec(),
            "",
            "invalid unicode",
        ),
        ("a list", b"[]".to_vec(), "", "invalid length"),
        ("cut", br#"{"name":"appproxy_circ"#.to_vec(), "", "EOF"),
        ("two texts", b"{\"name\":\"a\"} {}".to_vec(), "", "trailing"),
        ("no name", b"{}".to_vec(), "", "missing field `name`"),
        (
            "a number for a name",
            br#"{"name":1}"#.to_vec(),
            "",
            "invalid type",
        ),
        ("too deep", "[".repeat(100_000).into_bytes(), "", "invalid"),
        ("no body", message(json!({"name": CREATED})), "", "neither"),
        (
            "args no text",
            message(json!({"name": CREATED, "args": ["a"]})),
            "args",
            "text",
        ),
        (
            "args no base64",
            message(json!({"name": CREATED, "args": "*"})),
            "args",
            "base64",
        ),
        (
            "base64 cut",
            message(json!({"name": CREATED, "args": "kqh3b"})),
            "args",
            "base64",
        ),
        ("args empty", raw(&[]), "args", "msgpack"),
        (
            "msgpack map",
            raw(&[0x81, 0xA1, b'a', 0xA1, b'b']),
            "args",
            "msgpack",
        ),
        (
            "msgpack number",
            raw(&[0x92, 0x01, 0xA1, b'b']),
            "args",
            "msgpack",
        ),
        ("array cut", raw(&[0x92, 0xA1, b'a']), "args", "msgpack"),
        (
            "text longer than the message",
            raw(&[0x91, 0xDB, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
            "args",
            "msgpack",
        ),
        (
            "array longer than memory",
            raw(&[0xDD, 0xFF, 0xFF, 0xFF, 0xFF, 0xA1, b'a']),
            "args",
            "msgpack",
        ),
        ("nested arrays", raw(&[0x91; 5000]), "args", "msgpack"),
        (
            "no UTF-8 in msgpack",
            raw(&[0x91, 0xA1, 0xFF]),
            "args",
            "msgpack",
        ),
        (
            "bytes after the array",
            raw(&[0x91, 0xA1, b'a', 0xC0]),
            "args",
            "more after",
        ),
        ("an empty array", raw(&[0x90]), "args[0]", "missing"),
        (
            "no circuits",
            packed(CREATED, &[OURS]),
            "args[1]",
            "missing",
        ),
        (
            "circuits no JSON",
            packed(CREATED, &[OURS, "{"]),
            "args[1]",
            "EOF",
        ),
        (
            "circuits no list",
            packed(REMOVED, &[OURS, "{}"]),
            "args[1]",
            "not a list",
        ),
        (
            "no routes",
            packed(ROUTES_UPDATED, &[OURS, "{}"]),
            "args[2]",
            "missing",
        ),
        (
            "routes no list",
            packed(ROUTES_UPDATED, &[OURS, "{}", "1"]),
            "args[2]",
            "not a list",
        ),
        (
            "payload no text",
            message(json!({"name": CREATED, "payload": {}})),
            "payload",
            "text",
        ),
        ("payload no JSON", payload("{"), "payload", "EOF"),
        ("payload a list", payload("[]"), "payload", "invalid"),
        (
            "payload without authority",
            payload("{}"),
            "payload",
            "target_worker_authority",
        ),
        (
            "payload without circuits",
            payload(&format!("{ours}\"x\":1}}")),
            "payload.circuits",
            "missing",
        ),
        (
            "circuits null",
            payload(&format!("{ours}\"circuits\":null}}")),
            "payload.circuits",
            "missing",
        ),
        (
            "circuits a text",
            payload(&format!("{ours}\"circuits\":\"[]\"}}")),
            "payload.circuits",
            "not a list",
        ),
    ];
    for (what, message, at, reason) in table {
        match decode(&message, OURS) {
            Err(malformed) => {
                assert_eq!(malformed.at, at, "{what}: {malformed}");
                assert!(malformed.reason.contains(reason), "{what}: {malformed}");
            }
            decoded => panic!("{what}: {decoded:?}"),
        }
    }
}

#[test]
fn no_byte_of_a_message_can_be_changed_into_a_panic() {
    for good in [
        packed(CREATED, &[OURS, CIRCUITS]),
        texted(
            REMOVED,
            &json!({"target_worker_authority": OURS, "circuits": circuits()}),
        ),
    ] {
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x15;
            decode(&bad, OURS).ok();
            decode(&good[..at], OURS).ok();
        }
    }
}

#[test]
fn long_messages_are_not_looked_at() {
    let long = vec![b' '; MAX_MESSAGE + 1];
    let error = decode(&long, OURS).unwrap_err();
    assert!(
        error.to_string().starts_with("message: 16777217 bytes"),
        "{error}"
    );
}
