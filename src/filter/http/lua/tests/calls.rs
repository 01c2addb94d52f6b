//! Services that scripts call.

use super::*;

/// Answers every call, and knows what it was asked.
#[derive(Default)]
pub(super) struct Answers(RefCell<Vec<(String, Parts, Bytes)>>);

impl Calls for Rc<Answers> {
    fn call(
        &self,
        cluster: &str,
        request: Request<BoxBody>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<BoxBody>, CallError>> {
        let (this, cluster) = (Rc::clone(self), cluster.to_owned());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let down = parts.uri.path() == "/down";
            this.0.borrow_mut().push((cluster, parts, body));
            if down {
                return Err(CallError::Unreachable("down".to_owned()));
            }
            let answer = Response::builder().status(201);
            let answer = answer.header("a", "1").header("b", "1").header("b", "2");
            Ok(answer.body(Whole::new("said").boxed()).unwrap())
        })
    }

    fn members(&self, cluster: &str) -> Option<Members> {
        (cluster == "there").then(Members::default)
    }
}

pub(super) fn answering() -> (Rc<Answers>, Nowhere) {
    let answers = Rc::new(Answers::default());
    let around = Nowhere {
        calls: Rc::new(Rc::clone(&answers)),
        ..Nowhere::default()
    };
    (answers, around)
}

pub(super) const CALL: &str = r#"
    local head = {[":method"] = "POST", [":path"] = "/x", [":authority"] = "h", many = {"1", "2"}}
"#;

#[tokio::test]
async fn services_are_called() {
    let chain = on_request(&format!(
        r#"{CALL}
        local headers, body = handle:httpCall("there", head, "hello", 1000)
        assert(headers[":status"] == "201" and headers.a == "1" and headers.b == "2" and body == "said")
        headers = handle:httpCall("there", head, nil, {{timeout_ms = 5, return_duplicate_headers = true}})
        assert(headers.a == "1" and headers.b[1] == "1" and headers.b[2] == "2")
        head[":path"] = "/down"
        -- Waiting is possible from within a protected call, too.
        local ok, down = pcall(function() return (handle:httpCall("there", head, "", 0)) end)
        assert(ok and down[":status"] == "503")
        assert(not pcall(handle.httpCall, handle, "nowhere", head, "", 5))
        assert(not pcall(handle.httpCall, handle, "there", {{}}, "", 5))
        handle:headers():add("done", "1")
        "#
    ));
    let (answers, around) = answering();
    let it = passed_with(&chain, None, around).await;
    assert_eq!(it.header("done"), "1");
    let asked = answers.0.borrow();
    assert_eq!(asked.len(), 3);
    let (cluster, parts, body) = &asked[0];
    assert_eq!((cluster.as_str(), &**body), ("there", &b"hello"[..]));
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/x"));
    assert_eq!(parts.headers["host"], "h");
    assert_eq!(parts.headers["content-length"], "5");
    assert_eq!(parts.headers.get_all("many").iter().count(), 2);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_made_all_the_same() {
    let chain = on_request(&format!(
        "{CALL} assert(handle:httpCall('there', head, 'x', 5, true) == nil)
         handle:headers():add('done', '1')"
    ));
    let (answers, around) = answering();
    let local = tokio::task::LocalSet::new();
    let it = local.run_until(passed_with(&chain, None, around)).await;
    assert_eq!(it.header("done"), "1");
    local.await;
    assert_eq!(answers.0.borrow().len(), 1);
}

#[tokio::test]
async fn a_call_is_made_between_the_pieces_of_a_body() {
    let chain = on_request(&format!(
        r#"{CALL}
        for chunk in handle:bodyChunks() do
          if chunk:length() > 0 then
            local _, said = handle:httpCall("there", head, chunk:getBytes(0, chunk:length()), 5)
            chunk:setBytes(said .. ".")
          end
        end"#
    ));
    let (answers, around) = answering();
    let it = passed_with(&chain, Some(pieces(&["a", "b"], None)), around).await;
    assert_eq!(it.body().await.0, "said.said.");
    assert_eq!(answers.0.borrow().len(), 2);
}
