//! Who may come in, and what is not exposed by mistake.

use super::*;

#[test]
fn what_would_be_exposed_by_mistake_is_refused() {
    let frame = all_frontends();
    let good = golden("wildcard").remove(0);
    let refused = |circuit: &Circuit, frame: &Frame| frame.check(circuit).unwrap_err().field;
    let private = Circuit {
        open_to_public: false,
        ..good.clone()
    };
    assert_eq!(refused(&private, &frame), "open_to_public");
    let permissive = Frame {
        allow_unauthenticated: true,
        ..frame.clone()
    };
    assert_eq!(permissive.check(&private), Ok(()));
    let access = Frame {
        access: Some(access()),
        ..frame.clone()
    };
    assert_eq!(access.check(&private), Ok(()));
    let nobody = Circuit {
        user_id: None,
        ..private.clone()
    };
    assert_eq!(refused(&nobody, &access), "user_id");
    let elsewhere = Circuit {
        slot: Slot::Port(10210),
        ..good.clone()
    };
    assert_eq!(
        refused(&elsewhere, &frame),
        "port",
        "a bind port is not an advertised one"
    );
    assert_eq!(
        refused(
            &good,
            &Frame {
                wildcard: None,
                ..frame
            }
        ),
        "frontend_mode"
    );
}

#[test]
fn private_circuits_ask_for_what_opens_them_alone() {
    use causeway_xds::proto::causeway::v1::access_per_route::Caller;
    let frame = Frame {
        access: Some(access()),
        ..all_frontends()
    };
    let owner: Uuid = "f38dea23-50fa-42a0-b5ae-338f5f4693f4".parse().unwrap();
    let private = Circuit {
        open_to_public: false,
        user_id: Some(owner),
        ..golden("wildcard").remove(0)
    };
    let asks = |circuit: &Circuit, road| {
        let config = &filters::per_route(&frame, circuit, road)["causeway.access"];
        let config: causeway_xds::proto::causeway::v1::AccessPerRoute =
            Message::decode(config.value.as_slice()).unwrap();
        config.caller
    };
    let permit = |circuit: &Circuit, road| match asks(circuit, road) {
        Some(Caller::Permit(permit)) => permit.value,
        other => panic!("{other:?}"),
    };
    // A permit as the Coordinator makes it.
    let of_user = "MWI4ZWU5YjhmNzNjMmNiMTI4MDJkYTk2N2E4ZjAxYjUzODcyZjkwMjkyMTA5M2M5MmE1ZDdjZTVjMmY1\
                   ZTk3OA==";
    assert_eq!(permit(&private, filters::Road::Slot), of_user);
    let by_path = filters::Road::Path {
        prefix: "/s/a",
        stripped: true,
    };
    let other = Circuit {
        id: Uuid::from_u128(9),
        ..private.clone()
    };
    let of_circuit = permit(&private, by_path);
    assert_ne!(of_circuit, of_user);
    assert_ne!(
        of_circuit,
        permit(&other, by_path),
        "each app has a permit of its own"
    );
    let service = Circuit {
        app_mode: crate::coordinator::model::AppMode::Inference,
        ..private.clone()
    };
    match asks(&service, filters::Road::Slot) {
        Some(Caller::Token(token)) => assert_eq!(token.id, service.id.to_string()),
        other => panic!("{other:?}"),
    }
    let open = Circuit {
        open_to_public: true,
        ..private
    };
    assert!(asks(&open, filters::Road::Slot).is_none());
}

#[test]
fn only_a_token_keeps_pages_of_other_apps_out_by_itself() {
    use causeway_xds::proto::causeway::v1::WebSocketBridgePerRoute;
    let frame = Frame {
        access: Some(access()),
        tcp_origins: vec!["https://portal.test".to_owned()],
        ..all_frontends()
    };
    let private = Circuit {
        open_to_public: false,
        user_id: Some(Uuid::from_u128(7)),
        app_mode: AppMode::Interactive,
        ..golden("tcp").remove(0)
    };
    let admitted = |circuit: &Circuit| {
        let road = filters::Road::Slot;
        let config = &filters::per_route(&frame, circuit, road)["causeway.websocket_bridge"];
        let config: WebSocketBridgePerRoute = Message::decode(config.value.as_slice()).unwrap();
        config.allowed_origins
    };
    assert_eq!(admitted(&private), ["https://portal.test"]);
    let open = Circuit {
        open_to_public: true,
        ..private.clone()
    };
    assert_eq!(admitted(&open), ["https://portal.test"]);
    let service = Circuit {
        app_mode: AppMode::Inference,
        ..private
    };
    assert_eq!(admitted(&service), ["*"]);
}

#[test]
fn address_lists_reach_the_route() {
    let with = |list: Option<&str>| {
        filters::allowed(&Circuit {
            allowed_client_ips: list.map(str::to_owned),
            ..golden("wildcard").remove(0)
        })
    };
    assert!(with(None).is_empty() && with(Some(" , ")).is_empty());
    assert_eq!(with(Some(" ,10.0.0.0/8, ::1 ,x")), ["10.0.0.0/8", "::1"]);
    assert_eq!(
        with(Some("x")),
        ["255.255.255.255/32"],
        "nobody, not everybody"
    );
}
