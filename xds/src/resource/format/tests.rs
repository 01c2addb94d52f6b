use super::*;

fn parse(text: &str) -> Result<Format, String> {
    Format::parse(text).map_err(|e| e.to_string())
}

#[test]
fn commands_stand_between_literal_text() {
    let format = parse("a %REQ(X-B?:path):3% 100%% %PROTOCOL%").unwrap();
    let text = |t: &str| Part::Text(t.to_owned());
    let command = |operator, max| Part::Command { operator, max };
    let choice = HeaderChoice {
        name: "x-b".into(),
        or: ":path".into(),
    };
    assert_eq!(
        format.0,
        [
            text("a "),
            command(Operator::RequestHeader(choice), Some(3)),
            text(" 100% "),
            command(Operator::Fact(Fact::Protocol), None),
        ]
    );
    assert_eq!(parse("100%%").unwrap().literal(), Some("100%"));
    assert_eq!(parse("").unwrap().literal(), Some(""));
    assert_eq!(parse("%PROTOCOL%").unwrap().literal(), None);
}

#[test]
fn what_envoy_refuses_is_refused() {
    for text in [
        "%",
        "a%b",
        "%REQ(x",
        "%REQ()%",
        "%REQ%",
        "%REQ(x?y?z)%",
        "%REQ(x):%",
        "%REQ(x):a%",
        "%REQ(x):99999999999999999999%",
        "%REQ(a b)%",
        "%foo%",
        "%FOO%",
        "%PROTOCOL(x)%",
        "%PROTOCOL:3%",
        "%START_TIME(%n)%",
        "%START_TIME:3%",
        "%DURATION:2%",
        "%PATH(X)%",
        "%QUERY_PARAM%",
        "%QUERY_PARAMS(X)%",
        "%COMMON_DURATION%",
        "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:xx)%",
        "%ENVIRONMENT()%",
        "%DYNAMIC_METADATA()%",
        "%UPSTREAM_METADATA%",
        "%UPSTREAM_METADATA([])%",
        "%CLUSTER_METADATA([1])%",
        "%METADATA(LISTENER:a)%",
        "%METADATA(X:a)%",
        "%FILTER_STATE(a:BAD)%",
        "%GRPC_STATUS(x)%",
        "%REQUESTED_SERVER_NAME(HOST)%",
        "%BYTES_SENT(x)%",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_envoy_takes_is_taken() {
    for text in [
        "%REQ(x?)%",
        "%REQ(?x)%",
        "%REQ(x):0%",
        "%RESP(:status)%",
        "%PROTOCOL()%",
        "%START_TIME(%Y:%)%",
        "%START_TIME(%Y-%m-%dT%H:%M:%E3S %s %3f %Ez)%",
        "%PATH%",
        "%PATH(NQ:ORIG_OR_PATH):3%",
        "%QUERY_PARAM(a):2%",
        "%QUERY_PARAMS(DECODED)%",
        "%COMMON_DURATION(DS_RX_BEG:foo:us)%",
        "%ENVIRONMENT(HOME):2%",
        "%DYNAMIC_METADATA(a:b):3%",
        "%METADATA(ROUTE)%",
        "%METADATA(UPSTREAM_HOST:a:b)%",
        "%UPSTREAM_METADATA(a:b):3%",
        "%DYNAMIC_METADATA([\"a\",\"b\"])%",
        "%CLUSTER_METADATA(a)%",
        "%UPSTREAM_LOCAL_ADDRESS%",
        "%FILTER_STATE(a:FIELD:x)%",
        "%REQUESTED_SERVER_NAME(SNI_FIRST:ORIG)%",
        "%EMIT_TIME%",
    ] {
        assert_eq!(parse(text).err(), None, "{text}");
    }
}

#[test]
fn what_is_not_recorded_is_refused_by_name() {
    for text in ["%CEL(request.path)%", "%UPSTREAM_FILTER_STATE(a)%"] {
        let reason = parse(text).unwrap_err();
        assert!(reason.contains("not supported yet"), "{text}: {reason}");
    }
}

/// Any text is taken or refused; nothing panics, and what is taken is no longer than its text.
#[test]
fn no_text_makes_the_parser_panic() {
    let pieces = [
        "%",
        "%%",
        "REQ",
        "(",
        ")",
        ":",
        "?",
        "9",
        "START_TIME",
        "é",
        "%Y",
        "PATH",
        "\n",
        "x",
    ];
    let mut state = 1_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        if let Ok(format) = parse(&text) {
            assert!(format.0.len() <= text.len(), "{text}");
        }
    }
}

#[test]
fn the_older_form_of_a_path_of_keys_is_the_same() {
    let older = parse(r#"%UPSTREAM_METADATA(["a", "b:c"])%"#).unwrap();
    let path = vec!["a".to_owned(), "b:c".to_owned()];
    let operator = Operator::Metadata {
        of: Holder::Endpoint,
        path,
    };
    assert_eq!(older.operators().collect::<Vec<_>>(), [&operator]);
}
