//! The page: whole in itself, without scripts, readable in the dark and to screen readers.

use causeway_xds::proto::causeway::v1::error_page::Appearance;

use super::language::Language;
use crate::util::escape_html;

/// What a page shows. Nothing of it is trusted to be harmless in HTML.
pub(super) struct Page<'p> {
    pub language: Language,
    pub appearance: Appearance,
    pub product: &'p str,
    pub title: &'p str,
    pub message: &'p str,
    pub request_id: &'p str,
    pub error_code: &'p str,
    /// Seconds until the page looks again by itself; 0 is never.
    pub reload: u32,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1f2328;--dim:#57606a;--bg:#f4f5f7;--card:#fff;--line:#d5dae0;\
--mark:#b93815}\
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--dim:#9ea7b3;--bg:#0f1216;--card:#181c22;\
--line:#323943;--mark:#ff9d5c}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--bg);\
color:var(--fg);font:1rem/1.6 system-ui,sans-serif;word-break:keep-all;overflow-wrap:anywhere}\
main{width:100%;max-width:34rem;padding:2rem;background:var(--card);border:1px solid var(--line);\
border-top:4px solid var(--mark);border-radius:.5rem}\
h1{margin:0;font-size:.95rem;font-weight:600;color:var(--mark)}\
h2{margin:.75rem 0 .5rem;font-size:1.5rem;line-height:1.3}\
p{margin:.5rem 0}\
a{color:inherit}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:1.5rem 0 0;padding-top:1rem;\
border-top:1px solid var(--line);font-size:.85rem;color:var(--dim)}\
dd{margin:0;font-family:ui-monospace,monospace}\
.wait{height:4px;margin:1rem 0;border-radius:2px;background:linear-gradient(90deg,var(--line) 0 40%,\
var(--mark) 50%,var(--line) 60% 100%) 0 0/300% 100%;animation:w 1.6s linear infinite}\
@keyframes w{from{background-position:100% 0}to{background-position:0 0}}\
@media(prefers-reduced-motion:reduce){.wait{animation:none}}";

pub(super) fn page(page: &Page<'_>) -> String {
    let texts = page.language.texts(page.appearance);
    let labels = page.language.labels();
    let headline = texts.headline.unwrap_or(page.title);
    let mut out = String::with_capacity(STYLE.len() + 2048);
    out.push_str("<!doctype html>\n<html lang=\"");
    out.push_str(page.language.name());
    out.push_str(
        "\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n",
    );
    if page.reload > 0 {
        out.push_str("<meta http-equiv=\"refresh\" content=\"");
        out.push_str(&page.reload.to_string());
        out.push_str("\">\n");
    }
    out.push_str("<title>");
    escape_html(headline, &mut out);
    out.push_str(" - ");
    escape_html(page.product, &mut out);
    out.push_str("</title>\n<style>");
    out.push_str(STYLE);
    out.push_str("</style>\n</head>\n<body>\n<main>\n");
    element("h1", page.product, &mut out);
    element("h2", headline, &mut out);
    if page.appearance == Appearance::Starting {
        out.push_str("<div class=\"wait\" aria-hidden=\"true\"></div>\n");
        out.push_str("<p role=\"status\">");
        escape_html(texts.advice, &mut out);
        out.push_str("</p>\n");
    } else {
        // What a plain page is about is told by its message alone.
        if texts.headline.is_none() && !page.message.is_empty() {
            element("p", page.message, &mut out);
        }
        element("p", texts.advice, &mut out);
    }
    if page.reload > 0 {
        // An empty reference is the page itself (RFC 3986 section 4.4).
        out.push_str("<p><a href=\"\">");
        out.push_str(labels.again);
        out.push_str("</a></p>\n");
    }
    out.push_str("<dl>\n");
    if texts.headline.is_some() {
        let told = match page.message {
            "" => page.title.to_owned(),
            message => format!("{} {message}", page.title),
        };
        row(labels.reason, &told, &mut out);
    }
    if !page.request_id.is_empty() {
        row(labels.request_id, page.request_id, &mut out);
    }
    row(labels.error_code, page.error_code, &mut out);
    out.push_str("</dl>\n</main>\n</body>\n</html>\n");
    out
}

fn element(name: &str, text: &str, out: &mut String) {
    for part in ["<", name, ">"] {
        out.push_str(part);
    }
    escape_html(text, out);
    for part in ["</", name, ">\n"] {
        out.push_str(part);
    }
}

fn row(name: &str, text: &str, out: &mut String) {
    element("dt", name, out);
    element("dd", text, out);
}
