use serde_json::Value;

use super::*;
use crate::filter::Chain;
use crate::filter::testing::{chain, per_route, request, run};
use crate::route::PerRoute;
use proto::error_page::Appearance;

const FILTER: &str = "causeway.error_pages";

fn page(failures: &[&str], title: &str) -> proto::ErrorPage {
    proto::ErrorPage {
        failures: failures.iter().map(|f| (*f).to_owned()).collect(),
        title: title.into(),
        ..Default::default()
    }
}

fn pages(pages: Vec<proto::ErrorPage>) -> Chain {
    let config = proto::ErrorPages {
        pages,
        ..Default::default()
    };
    chain(FACTORY.message, &config).unwrap()
}

fn route(failure: &str, status: u32, message: &str) -> PerRoute {
    let config = proto::ErrorPagesPerRoute {
        failure: failure.into(),
        status,
        message: message.into(),
    };
    per_route(FILTER, "causeway.v1.ErrorPagesPerRoute", &config).unwrap()
}

fn failure(details: &'static str) -> Failure {
    let flag = ResponseFlag::UpstreamConnectFailure;
    Failure::local(StatusCode::SERVICE_UNAVAILABLE, flag, details).saying("no upstream")
}

fn asked(accept: &'static str) -> Asked {
    Asked {
        accept: Some(HeaderValue::from_static(accept)),
        request_id: (&HeaderValue::from_static("id-1")).into(),
        host: Some(HeaderValue::from_static("App-1.apps.test:8080")),
        ..Default::default()
    }
}

fn problem(reply: &LocalReply) -> Value {
    serde_json::from_str(reply.text()).unwrap()
}

