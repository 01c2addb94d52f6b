//! What the documents say about the resource model is what the code does.

use std::path::Path;

use causeway_xds::resource::IGNORED;

const BEGIN: &str = "<!-- begin accepted without effect -->\n";
const END: &str = "<!-- end accepted without effect -->\n";

/// The rows between the markers of docs/XDS-SUPPORT.md are [`IGNORED`], no more and no less.
/// `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn the_support_document_names_what_is_ignored() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/XDS-SUPPORT.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the first marker is there");
    let (written, after) = rest.split_once(END).expect("the second marker is there");
    let wanted = rows();
    if written == wanted {
        return;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let renewed = format!("{before}{BEGIN}{wanted}{END}{after}");
        std::fs::write(&path, renewed).unwrap();
        return;
    }
    let differing = difference(written, &wanted).join("\n");
    panic!("docs/XDS-SUPPORT.md is behind; renew it with UPDATE_GOLDEN=1:\n{differing}");
}

fn rows() -> String {
    let mut out = String::from("\n| field | why |\n|---|---|\n");
    for (field, why) in IGNORED {
        out.push_str(&format!("| `{field}` | {why} |\n"));
    }
    out.push('\n');
    out
}

/// The lines that only one of the two has.
fn difference(written: &str, wanted: &str) -> Vec<String> {
    let only = |of: &str, other: &str, mark: char| -> Vec<String> {
        let missing = of.lines().filter(|line| !other.lines().any(|l| l == *line));
        missing.map(|line| format!("{mark} {line}")).collect()
    };
    let mut lines = only(written, wanted, '-');
    lines.extend(only(wanted, written, '+'));
    if lines.is_empty() {
        lines.push("the order or the frame of the rows".to_owned());
    }
    lines
}
