//! Bodies and their trailers.

use super::*;

#[tokio::test]
async fn a_body_is_read_whole_and_replaced() {
    let chain = on_request(
        r#"
        local body = handle:body()
        assert(body:length() == 6 and body:getBytes(1, 3) == "bcd")
        assert(not pcall(body.getBytes, body, 4, 3))
        handle:headers():add("x-length", body:length())
        assert(handle:trailers():get("t") == "1")
        handle:trailers():replace("t", "2")
        assert(body:setBytes("new") == 3)
        "#,
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("t", HeaderValue::from_static("1"));
    let body = pieces(&["abc", "def"], Some(trailers));
    let it = passed_with(&chain, Some(body), Nowhere::default()).await;
    assert_eq!(it.header("x-length"), "6");
    let (body, trailers) = it.body().await;
    assert_eq!(body, "new");
    assert_eq!(trailers.unwrap()["t"], "2");

    let chain = on_request("handle:body():setBytes(handle:body():getBytes(0, 2))");
    let body = Some(pieces(&["abcd"], None));
    let it = passed_with(&chain, body, Nowhere::default()).await;
    assert_eq!(it.header("content-length"), "2");
    assert_eq!(it.body().await.0, "ab");
}

#[tokio::test]
async fn a_body_that_is_not_there_can_be_made() {
    let it = passed("assert(handle:body() == nil) handle:body(true):setBytes('made')").await;
    assert_eq!(it.header("content-length"), "4");
    assert_eq!(it.body().await.0, "made");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let chain = on_request("handle:body()");
    let large = Whole::new(vec![b'x'; (1 << 20) + 1]).boxed();
    let it = passed_with(&chain, Some(large), Nowhere::default()).await;
    assert_eq!(it.reply().status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_is_seen_while_it_passes() {
    let chain = on_request(
        r#"
        local seen, last = 0, nil
        for chunk in handle:bodyChunks() do
          seen = seen + chunk:length()
          if chunk:length() > 0 then
            chunk:setBytes("<" .. chunk:getBytes(0, chunk:length()) .. ">")
          end
          last = chunk
        end
        assert(handle:headers():get("x-one") == "1")
        assert(not pcall(function() handle:headers():add("late", "1") end))
        assert(not pcall(function() handle:body() end))
        last:setBytes("[" .. seen .. "]")
        "#,
    );
    let body = Some(pieces(&["abc", "de"], None));
    let it = passed_with(&chain, body, Nowhere::default()).await;
    assert!(matches!(it.flow, Flow::Continue), "{:?}", it.flow);
    assert_eq!(it.body().await.0, "<abc><de>[5]");
    // Without a body there are no pieces.
    let it = passed(
        "for _ in handle:bodyChunks() do error('a piece') end handle:headers():add('a', 'b')",
    )
    .await;
    assert_eq!(it.header("a"), "b");
}

#[tokio::test]
async fn trailers_are_waited_for_beside_a_body() {
    let chain = on_request("handle:trailers():add('more', '1')");
    let mut trailers = HeaderMap::new();
    trailers.insert("t", HeaderValue::from_static("1"));
    let body = Some(pieces(&["abc", "de"], Some(trailers)));
    let it = passed_with(&chain, body, Nowhere::default()).await;
    let (body, trailers) = it.body().await;
    let trailers = trailers.unwrap();
    assert_eq!(
        (body, &trailers["t"], &trailers["more"]),
        (
            "abcde".into(),
            &HeaderValue::from_static("1"),
            &HeaderValue::from_static("1")
        )
    );
}
