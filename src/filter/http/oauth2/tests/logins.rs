//! Logins, from the first redirect to the last.

use super::*;

#[tokio::test]
async fn a_login_leads_there_and_back() {
    let case = case(&json!({}));
    let begun = case.ask("/page?x=1", "").await;
    let query = begun.query();
    assert!(begun.location().starts_with("https://idp.test/authorize?"));
    assert_eq!(query["client_id"], "me");
    assert_eq!(query["redirect_uri"], "https://app.test/callback");
    assert_eq!(
        (query["response_type"].as_str(), query["scope"].as_str()),
        ("code", "openid")
    );
    assert_eq!(query["code_challenge_method"], "S256");
    assert!(
        begun.set.iter().all(|c| c.contains("secure;HttpOnly")),
        "{:?}",
        begun.set
    );

    let back = case.ask(&begun.back(), &begun.cookies()).await;
    assert_eq!(back.location(), "https://app.test/page?x=1");
    let (head, body) = case.server.asked.borrow()[0].clone();
    assert_eq!(
        (head.uri.path(), &head.headers["host"]),
        ("/token", &"idp.test".parse().unwrap())
    );
    let sent: std::collections::HashMap<_, _> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    assert_eq!(
        (sent["code"].as_str(), sent["client_secret"].as_str()),
        ("c0de", "client secret")
    );
    assert_eq!(
        seal::challenge(&sent["code_verifier"]),
        query["code_challenge"]
    );
    assert!(!back.cookies().contains("=at"), "tokens are sealed");

    let cookies = format!("{}; own=1", back.cookies());
    let inside = case.ask("/page", &cookies).await;
    assert!(inside.reply.is_none());
    assert_eq!(inside.parts.headers["authorization"], "Bearer at");
    assert_eq!(
        inside.parts.headers["cookie"],
        "own=1; BearerToken=at; IdToken=it"
    );
}

#[tokio::test]
async fn nobody_is_let_in_by_what_they_have_made_up() {
    let case = case(&json!({"use_refresh_token": false}));
    let cookies = case.logged_in().await;
    assert!(case.ask("/", &cookies).await.reply.is_none());
    // Of a session that lasts longer.
    let later = cookies.replace("OauthExpires=", "OauthExpires=9");
    assert_eq!(case.ask("/", &later).await.status(), 302);
    for name in ["OauthHMAC", "BearerToken", "OauthExpires", "IdToken"] {
        let all = cookies.split("; ");
        let without: Vec<&str> = all.filter(|c| !c.starts_with(name)).collect();
        assert_eq!(
            case.ask("/", &without.join("; ")).await.status(),
            302,
            "{name}"
        );
    }
    // On another host.
    let parts = request("/", &[("host", "other.test"), ("cookie", &cookies)]);
    assert_eq!(case.asked(parts).await.status(), 302);
    // A field of their own is nothing.
    let parts = request("/", &[("host", "app.test"), ("authorization", "Bearer at")]);
    assert_eq!(case.asked(parts).await.status(), 302);
    assert_eq!(case.server.asked.borrow().len(), 1);
}

#[tokio::test]
async fn a_callback_is_believed_only_where_its_login_began() {
    let case = case(&json!({}));
    let begun = case.ask("/page", "").await;
    let back = begun.back();
    // Another browser, no code, another way, a refusal.
    assert_eq!(case.ask(&back, "").await.status(), 401);
    let other = case.ask("/page", "").await;
    assert_eq!(case.ask(&back, &other.cookies()).await.status(), 401);
    let no_code = back.replace("code=c0de&", "");
    assert_eq!(case.ask(&no_code, &begun.cookies()).await.status(), 401);
    let denied = format!("{back}&error=access_denied");
    assert_eq!(case.ask(&denied, &begun.cookies()).await.status(), 401);
    let state = URL_SAFE_NO_PAD.decode(&begun.query()["state"]).unwrap();
    let state = String::from_utf8(state)
        .unwrap()
        .replace("app.test", "evil.test");
    let evil = format!(
        "/callback?code=c0de&state={}",
        URL_SAFE_NO_PAD.encode(state)
    );
    assert_eq!(case.ask(&evil, &begun.cookies()).await.status(), 401);
    assert!(case.server.asked.borrow().is_empty(), "no code was sent on");
    // And the server has to answer.
    *case.server.answer.borrow_mut() = None;
    let failed = case.ask(&back, &begun.cookies()).await;
    assert_eq!(
        (failed.status(), failed.reply.unwrap().text()),
        (401, "OAuth flow failed.")
    );
}

/// The number of a login, as its cookies have it.
fn number(cookies: &str) -> &str {
    let (_, rest) = cookies.split_once("OauthNonce.").expect("a login");
    rest.split('=').next().unwrap()
}