#[test]
fn the_first_page_that_applies_is_taken() {
    let chain = pages(vec![
        page(&["permit_missing", "NR"], "one"),
        page(&["UF", "reset{overflow}"], "two"),
        page(&["reset", "cluster_not_found"], "three"),
        page(&["configured"], "four"),
        page(&["*"], "five"),
    ]);
    let title = |failure: &Failure| {
        let told = chain.render(failure, Some(&asked("application/json")));
        problem(&told.unwrap())["title"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let of = |details, flag| Failure {
        flag,
        ..failure(details)
    };
    let connect = Some(ResponseFlag::UpstreamConnectFailure);
    for (failure, expected) in [
        (of("permit_missing", connect), "one"),
        (of("any", Some(ResponseFlag::NoRoute)), "one"),
        (of("cluster_not_found", connect), "two"),
        (of("reset{overflow}", None), "two"),
        (of("reset{other}", None), "three"),
        (of("cluster_not_found", None), "three"),
        (of("any", None), "five"),
        (
            Failure {
                named: Some("configured".into()),
                ..of("permit_missing", None)
            },
            "four",
        ),
    ] {
        assert_eq!(title(&failure), expected, "{failure:?}");
    }
}

#[test]
fn what_no_page_describes_keeps_its_plain_answer() {
    let chain = pages(vec![page(&["other"], "")]);
    assert!(
        chain
            .render(&failure("this"), Some(&asked("*/*")))
            .is_none()
    );
    assert!(chain.asked(&request("/", &[])).is_some());
    assert!(Chain::default().asked(&request("/", &[])).is_none());
}

#[test]
fn a_program_gets_a_problem() {
    let chain = pages(vec![proto::ErrorPage {
        status: 502,
        r#type: "appproxy/container-connection-refused".into(),
        error_code: "kernel_access_unreachable".into(),
        message: "%LABEL% is \"away\"".into(),
        retry_after: 3,
        ..page(&["UF"], "Cannot connect to Backend.AI kernel.")
    }]);
    for (accept, content_type) in [
        ("application/json", "application/json; charset=utf-8"),
        (
            "text/html, application/json;q=0.1",
            "application/json; charset=utf-8",
        ),
        (
            "application/problem+json",
            "application/problem+json; charset=utf-8",
        ),
        (
            "application/vnd.api+json, */*",
            "application/problem+json; charset=utf-8",
        ),
    ] {
        let told = chain.render(&failure("x"), Some(&asked(accept))).unwrap();
        assert_eq!(told.status, StatusCode::BAD_GATEWAY);
        assert_eq!(
            told.text(),
            "{\"type\":\"https://api.backend.ai/probs/appproxy/container-connection-refused\",\
             \"title\":\"Cannot connect to Backend.AI kernel.\",\
             \"error_code\":\"kernel_access_unreachable\",\"msg\":\"app-1 is \\\"away\\\"\",\
             \"request_id\":\"id-1\"}"
        );
        for (name, value) in [
            ("content-type", content_type),
            ("access-control-allow-origin", "*"),
            ("content-language", "en"),
            ("x-request-id", "id-1"),
            ("x-error-code", "kernel_access_unreachable"),
            ("cache-control", "no-store"),
            ("retry-after", "3"),
            (
                "content-security-policy",
                "default-src 'none'; style-src 'unsafe-inline'",
            ),
        ] {
            assert_eq!(told.headers[name], value);
        }
    }
}

#[test]
fn a_page_needs_little_to_be_whole() {
    let config = proto::ErrorPages {
        pages: vec![page(&["*"], "")],
        type_base: "urn:x:".into(),
        ..Default::default()
    };
    let chain = chain(FACTORY.message, &config).unwrap();
    let bare = Asked {
        accept: Some(HeaderValue::from_static("application/json")),
        ..Default::default()
    };
    let told = chain.render(&failure("some_word"), Some(&bare)).unwrap();
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        told.text(),
        "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\
         \"error_code\":\"some_word\",\"msg\":\"no upstream\"}"
    );
    assert!(!told.headers.contains_key("x-request-id"));
    assert!(!told.headers.contains_key("retry-after"));
}

#[test]
fn a_person_gets_a_page_in_a_language() {
    let chain = pages(vec![proto::ErrorPage {
        error_code: "code_1".into(),
        ..page(&["*"], "The title.")
    }]);
    for accept in ["text/html", "*/*", "image/png", ""] {
        let told = chain.render(&failure("x"), Some(&asked(accept))).unwrap();
        assert_eq!(told.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(told.headers["content-language"], "en");
        assert!(!told.headers.contains_key("access-control-allow-origin"));
        for part in [
            "<html lang=\"en\">",
            "<h1>Backend.AI</h1>",
            "<h2>The title.</h2>",
            "<p>no upstream</p>",
            "<dd>id-1</dd>",
            "<dd>code_1</dd>",
        ] {
            assert!(told.text().contains(part), "{part}: {}", told.text());
        }
        assert!(!told.text().contains("http://") && !told.text().contains("https://"));
    }
    let korean = Asked {
        accept_language: Some(HeaderValue::from_static("en;q=0.5, ko-KR")),
        ..asked("text/html")
    };
    let told = chain.render(&failure("x"), Some(&korean)).unwrap();
    assert_eq!(told.headers["content-language"], "ko");
    assert!(told.text().contains("<html lang=\"ko\">") && told.text().contains("요청 ID"));
}

#[test]
fn every_appearance_has_words_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for appearance in (0..=5).map(|n| Appearance::try_from(n).unwrap()) {
        for language in ["en", "ko"] {
            let chain = pages(vec![proto::ErrorPage {
                appearance: appearance.into(),
                retry_after: 7,
                ..page(&["*"], "T.")
            }]);
            let asked = Asked {
                accept_language: Some(HeaderValue::from_static(language)),
                ..asked("")
            };
            let told = chain.render(&failure("x"), Some(&asked)).unwrap();
            let heading = told.text().split("<h2>").nth(1).unwrap();
            let heading = heading.split("</h2>").next().unwrap().to_owned();
            assert!(told.text().contains("T."), "the title is always there");
            assert!(told.text().contains("no upstream"), "so is the message");
            let waiting = told.text().contains("role=\"status\"");
            assert_eq!(waiting, appearance == Appearance::Starting);
            assert!(
                told.text()
                    .contains("<meta http-equiv=\"refresh\" content=\"7\">")
            );
            if appearance != Appearance::Plain {
                assert!(seen.insert(heading), "twice the same heading");
            }
        }
    }
    assert_eq!(seen.len(), 10);
}

#[test]
fn only_a_get_is_looked_at_again() {
    let chain = pages(vec![proto::ErrorPage {
        retry_after: 7,
        ..page(&["*"], "")
    }]);
    let post = Asked {
        method: Method::POST,
        ..asked("")
    };
    let told = chain.render(&failure("x"), Some(&post)).unwrap();
    assert!(!told.text().contains("http-equiv"));
    assert_eq!(told.headers["retry-after"], "7");
}

#[test]
fn a_head_is_told_the_length_only() {
    let chain = pages(vec![page(&["*"], "")]);
    for accept in ["text/html", "application/json"] {
        let whole = chain.render(&failure("x"), Some(&asked(accept))).unwrap();
        let head = Asked {
            method: Method::HEAD,
            ..asked(accept)
        };
        let told = chain.render(&failure("x"), Some(&head)).unwrap();
        assert_eq!(told.text(), "");
        let length = told.headers["content-length"].to_str().unwrap();
        assert_eq!(length, whole.body.len().to_string());
        assert_eq!(told.headers["content-type"], whole.headers["content-type"]);
    }
}

#[test]
fn nothing_gets_into_a_page_unescaped() {
    let evil = "<script>alert('1')</script>&\"";
    let config = proto::ErrorPages {
        product: evil.into(),
        pages: vec![proto::ErrorPage {
            error_code: "<b>".into(),
            ..page(&["*"], evil)
        }],
        ..Default::default()
    };
    let chain = chain(FACTORY.message, &config).unwrap();
    let asked = Asked {
        request_id: (&HeaderValue::from_static("<i>\"'&</i>")).into(),
        ..asked("")
    };
    let told = chain.render(&failure("x").saying(evil), Some(&asked));
    let told = told.unwrap();
    let body = told.text();
    for part in ["<script", "<b>", "<i>", "('1')"] {
        assert!(!body.contains(part), "{part}: {body}");
    }
    let escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;";
    assert_eq!(body.matches(escaped).count(), 5, "{body}");
}

#[test]
fn a_route_can_be_nothing_but_a_failure() {
    let chain = pages(vec![proto::ErrorPage {
        status: 400,
        message: "the page's".into(),
        ..page(&["no_app"], "Bad request.")
    }]);
    let told = |route: &PerRoute, host: &str| {
        let mut parts = request("/x", &[("host", host)]);
        let failure = run(&chain, &mut parts, route).unwrap_err();
        let reply = chain.render(&failure, Some(&asked("application/json")));
        let msg = reply.map(|r| (r.status.as_u16(), problem(&r)["msg"].clone()));
        (failure, msg)
    };
    let text = "E20009: Subdomain %LABEL% not registered";
    for (host, label) in [
        ("APP-x.apps.test", "app-x"),
        ("app-x:8080", "app-x"),
        ("a_b.apps.test", "?"),
        (".apps.test", "?"),
        ("", "?"),
        ("[::1]:80", "?"),
        (&format!("{}.test", "a".repeat(64)), "?"),
    ] {
        let (failure, msg) = told(&route("no_app", 0, text), host);
        let expected = format!("E20009: Subdomain {label} not registered");
        assert_eq!((&*failure.body, failure.word()), (&*expected, "no_app"));
        assert_eq!(msg, Some((400, expected.into())));
    }
    let (_, msg) = told(&route("no_app", 404, ""), "a");
    assert_eq!(msg, Some((404, "the page's".into())), "the route's status");
    let (failure, msg) = told(&route("unknown", 0, "as it is"), "a");
    assert_eq!((failure.status.as_u16(), msg), (503, None));
    assert_eq!(failure.body, "as it is");
    assert!(run(&chain, &mut request("/", &[]), &PerRoute::default()).is_ok());
}

#[test]
fn a_wrong_configuration_is_refused_by_path() {
    type Change = fn(&mut proto::ErrorPages);
    let cases: [(&str, Change); 7] = [
        ("type_base: has a character that is not visible", |c| {
            c.type_base = "a b".into();
        }),
        ("pages[1].failures: must not be empty", |c| {
            c.pages.push(page(&[], ""));
        }),
        ("pages[0].status: 200 is not between 400 and 599", |c| {
            c.pages[0].status = 200;
        }),
        ("pages[0].status: 65936 is not between 400 and 599", |c| {
            c.pages[0].status = 65_936;
        }),
        (
            "pages[0].error_code: has a character that is not visible",
            |c| {
                c.pages[0].error_code = "a\r\nb: c".into();
            },
        ),
        ("pages[0].type: has a character that is not visible", |c| {
            c.pages[0].r#type = "ä".into();
        }),
        ("pages[0].appearance: 6 is not a known value", |c| {
            c.pages[0].appearance = 6;
        }),
    ];
    for (expected, change) in cases {
        let mut config = proto::ErrorPages {
            pages: vec![page(&["*"], "")],
            ..Default::default()
        };
        change(&mut config);
        let refused = chain(FACTORY.message, &config).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    for (failure, status, expected) in [
        ("", 0, "failure: must not be empty"),
        ("a", 302, "status: 302 is not between 400 and 599"),
    ] {
        let config = proto::ErrorPagesPerRoute {
            failure: failure.into(),
            status,
            message: String::new(),
        };
        let refused = per_route(FILTER, "causeway.v1.ErrorPagesPerRoute", &config);
        assert_eq!(refused.unwrap_err().to_string(), expected);
    }
}
