//! Holds the source tree to the map in docs/ARCHITECTURE.md: which way imports point, how large a
//! file may grow, where `unsafe` and `unwrap` may stand, and that every filter is registered.
//!
//! It reads text, not a syntax tree: comments and literals are blanked out first, and what is left
//! is regular enough. The checks are plain functions from a path and its text to complaints, and
//! the last section feeds each of them a tree that must fail, so that the guard is known to bite.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "architecture/source.rs"]
mod source;

use source::{Source, blank, inline_modules, name_at, sources, words};

/// The import table. A module may import from the rows above its own, and inside its row from the
/// names to its left. Keep it equal to the table in docs/ARCHITECTURE.md.
const ROWS: &[&[&str]] = &[
    &["util"],
    &[
        "config",
        "error",
        "formatter",
        "telemetry",
        "runtime",
        "net",
        "matching",
    ],
    &["tls", "route", "filter", "access_log", "local_reply"],
    &["upstream", "cluster", "management_server", "acme"],
    &["snapshot"],
    &["http", "tcp"],
    &["listener"],
    &["coordinator"],
    &["control"],
    &["admin"],
    &["app", "cli", "main", "demo", "lib"],
];

/// Translation stops at xDS messages: the one place that knows Backend.AI sees nothing of the data
/// plane, and so cannot grow a private road into it.
const ONLY_ROWS_ABOVE: &[(&str, usize)] = &[("coordinator", 2)];

/// `control` sees sources through the trait, whichever they are.
const NEVER: &[(&str, &str)] = &[("control", "coordinator")];

const MAX_LINES: usize = 800;

/// Files that may be longer, each with its reason.
const MAY_BE_LONGER: &[(&str, &str)] = &[];

/// Files and folders that may say `unsafe`, each with its reason. The lints refuse it anywhere
/// else, too; this list makes the reason a matter of review.
const MAY_BE_UNSAFE: &[(&str, &str)] = &[];

// --- the tree ------------------------------------------------------------------------------------

#[test]
fn imports_point_one_way() {
    report(sources(&["src"]).iter().flat_map(imports));
}

#[test]
fn every_module_has_a_row() {
    report(sources(&["src"]).iter().filter_map(row_missing));
}

#[test]
fn files_stay_readable() {
    report(
        sources(&["src", "xds/src", "tests"])
            .iter()
            .filter_map(too_long),
    );
}

#[test]
fn nothing_unwraps_outside_tests() {
    report(sources(&["src", "xds/src"]).iter().flat_map(unwraps));
}

#[test]
fn unsafe_stays_where_it_is_listed() {
    report(sources(&["src", "xds/src"]).iter().flat_map(unsafe_code));
}

#[test]
fn every_filter_has_one_registry_line() {
    report(unregistered_filters(&sources(&["src/filter"])));
}

fn report(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(
        complaints.is_empty(),
        "{} complaint(s):\n\n{}\n",
        complaints.len(),
        complaints.join("\n")
    );
}

// --- checks --------------------------------------------------------------------------------------

/// An import of another top-level module that the table does not have.
fn imports(file: &Source) -> Vec<String> {
    let module = file.module();
    let from = module[0];
    let allowed = allowed(from);
    arrows(file)
        .into_iter()
        .filter(|(_, to)| to != from && !allowed.contains(to.as_str()))
        .map(|(at, to)| {
            let known = ROWS.iter().any(|row| row.contains(&to.as_str()));
            let why = if known {
                "is not an arrow of the table"
            } else {
                "names no row of the table"
            };
            format!(
                "{}:{}: `{from} -> {to}` {why}\n    {from} may import: {}",
                file.path,
                file.line(at),
                allowed.iter().copied().collect::<Vec<_>>().join(", "),
            )
        })
        .collect()
}

/// What a top-level module may import, itself apart. A module without a row may import nothing.
fn allowed(from: &str) -> BTreeSet<&'static str> {
    let Some(row) = ROWS.iter().position(|row| row.contains(&from)) else {
        return BTreeSet::new();
    };
    let limit = ONLY_ROWS_ABOVE
        .iter()
        .find(|(name, _)| *name == from)
        .map_or(row, |(_, n)| *n);
    let mut allowed: BTreeSet<&str> = ROWS[..limit]
        .iter()
        .flat_map(|row| row.iter().copied())
        .collect();
    if row == ROWS.len() - 1 {
        // Where everything meets: the parts of the program proper know each other.
        allowed.extend(ROWS[row]);
    } else {
        allowed.extend(ROWS[row].iter().take_while(|name| **name != from));
    }
    allowed.retain(|to| *to != from && !NEVER.contains(&(from, to)));
    allowed
}

