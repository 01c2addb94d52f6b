//! What is refused, and by which path.

use super::*;

#[test]
fn a_table_is_refused_by_path() {
    assert_refused(
        table,
        |t| t,
        "",
        &[
            ("name: must not be empty", |t| t.name.clear()),
            ("vhost_header: not supported yet", |t| {
                t.vhost_header = "x-key".into()
            }),
            ("vhds.config_source: must be given", |t| {
                t.vhds = Some(Default::default())
            }),
            ("internal_only_headers: not supported yet", |t| {
                t.internal_only_headers = vec!["x".into()];
            }),
            (
                "request_mirror_policies[0].cluster: or cluster_header must be given",
                |t| t.request_mirror_policies = vec![Default::default()],
            ),
            (
                "virtual_hosts[1].domains[1]: \"a.test\" is a domain of virtual host \"first\" already",
                |t| {
                    let mut first = host(route());
                    first.name = "first".into();
                    first.domains = vec!["A.test".into()];
                    let mut second = host(route());
                    second.domains = vec!["*".into(), "a.test".into()];
                    t.virtual_hosts = vec![first, second];
                },
            ),
            ("virtual_hosts[0].name: must not be empty", |t| {
                t.virtual_hosts[0].name.clear()
            }),
            ("virtual_hosts[0].domains: must not be empty", |t| {
                t.virtual_hosts[0].domains.clear()
            }),
            (
                "virtual_hosts[0].domains[0]: \"a.*.c\" has a wildcard that is not at its start or end",
                |t| t.virtual_hosts[0].domains[0] = "a.*.c".into(),
            ),
            ("virtual_hosts[0].hedge_policy: not supported yet", |t| {
                t.virtual_hosts[0].hedge_policy = Some(Default::default());
            }),
            (
                "virtual_hosts[0].require_tls: 7 is not a known value",
                |t| {
                    t.virtual_hosts[0].require_tls = 7;
                },
            ),
            (
                "virtual_hosts[0].typed_per_filter_config[\"x\"].inner: is bad",
                |t| {
                    t.virtual_hosts[0]
                        .typed_per_filter_config
                        .insert("x".into(), any("test.Filter", b"bad"));
                },
            ),
            ("request_headers_to_add[0].header: must be given", |t| {
                t.request_headers_to_add = vec![Default::default()];
            }),
            (
                "request_headers_to_add[0].header.key: \":path\" may not be changed as a header",
                |t| {
                    t.request_headers_to_add = vec![header(":path", "/")];
                },
            ),
            (
                "request_headers_to_add[0].header.key: \"a b\" is not a header name",
                |t| {
                    t.request_headers_to_add = vec![header("a b", "/")];
                },
            ),
            (
                "request_headers_to_add[0].header.value: %FOO%: is not a known command",
                |t| {
                    t.request_headers_to_add = vec![header("a", "%FOO%")];
                },
            ),
            (
                "request_headers_to_add[0].header.value: no command begins at position 2",
                |t| {
                    t.request_headers_to_add = vec![header("a", "%%%")];
                },
            ),
            (
                "request_headers_to_add[0].header.value: contains a control character",
                |t| {
                    t.request_headers_to_add = vec![header("a", "b\r\nc")];
                },
            ),
            (
                "request_headers_to_remove[0]: \"Host\" may not be changed as a header",
                |t| {
                    t.request_headers_to_remove = vec!["Host".into()];
                },
            ),
        ],
    );
}

