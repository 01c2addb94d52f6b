//! Source files as the architecture test reads them: text in which comments and literals are blank.

use std::fs;
use std::iter;
use std::ops::Range;
use std::path::Path;

/// One source file. `code` is `text` with comments and literals blanked, byte for byte in place.
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
    pub tests: Vec<Range<usize>>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let name = path.rsplit('/').next().unwrap_or(path);
        let tests = if name == "tests.rs" || path.contains("/tests/") {
            iter::once(0..code.len()).collect()
        } else {
            test_regions(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            tests,
        }
    }

    pub fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    pub fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|region| region.contains(&at))
    }

    /// The module path inside the crate: `src/http/router.rs` is `["http", "router"]`.
    pub fn module(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        if parts.len() > 1 && parts.last() == Some(&"mod") {
            parts.pop();
        }
        parts
    }

    pub fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
    }
}

pub fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in folders {
        read_folder(root, &root.join(folder), &mut files);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn read_folder(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    // A folder of the map that does not exist yet has nothing to complain about.
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable source folder").path();
        if path.is_dir() {
            read_folder(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable source file");
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_string_lossy();
            files.push(Source::new(&name, &text));
        }
    }
}

/// The name that `text` begins with.
pub fn name_at(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// Offsets of `word` standing alone.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| {
            !code[..*at].ends_with(part_of_name)
                && !code[at + word.len()..].starts_with(part_of_name)
        })
        .collect()
}

/// The bodies of `mod name { … }`.
pub fn inline_modules(code: &str) -> Vec<Range<usize>> {
    words(code, "mod")
        .into_iter()
        .filter_map(|at| {
            let rest = code[at + 3..].trim_start();
            let after = rest[name_at(rest)?.len()..].trim_start();
            let open = at + code[at..].find('{')?;
            after.starts_with('{').then(|| open..closing(code, open))
        })
        .collect()
}

/// Items behind `#[cfg(test)]`, from the attribute to the end of the item.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    ["#[cfg(test)]", "#[cfg(all(test,"]
        .iter()
        .flat_map(|attribute| code.match_indices(attribute))
        .map(|(at, attribute)| {
            let from = at + attribute.len();
            let end = code[from..]
                .find([';', '{'])
                .map_or(code.len(), |offset| from + offset);
            at..if code[end..].starts_with('{') {
                closing(code, end)
            } else {
                end
            }
        })
        .collect()
}

/// The end of the block that opens at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks comments, strings and characters, keeping every offset and line break.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole literals were blanked, so the rest is still UTF-8")
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let name_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
    } else if rest.starts_with(b"/*") {
        at + block_comment(rest)
    } else if rest[0] == b'"' {
        at + quoted(rest, b'"')
    } else if rest[0] == b'r' && !raw_prefix_is_name(bytes, at, name_before) {
        at + raw_string(rest)
    } else if rest[0] == b'\'' {
        at + character(rest)
    } else {
        at
    }
}

/// `r` opens a raw string on its own or after the `b` or `c` of a byte or C string.
fn raw_prefix_is_name(bytes: &[u8], at: usize, name_before: bool) -> bool {
    let after_prefix = at > 0
        && matches!(bytes[at - 1], b'b' | b'c')
        && (at < 2 || !(bytes[at - 2].is_ascii_alphanumeric() || bytes[at - 2] == b'_'));
    name_before && !after_prefix
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = hashes + 2;
    let end = rest[body..]
        .windows(close.len())
        .position(|window| window == close);
    end.map_or(rest.len(), |end| body + end + close.len())
}

/// A character literal; a lifetime is none, and has no closing quote one character on.
fn character(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => quoted(rest, b'\''),
        Some(first) => {
            let width = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                0
            }
        }
        None => 0,
    }
}
