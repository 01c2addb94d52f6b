//! The account and the certificates on disk.
//!
//! `<cache>/<directory URL, as a name>/account.json` and `<name>.pem`, the latter with key and
//! chain in one file, so that the two are always of one another. Whatever is written is complete
//! before it takes the place of what was there, and only its owner can read it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// More than any chain has.
const MAX_FILE: u64 = 256 * 1024;
const ACCOUNT: &str = "account.json";
const SUFFIX: &str = ".pem";
/// What stands for the star of a name: no name has an underscore there.
const STAR: &str = "_";

/// One directory for each authority, so that certificates of a staging one are never shown.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// # Errors
    /// The directory cannot be made, or others may write into it.
    pub(super) fn open(cache: &Path, authority: &str) -> Result<Self> {
        let directory = cache.join(file_name(authority));
        let make = |directory: &Path| {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .and_then(|()| std::fs::metadata(directory))
        };
        for directory in [cache, &directory] {
            let shown = || format!("causeway.acme.cache: {}", directory.display());
            let meta = make(directory).with_context(shown)?;
            // Whoever can write here chooses the keys that this proxy shows.
            if meta.mode() & 0o022 != 0 || !ours(meta.uid()) {
                bail!("{}: others may write into it", shown());
            }
        }
        Ok(Self { directory })
    }

    pub(super) fn account(&self) -> io::Result<Option<Vec<u8>>> {
        self.read(ACCOUNT)
    }

    pub(super) fn write_account(&self, text: &[u8]) -> io::Result<()> {
        self.write(ACCOUNT, text)
    }

    pub(super) fn remove_account(&self) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(ACCOUNT))
    }

    /// Key and chain of a name, in PEM.
    pub(super) fn certificate(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.read(&stored_as(name))
    }

    pub(super) fn write_certificate(&self, name: &str, pem: &[u8]) -> io::Result<()> {
        self.write(&stored_as(name), pem)
    }

    pub(super) fn remove_certificate(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(stored_as(name)))
    }

    /// The names that there are certificates of.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(name) = name.filter(|name| !name.starts_with('.')) {
                names.push(match name.strip_prefix(STAR) {
                    Some(rest) => format!("*{rest}"),
                    None => name.to_owned(),
                });
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(self.directory.join(file));
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let meta = opened.metadata()?;
        if !meta.is_file() || !ours(meta.uid()) || meta.mode() & 0o077 != 0 {
            return Err(io::Error::other("others can read it, or own it"));
        }
        let mut bytes = Vec::new();
        opened.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let draft = self.directory.join(format!(".{file}.new"));
        // Left by an end in the middle.
        std::fs::remove_file(&draft).ok();
        let mut opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        std::fs::rename(&draft, self.directory.join(file))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Of this user; or of anybody when it is root who looks, which may become somebody else later.
fn ours(uid: u32) -> bool {
    let me = nix::unistd::Uid::effective();
    me.is_root() || uid == me.as_raw()
}

fn stored_as(name: &str) -> String {
    format!("{}{SUFFIX}", name.replacen('*', STAR, 1))
}

fn file_name(url: &str) -> String {
    let url = url.strip_prefix("https://").unwrap_or(url);
    let kept = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    url.chars().map(kept).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const URL: &str = "https://ca.test:14000/dir";

    #[test]
    fn what_is_written_is_the_owners_alone_and_found_again() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), URL).unwrap();
        assert_eq!(store.account().unwrap(), None);
        for text in [&b"one"[..], b"two"] {
            store.write_certificate("*.apps.test", text).unwrap();
            store.write_certificate("app.test", text).unwrap();
            assert_eq!(store.certificate("*.apps.test").unwrap().unwrap(), text);
        }
        store.write_account(b"{}").unwrap();
        assert_eq!(store.names().unwrap(), ["*.apps.test", "app.test"]);

        let file = cache.path().join("ca.test-14000-dir/_.apps.test.pem");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        let other = Store::open(cache.path(), "https://ca.test/other").unwrap();
        assert_eq!(other.names().unwrap(), [""; 0], "another authority");

        store.remove_certificate("app.test").unwrap();
        assert_eq!(store.certificate("app.test").unwrap(), None);
    }

    #[test]
    fn what_others_may_read_or_write_is_not_used() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), URL).unwrap();
        store.write_certificate("app.test", b"key").unwrap();
        let file = store.directory.join("app.test.pem");
        let allow = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(&file, 0o644);
        assert!(store.certificate("app.test").is_err());
        std::fs::rename(&file, store.directory.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(store.directory.join("elsewhere"), &file).unwrap();
        assert!(store.certificate("app.test").is_err(), "a link");
        allow(cache.path(), 0o777);
        let error = Store::open(cache.path(), URL).unwrap_err().to_string();
        assert!(error.contains("others may write"), "{error}");
    }
}
