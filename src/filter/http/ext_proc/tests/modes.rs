//! Which parts the processor sees, and who may change that.

use super::*;

#[tokio::test]
async fn who_only_looks_on_is_not_waited_for() {
    local(async {
        let modes = bodies(Body_::Streamed, Body_::Streamed);
        let config = config(|c| {
            c.processing_mode = modes;
            c.observability_mode = true;
        });
        let mut case = case(&config, |_| Some(Vec::new())).sending(Whole::new("up"));
        assert!(matches!(case.ask().await, Flow::Continue));
        assert_eq!(case.sent().await.unwrap().0, "up");
        let answered = case.answer(Whole::new("down")).await;
        assert_eq!(whole(answered.body).await.unwrap().0, "down");
        let all = 4;
        poll_fn(|cx| {
            if case.processor.seen.borrow().len() == all {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        assert!(
            case.processor
                .seen
                .borrow()
                .iter()
                .all(|m| m.observability_mode)
        );
    })
    .await;
}

#[tokio::test]
async fn a_route_has_its_own_modes_and_may_switch_it_off() {
    use proto::ext_proc_per_route::Override;
    local(async {
        let said = |r#override| {
            let message = proto::ExtProcPerRoute {
                r#override: Some(r#override),
            };
            per_route(FACTORY.name, FACTORY.per_route[0].0, &message)
        };
        let nods = |message: &ProcessingRequest| Some(vec![nod(message)]);
        let mut off = case(&config(|_| {}), nods);
        off.route = said(Override::Disabled(true)).unwrap();
        assert!(matches!(off.ask().await, Flow::Continue));
        off.answer(Whole::default()).await;
        assert!(off.parts_seen().is_empty());
        assert!(said(Override::Disabled(false)).is_err());

        let mut skips = case(&config(|_| {}), nods);
        skips.route = said(Override::Overrides(proto::ExtProcOverrides {
            processing_mode: Some(proto::ProcessingMode {
                request_header_mode: Send_::Skip as i32,
                ..Default::default()
            }),
            ..Default::default()
        }))
        .unwrap();
        assert!(matches!(skips.ask().await, Flow::Continue));
        skips.answer(Whole::default()).await;
        assert_eq!(skips.parts_seen(), ["response_headers"]);
    })
    .await;
}

#[tokio::test]
async fn the_processor_may_change_modes_only_where_it_may() {
    local(async {
        let skip = proto::ProcessingMode {
            response_header_mode: Send_::Skip as i32,
            ..Default::default()
        };
        for (allowed, listed, expected) in [
            (false, Vec::new(), 2),
            (true, Vec::new(), 1),
            (true, vec![skip], 1),
            (true, vec![proto::ProcessingMode::default()], 2),
        ] {
            let config = config(|c| {
                c.allow_mode_override = allowed;
                c.allowed_override_modes = listed;
            });
            let mut case = case(&config, move |message| {
                let mut said = nod(message);
                said.mode_override = Some(skip);
                Some(vec![said])
            });
            assert!(matches!(case.ask().await, Flow::Continue));
            case.answer(Whole::default()).await;
            assert_eq!(case.parts_seen().len(), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn the_route_is_chosen_anew_only_after_a_change() {
    local(async {
        for (mutates, reroutes) in [(true, true), (false, false)] {
            let mut case = case(&config(|_| {}), move |_| {
                let mut response = common(mutates.then(|| set("x-b", "2")), None);
                response.as_mut().unwrap().clear_route_cache = true;
                Some(vec![saying(Said::RequestHeaders(HeadersResponse {
                    response,
                }))])
            });
            let flow = case.ask().await;
            assert_eq!(matches!(flow, Flow::Reroute), reroutes, "{flow:?}");
        }
    })
    .await;
}