/// Every mention of a top-level module by path, as (offset, name): after `crate::`, and after
/// enough `super::` to reach the crate's root.
fn arrows(file: &Source) -> Vec<(usize, String)> {
    let code = &file.code;
    let inline = inline_modules(code);
    let mut found = Vec::new();
    for at in words(code, "crate") {
        if let Some(rest) = code[at..].strip_prefix("crate::") {
            found.extend(heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    for at in words(code, "super") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut up = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            rest = next;
            up += 1;
        }
        let depth = file.module().len() + inline.iter().filter(|range| range.contains(&at)).count();
        if up >= depth {
            found.extend(heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    found
}

/// The first names of what follows `crate::`: one name, or each name of a braced list.
fn heads(rest: &str) -> Vec<String> {
    let Some(list) = rest.strip_prefix('{') else {
        return name_at(rest).into_iter().collect();
    };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                names.extend(name_at(list[start..at].trim_start()));
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| name != "self");
    names
}

fn row_missing(file: &Source) -> Option<String> {
    let top = file.module()[0].to_owned();
    let known = ROWS.iter().any(|row| row.contains(&top.as_str()));
    (!known).then(|| {
        format!(
            "{}: module `{top}` has no row in the import table (tests/architecture.rs and \
             docs/ARCHITECTURE.md)",
            file.path
        )
    })
}

fn too_long(file: &Source) -> Option<String> {
    let lines = file.text.lines().count();
    let excepted = file.is_generated() || MAY_BE_LONGER.iter().any(|(path, _)| *path == file.path);
    if lines <= MAX_LINES || excepted {
        return None;
    }
    let tests: usize = file
        .tests
        .iter()
        .map(|region| file.code[region.clone()].lines().count())
        .sum();
    Some(format!(
        "{}: {lines} lines ({} without tests), {MAX_LINES} allowed: look for the second subject, or \
         list the file with a reason",
        file.path,
        lines.saturating_sub(tests),
    ))
}

fn unwraps(file: &Source) -> Vec<String> {
    if file.is_generated() {
        return Vec::new();
    }
    words(&file.code, "unwrap")
        .into_iter()
        .filter(|at| file.code[..*at].ends_with('.') && file.code[*at..].starts_with("unwrap()"))
        .filter(|at| !file.is_test(*at))
        .map(|at| {
            format!(
                "{}:{}: `unwrap()` outside tests: handle it, or `expect` the invariant by name",
                file.path,
                file.line(at)
            )
        })
        .collect()
}

fn unsafe_code(file: &Source) -> Vec<String> {
    if MAY_BE_UNSAFE
        .iter()
        .any(|(path, _)| file.path.starts_with(path))
    {
        return Vec::new();
    }
    words(&file.code, "unsafe")
        .into_iter()
        .map(|at| {
            format!(
                "{}:{}: `unsafe` outside the listed files (MAY_BE_UNSAFE)",
                file.path,
                file.line(at)
            )
        })
        .collect()
}

/// A filter that nobody registered compiles, passes its own tests, and can never be configured.
fn unregistered_filters(files: &[Source]) -> Vec<String> {
    let registry = files
        .iter()
        .find(|file| file.path == "src/filter/registry.rs");
    files
        .iter()
        .filter_map(|file| {
            file.path
                .strip_prefix("src/filter/http/")?
                .strip_suffix(".rs")
        })
        .filter(|name| *name != "mod" && !name.contains('/'))
        .filter_map(|name| {
            let names_it = |line: &&str| {
                words(line, name)
                    .iter()
                    .any(|at| line[at + name.len()..].starts_with("::"))
            };
            let lines = registry.map_or(0, |file| file.code.lines().filter(names_it).count());
            (lines != 1).then(|| {
                format!(
                    "src/filter/http/{name}.rs: named by {lines} line(s) of \
                     src/filter/registry.rs, exactly one expected"
                )
            })
        })
        .collect()
}

// --- the guard itself ----------------------------------------------------------------------------

fn arrows_of(path: &str, text: &str) -> Vec<String> {
    arrows(&Source::new(path, text))
        .into_iter()
        .map(|(_, name)| name)
        .collect()
}

#[test]
fn a_forbidden_import_names_file_line_arrow_and_choice() {
    let file = Source::new(
        "src/route/table.rs",
        "use std::fmt;\n\nuse crate::http::head;\n",
    );
    let complaints = imports(&file);
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].starts_with("src/route/table.rs:3: `route -> http` is not an arrow"));
    assert!(
        complaints[0]
            .contains("route may import: config, error, formatter, matching, net, runtime")
    );
}

#[test]
fn rows_above_and_names_to_the_left_are_free() {
    let complaints = |path, text| imports(&Source::new(path, text)).len();
    assert_eq!(
        complaints(
            "src/route/mod.rs",
            "use crate::{util, error::Failure, tls, route::x};"
        ),
        0
    );
    assert_eq!(
        complaints("src/cluster/lb.rs", "use crate::upstream::Pool;"),
        0
    );
    assert_eq!(
        complaints("src/upstream/mod.rs", "use crate::cluster::Cluster;"),
        1
    );
    assert_eq!(
        complaints(
            "src/demo.rs",
            "use crate::{app::App, cli::Cli, coordinator::model};"
        ),
        0
    );
    assert_eq!(
        complaints("src/admin/mod.rs", "use crate::{control, coordinator};"),
        0
    );
}

#[test]
fn the_two_special_modules_are_held() {
    let complaints = |path, text| imports(&Source::new(path, text)).len();
    assert_eq!(
        complaints("src/coordinator/mod.rs", "use crate::{config, net, util};"),
        0
    );
    assert_eq!(
        complaints("src/coordinator/mod.rs", "use crate::{snapshot, route};"),
        2
    );
    assert_eq!(
        complaints("src/control/mod.rs", "use crate::{snapshot, listener};"),
        0
    );
    assert_eq!(
        complaints("src/control/mod.rs", "use crate::coordinator::Source;"),
        1
    );
}

#[test]
fn an_unknown_module_is_refused_both_ways() {
    let file = Source::new("src/helpers/mod.rs", "use crate::util;");
    assert_eq!(imports(&file).len(), 1);
    assert!(row_missing(&file).is_some());
    assert!(
        imports(&Source::new("src/http/a.rs", "crate::helpers::f();"))[0].contains("names no row")
    );
}

#[test]
fn paths_are_found_in_lists_expressions_and_macros() {
    assert_eq!(
        arrows_of("src/http/a.rs", "use crate::{net::{a, b}, tls, self};"),
        ["net", "tls"]
    );
    assert_eq!(
        arrows_of(
            "src/http/a.rs",
            "let x: crate::route::T = $crate::net::y();"
        ),
        ["route", "net"]
    );
    assert_eq!(
        arrows_of(
            "src/http/a.rs",
            "pub(crate) fn f() {} use causeway_crate::z;"
        ),
        [""; 0]
    );
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r###"
        // use crate::a;
        /* crate::b /* nested */ crate::c */
        const S: &str = "crate::d \" crate::e";
        const R: &str = r#"crate::f " crate::g"#;
        const B: &[u8] = br"crate::h";
        const Q: char = '"'; const E: char = '\''; const N: char = 'é';
        fn real<'a>(x: &'a str) -> crate::net::Address { x }
    "###;
    assert_eq!(arrows_of("src/http/a.rs", text), ["net"]);
    assert_eq!(blank(text).len(), text.len());
}

