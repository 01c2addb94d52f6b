//! The Coordinator's circuits on disk, so that a worker that starts while the Coordinator is away
//! serves what it served before.
//!
//! Two lines: a head with the format, whose circuits they are, when they were written and the
//! checksum of the other line, which is the circuits as the Coordinator writes them. A file is
//! replaced by renaming, so there is always a whole one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::model::Circuit;
use crate::util::time::{parse_timestamp, timestamp};

const FORMAT: u32 = 1;

/// As the longest listing; more was never written.
const MAX: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    authority: String,
    written_at: String,
    circuits: usize,
    sha256: String,
}

/// What a file holds.
#[derive(Debug)]
pub struct Saved {
    pub written_at: SystemTime,
    pub circuits: Vec<Value>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("its format is {0}, this version knows {FORMAT}")]
    Format(u32),
    #[error("it belongs to the authority \"{0}\"")]
    Authority(String),
}

/// Writes a whole file or leaves the one before. Blocks.
///
/// # Errors
/// Whatever the file system says.
pub fn write(
    path: &Path,
    authority: &str,
    circuits: &[Arc<Circuit>],
    now: SystemTime,
) -> io::Result<()> {
    let circuits: Vec<&Circuit> = circuits.iter().map(AsRef::as_ref).collect();
    let body = serde_json::to_vec(&circuits)?;
    let head = serde_json::to_vec(&Head {
        format: FORMAT,
        authority: authority.to_owned(),
        written_at: timestamp(now),
        circuits: circuits.len(),
        sha256: checksum(&body),
    })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A rest of an interrupted write may be there, with whatever mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    for part in [&head[..], b"\n", &body, b"\n"] {
        file.write_all(part)?;
    }
    // Before the name changes: else a crash could leave the new name with nothing in it.
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file; `None` if there is none. Blocks.
///
/// # Errors
/// It is there and cannot be used.
pub fn read(path: &Path, authority: &str) -> Result<Option<Saved>, Unusable> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text)?;
    let end = text.iter().position(|b| *b == b'\n');
    let (head, body) = text.split_at(end.ok_or(Unusable::Damaged("no head"))?);
    let head: Head =
        serde_json::from_slice(head).map_err(|_| Unusable::Damaged("unreadable head"))?;
    if head.format != FORMAT {
        return Err(Unusable::Format(head.format));
    }
    if head.authority != authority {
        return Err(Unusable::Authority(head.authority));
    }
    let body = body.trim_ascii();
    if checksum(body) != head.sha256 {
        return Err(Unusable::Damaged("wrong checksum"));
    }
    let circuits = serde_json::from_slice(body).map_err(|_| Unusable::Damaged("no circuits"))?;
    let written_at = parse_timestamp(&head.written_at).ok_or(Unusable::Damaged("no date"))?;
    Ok(Some(Saved {
        written_at,
        circuits,
    }))
}

fn checksum(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in digest(&SHA256, bytes).as_ref() {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::coordinator::testing::circuit;

    #[test]
    fn what_was_written_is_read_and_nobody_else_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert!(read(&path, "w").unwrap().is_none());
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let circuits = [Arc::new(circuit(1, "a")), Arc::new(circuit(2, "b"))];
        write(&path, "w", &circuits[..1], now).unwrap();
        // The rest of a write that was cut off is no obstacle.
        fs::write(folder.path().join("state.new"), "x").unwrap();
        write(&path, "w", &circuits, now).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let saved = read(&path, "w").unwrap().unwrap();
        assert_eq!(saved.written_at, now);
        let expected: Vec<Value> = circuits.iter().map(|c| serde_json::json!(**c)).collect();
        assert_eq!(saved.circuits, expected);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_ours_or_not_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, "w", &[Arc::new(circuit(1, "a"))], SystemTime::now()).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let refused = |text: &str, authority: &str| {
            fs::write(&path, text).unwrap();
            read(&path, authority).unwrap_err().to_string()
        };
        assert!(refused(&whole, "v").contains("authority \"w\""));
        assert!(refused(&whole.replace("jupyter", "jupiter"), "w").contains("checksum"));
        assert!(refused(&whole[..whole.len() / 2], "w").contains("damaged"));
        assert!(
            refused(&whole.replace("\"format\":1", "\"format\":9"), "w").contains("format is 9")
        );
        for text in ["", "\n", "{}\n[]\n", "x"] {
            assert!(refused(text, "w").contains("damaged"), "{text:?}");
        }
    }
}