#[tokio::test]
async fn a_login_has_to_end_in_time() {
    let case = case(&json!({}));
    let (nonce, original) = ("abcdefghijkl", "https://app.test/page");
    let (name, sealer) = ("OauthCodeVerifier.abcdefgh", Sealer(HMAC));
    let come_back = async |until: &str| {
        let parts: [&[u8]; 4] = [
            b"login",
            nonce.as_bytes(),
            until.as_bytes(),
            original.as_bytes(),
        ];
        let csrf = format!("{nonce}.{until}.{}", sealer.sign(&parts));
        let state = json!({"url": original, "csrf_token": csrf}).to_string();
        let target = format!("/callback?code=c&state={}", URL_SAFE_NO_PAD.encode(state));
        let verifier = sealer.seal(name, "verifier").unwrap();
        let cookies = format!("OauthNonce.abcdefgh={csrf}; {name}={verifier}");
        case.ask(&target, &cookies).await
    };
    assert_eq!(come_back(&u64::MAX.to_string()).await.status(), 302);
    for until in ["1", "", "x", "-1"] {
        let late = come_back(until).await;
        assert_eq!(late.status(), 401, "{until}");
        let gone = late.set.iter().filter(|c| c.contains("=deleted;Max-Age=0"));
        assert_eq!(gone.count(), 2, "{until}: {:?}", late.set);
    }
    assert_eq!(case.server.asked.borrow().len(), 1);
    // The time is signed.
    let begun = case.ask("/page", "").await;
    let state = URL_SAFE_NO_PAD.decode(&begun.query()["state"]).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let csrf = state["csrf_token"].as_str().unwrap();
    let until = csrf.split('.').nth(1).unwrap();
    let left = until.parse::<u64>().unwrap() - now();
    assert!((1..=600).contains(&left), "{left}");
    let later = state.to_string().replace(until, &u64::MAX.to_string());
    let target = format!("/callback?code=c&state={}", URL_SAFE_NO_PAD.encode(later));
    let cookies = begun.cookies().replace(until, &u64::MAX.to_string());
    assert_eq!(case.ask(&target, &cookies).await.status(), 401);
}

#[tokio::test]
async fn logins_that_come_to_nothing_do_not_pile_up() {
    let case = case(&json!({}));
    let mut kept = String::new();
    for _ in 0..20 {
        let begun = case.ask("/page", &kept).await;
        // As a client would do it.
        let gone: Vec<_> = begun
            .set
            .iter()
            .filter_map(|c| c.split_once("=deleted"))
            .collect();
        let mut left: Vec<&str> = kept.split("; ").filter(|c| !c.is_empty()).collect();
        left.retain(|cookie| !gone.iter().any(|(name, _)| cookie.starts_with(name)));
        let new = begun.cookies();
        left.push(&new);
        kept = left.join("; ");
    }
    assert_eq!(kept.matches("OauthNonce.").count(), 8);
    assert_eq!(kept.matches("OauthCodeVerifier.").count(), 8);
    // The oldest goes.
    let eight =
        [4, 7, 1, 8, 2, 6, 3, 5].map(|until| format!("OauthNonce.number0{until}=n.{until}.s"));
    let begun = case.ask("/page", &eight.join("; ")).await;
    let gone = begun.set.iter().filter(|c| c.contains("=deleted;"));
    let gone: Vec<_> = gone.filter_map(|c| c.split('=').next()).collect();
    assert_eq!(gone, ["OauthNonce.number01", "OauthCodeVerifier.number01"]);
    // What is no number of ours is not written into an answer, and there is an end to what is.
    let forged: Vec<_> = (0..100)
        .map(|n| format!("OauthNonce.number{n:02}=x"))
        .collect();
    let forged = format!("OauthNonce.a,b;c=x; {}", forged.join("; "));
    let begun = case.ask("/page", &forged).await;
    assert_eq!(begun.set.len(), 2 + 2 * login::MAX_ENDED, "{:?}", begun.set);
    // Who is let in, is refused or signs out has nothing of a login left either.
    let begun = case.ask("/page", "").await;
    let denied = format!("{}&error=access_denied", begun.back());
    let denied = case.ask(&denied, &begun.cookies()).await;
    let out = case.ask("/signout", &begun.cookies()).await;
    let in_already = format!("{}; {}", case.logged_in().await, begun.cookies());
    let back = case.ask(&begun.back(), &in_already).await;
    for (outcome, status) in [(&denied, 401), (&out, 302), (&back, 302)] {
        assert_eq!(outcome.status(), status);
        for which in ["OauthNonce", "OauthCodeVerifier"] {
            let cookies = begun.cookies();
            let gone = format!("{which}.{}=deleted;Max-Age=0", number(&cookies));
            assert!(outcome.set.iter().any(|c| c.starts_with(&gone)), "{gone}");
        }
    }
}