#[test]
fn super_counts_only_when_it_leaves_the_module() {
    assert_eq!(arrows_of("src/http/a.rs", "use super::b;"), [""; 0]);
    assert_eq!(
        arrows_of("src/http/a.rs", "use super::super::listener::L;"),
        ["listener"]
    );
    assert_eq!(
        arrows_of("src/http/mod.rs", "use super::listener::L;"),
        ["listener"]
    );
    assert_eq!(
        arrows_of("src/http/mod.rs", "mod tests { use super::*; }"),
        [""; 0]
    );
}

#[test]
fn unwrap_is_free_in_tests_only() {
    let text = "fn a() { x.unwrap(); }\n#[cfg(test)]\nmod tests { fn b() { x.unwrap(); } }\n";
    let complaints = unwraps(&Source::new("src/a.rs", text));
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].starts_with("src/a.rs:1:"));
    assert!(unwraps(&Source::new("src/a.rs", "x.unwrap_or(1); // .unwrap()")).is_empty());
    assert_eq!(
        unwraps(&Source::new(
            "src/a.rs",
            "#[cfg(test)]\nuse b;\nx.unwrap();"
        ))
        .len(),
        1
    );
}

#[test]
fn unsafe_is_a_word_not_a_part_of_one() {
    assert_eq!(
        unsafe_code(&Source::new("src/a.rs", "unsafe { f() }")).len(),
        1
    );
    assert!(unsafe_code(&Source::new("src/a.rs", "#![forbid(unsafe_code)]")).is_empty());
}

#[test]
fn a_long_file_is_refused_unless_generated() {
    let text = "//\n".repeat(MAX_LINES + 1);
    assert!(too_long(&Source::new("src/a.rs", &text)).is_some());
    assert!(too_long(&Source::new("xds/src/proto/generated/a.rs", &text)).is_none());
    assert!(too_long(&Source::new("src/a.rs", &text[3..])).is_none());
}

#[test]
fn a_filter_needs_exactly_one_registry_line() {
    let tree = |registry| {
        [
            Source::new("src/filter/http/mod.rs", "pub mod router;"),
            Source::new("src/filter/http/router.rs", ""),
            Source::new("src/filter/registry.rs", registry),
        ]
    };
    assert!(unregistered_filters(&tree("http::router::Router::FACTORY,\n")).is_empty());
    assert_eq!(
        unregistered_filters(&tree("// http::router::Router::FACTORY,\n")).len(),
        1
    );
    assert_eq!(
        unregistered_filters(&tree("http::router::A,\nhttp::router::B,\n")).len(),
        1
    );
    assert_eq!(
        unregistered_filters(&tree("http::my_router::A,\n")).len(),
        1
    );
}

#[test]
fn the_documented_table_is_this_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let map = fs::read_to_string(path).expect("docs/ARCHITECTURE.md");
    for (index, row) in ROWS.iter().enumerate() {
        let names: Vec<String> = row
            .iter()
            .filter(|name| **name != "lib")
            .map(|name| format!("`{name}`"))
            .collect();
        let line = format!("| {} | {} |", index + 1, names.join(", "));
        assert!(
            map.contains(&line),
            "docs/ARCHITECTURE.md lacks the row\n{line}"
        );
    }
}