#[test]
fn a_match_is_refused_by_path() {
    use route_match::PathSpecifier as Path;
    fn inner(r: &mut route::Route) -> &mut route::RouteMatch {
        r.r#match.as_mut().unwrap()
    }
    assert_refused(
        route,
        in_table,
        ROUTE,
        &[
            ("match: must be given", |r| r.r#match = None),
            ("match.path_specifier: must be given", |r| {
                inner(r).path_specifier = None
            }),
            ("match.runtime_fraction.default_value: must be given", |r| {
                inner(r).runtime_fraction = Some(Default::default());
            }),
            ("match.cookies[0].string_match: must be given", |r| {
                inner(r).cookies = vec![Default::default()];
            }),
            (
                "match.path_match_policy.typed_config: extension type \
                 \"type.googleapis.com/test.Match\" is not supported",
                |r| {
                    r.r#match = path(Path::PathMatchPolicy(core::TypedExtensionConfig {
                        name: "m".into(),
                        typed_config: Some(any("test.Match", b"")),
                    }));
                },
            ),
            ("match.query_parameters[0].name: must not be empty", |r| {
                inner(r).query_parameters = vec![Default::default()];
            }),
            (
                "match.path_separated_prefix: must not end with a slash",
                |r| {
                    r.r#match = path(Path::PathSeparatedPrefix("/a/".into()));
                },
            ),
            (
                "match.path_separated_prefix: must not contain ? or #",
                |r| {
                    r.r#match = path(Path::PathSeparatedPrefix("/a?b".into()));
                },
            ),
            ("match.safe_regex.regex: must not be empty", |r| {
                r.r#match = path(Path::SafeRegex(Default::default()));
            }),
            (
                "match.safe_regex.regex: does not compile: unclosed group",
                |r| {
                    r.r#match = path(Path::SafeRegex(regex("(a")));
                },
            ),
            (
                "match.safe_regex.regex: does not compile: unopened group",
                |r| {
                    r.r#match = path(Path::SafeRegex(regex("a)|(b")));
                },
            ),
            ("match.headers[0].name: must not be empty", |r| {
                inner(r).headers = vec![Default::default()];
            }),
            (
                "match.headers[0].string_match.match_pattern: must be given",
                |r| {
                    inner(r).headers = vec![route::HeaderMatcher {
                        name: "x".into(),
                        header_match_specifier: Some(Specifier::StringMatch(Default::default())),
                        ..Default::default()
                    }];
                },
            ),
        ],
    );
}

#[test]
fn other_actions_are_refused_by_path() {
    use redirect::PathRewriteSpecifier as Path;
    use route::route::Action as Kind;
    fn set_redirect(r: &mut route::Route, change: fn(&mut route::RedirectAction)) {
        let mut action = route::RedirectAction::default();
        change(&mut action);
        r.action = Some(Kind::Redirect(action));
    }
    fn set_direct(r: &mut route::Route, status: u32, body: &str) {
        r.action = Some(Kind::DirectResponse(route::DirectResponseAction {
            status,
            body: inline(body),
            body_format: None,
        }));
    }
    assert_refused(
        route,
        in_table,
        ROUTE,
        &[
            ("action: must be given", |r| r.action = None),
            ("filter_action: not supported yet", |r| {
                r.action = Some(Kind::FilterAction(Default::default()));
            }),
            ("redirect.port_redirect: 70000 is above 65535", |r| {
                set_redirect(r, |a| a.port_redirect = 70_000);
            }),
            ("redirect.scheme_redirect: \"a b\" is not a scheme", |r| {
                set_redirect(r, |a| {
                    a.scheme_rewrite_specifier = Some(
                        redirect::SchemeRewriteSpecifier::SchemeRedirect("a b".into()),
                    );
                });
            }),
            (
                "redirect.path_redirect: contains a control character",
                |r| {
                    set_redirect(r, |a| {
                        a.path_rewrite_specifier = Some(Path::PathRedirect("\n".into()))
                    });
                },
            ),
            ("redirect.regex_rewrite.pattern: must be given", |r| {
                set_redirect(r, |a| {
                    a.path_rewrite_specifier = Some(Path::RegexRewrite(Default::default()));
                });
            }),
            (
                "direct_response.status: 199 is not within 200 and 599",
                |r| set_direct(r, 199, ""),
            ),
            ("direct_response.body: 4097 bytes are more than 4096", |r| {
                set_direct(r, 200, &"a".repeat(4097));
            }),
            ("direct_response.body: must be given", |r| {
                r.action = Some(Kind::DirectResponse(route::DirectResponseAction {
                    status: 200,
                    body: Some(Default::default()),
                    body_format: None,
                }));
            }),
            (
                "direct_response.body.filename: /dev/zero: is not a file",
                |r| {
                    r.action = Some(Kind::DirectResponse(route::DirectResponseAction {
                        status: 200,
                        body: Some(core::DataSource {
                            specifier: Some(core::data_source::Specifier::Filename(
                                "/dev/zero".into(),
                            )),
                            ..Default::default()
                        }),
                        body_format: None,
                    }));
                },
            ),
        ],
    );
    assert_refused(
        stripping,
        in_table,
        ROUTE,
        &[
            (
                "route.prefix_rewrite: must be \"/\" on a route that strips its prefix",
                |r| {
                    r.action = Some(Kind::Route(forward()));
                },
            ),
            ("match: must be a prefix, for the route strips it", |r| {
                r.r#match = path(route_match::PathSpecifier::Path("/x".into()));
            }),
            (
                "metadata.filter_metadata[\"causeway\"].strip_prefix: is not true or false",
                |r| set_strip_prefix(r, value::Kind::NumberValue(1.0)),
            ),
            (
                "metadata: only a route to a cluster can strip its prefix",
                |r| {
                    r.action = Some(Kind::Redirect(Default::default()));
                },
            ),
        ],
    );
}
