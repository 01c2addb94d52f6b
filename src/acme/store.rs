//! The account and the certificates on disk.
//!
//! `<cache>/<directory URL, as a name>/account.json` and `<name>.pem`, the latter with key and
//! chain in one file, so that the two are always of one another. Whatever is written is complete
//! before it takes the place of what was there, and only its owner can read it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
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
    /// Whom everything here belongs to, when this is root: the worker's user, which it becomes later.
    owner: Option<(u32, u32)>,
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
        let mut owner = None;
        for directory in [cache, &directory] {
            let shown = || format!("causeway.acme.cache: {}", directory.display());
            let meta = make(directory).with_context(shown)?;
            // Whoever can write here chooses the keys that this proxy shows.
            if meta.mode() & 0o022 != 0 || !ours(meta.uid()) {
                bail!("{}: others may write into it", shown());
            }
            if nix::unistd::Uid::effective().is_root() {
                owner.get_or_insert((meta.uid(), meta.gid()));
            }
        }
        let store = Self { directory, owner };
        store.hand_over()?;
        Ok(store)
    }

    /// Gives what root has left here to the owner of the cache.
    fn hand_over(&self) -> Result<()> {
        if self.owner.is_none() {
            return Ok(());
        }
        let shown = || format!("causeway.acme.cache: {}", self.directory.display());
        self.give(&File::open(&self.directory)?)
            .with_context(shown)?;
        for entry in std::fs::read_dir(&self.directory).with_context(shown)? {
            // A link, say. Nobody reads through that either.
            let Ok(opened) = open(&entry?.path()) else {
                continue;
            };
            // A second name of a file may be in a place that is nobody's to give away.
            let meta = opened.metadata()?;
            if meta.is_file() && meta.nlink() == 1 {
                self.give(&opened).with_context(shown)?;
            }
        }
        Ok(())
    }

    fn give(&self, file: &File) -> io::Result<()> {
        match self.owner {
            Some((uid, gid)) => fchown(file, Some(uid), Some(gid)),
            None => Ok(()),
        }
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
        let opened = match open(&self.directory.join(file)) {
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
        self.give(&opened)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        std::fs::rename(&draft, self.directory.join(file))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// To be read, and not through a link.
fn open(path: &Path) -> io::Result<File> {
    // Nor is there a wait for somebody at the other end of a pipe.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
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

    /// Without root there is only one whom things can belong to.
    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        Store::open(cache.path(), URL)
            .unwrap()
            .write_account(b"{}")
            .unwrap();
        let root = nix::unistd::Uid::effective().is_root();
        if root {
            std::os::unix::fs::chown(cache.path(), Some(12_345), Some(54_321)).unwrap();
        }
        let owner = |path: &Path| {
            let meta = std::fs::metadata(path).unwrap();
            (meta.uid(), meta.gid())
        };
        let expected = owner(cache.path());
        assert!(!root || expected == (12_345, 54_321));
        // One that is of another place too is left alone.
        let elsewhere = tempfile::NamedTempFile::new_in(cache.path()).unwrap();
        let store = Store::open(cache.path(), URL).unwrap();
        std::fs::hard_link(elsewhere.path(), store.directory.join("linked")).unwrap();
        let before = owner(elsewhere.path());
        let store = Store::open(cache.path(), URL).unwrap();
        store.write_certificate("app.test", b"key").unwrap();
        for made in ["", ACCOUNT, "app.test.pem"] {
            assert_eq!(owner(&store.directory.join(made)), expected, "{made}");
        }
        assert_eq!(owner(elsewhere.path()), before);
        assert!(store.account().unwrap().is_some());
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
