//! What the process is to the system: its pid file, and the user it runs as.

use std::ffi::CString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setuid};
use rustix::fs::OFlags;

use crate::config::{Account, Process};

/// A file with the number of this process; removed when dropped.
pub struct PidFile(PathBuf);

impl PidFile {
    /// # Errors
    /// The file cannot be written.
    pub fn write(path: &Path) -> Result<Self> {
        std::fs::write(path, std::process::id().to_string())
            .with_context(|| format!("cannot write the pid file {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have named a device or a pipe, and root could remove even that.
        let regular = std::fs::symlink_metadata(&self.0).is_ok_and(|m| m.is_file());
        if !regular {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "pid file not removed");
        }
    }
}

/// Whom the process becomes once it has opened what only root may open.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// With its name, for the supplementary groups.
    user: Option<(Uid, CString)>,
    group: Option<Gid>,
}

impl Identity {
    /// `None` when nothing is to change: the file names nobody, or this process is not root's.
    ///
    /// # Errors
    /// A user or group does not exist.
    pub fn find(process: &Process) -> Result<Option<Self>> {
        if process.user.is_none() && process.group.is_none() {
            return Ok(None);
        }
        let identity = Self::look_up(process)?;
        if !Uid::effective().is_root() {
            tracing::info!("not started as root: user and group of the file are left alone");
            return Ok(None);
        }
        Ok(Some(identity))
    }

    fn look_up(process: &Process) -> Result<Self> {
        let user = match &process.user {
            None => None,
            Some(account) => Some(user(account)?),
        };
        let group = match (&process.group, &user) {
            (Some(account), _) => Some(group(account)?),
            (None, user) => user.as_ref().map(|user| user.gid),
        };
        let user = user.map(|user| Ok::<_, anyhow::Error>((user.uid, CString::new(user.name)?)));
        Ok(Self {
            user: user.transpose()?,
            group,
        })
    }

    /// Makes a directory for this identity alone, or hands it over: what is in it is written before
    /// the change and read after it.
    ///
    /// # Errors
    /// It cannot be made, or is something else.
    pub fn own_directory(&self, path: &Path) -> Result<()> {
        let shown = || format!("cannot hand over {}", path.display());
        if let Some(parent) = path.parent() {
            // Others pass through these.
            std::fs::create_dir_all(parent).with_context(shown)?;
        }
        let made = DirBuilder::new().mode(0o700).create(path);
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error).with_context(shown);
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
            .with_context(shown)?;
        let (uid, gid) = self.numbers();
        fchown(directory, uid, gid).with_context(shown)
    }

    fn numbers(&self) -> (Option<u32>, Option<u32>) {
        let uid = self.user.as_ref().map(|(uid, _)| uid.as_raw());
        (uid, self.group.map(Gid::as_raw))
    }

    /// Becomes it, for good. Every thread does: the C library sees to that.
    ///
    /// `files` are handed over, because they are opened again later.
    ///
    /// # Errors
    /// The system refuses; what has changed by then stays changed.
    pub fn assume(&self, files: &[&Path]) -> Result<()> {
        let (uid, gid) = self.numbers();
        for file in files {
            std::os::unix::fs::chown(file, uid, gid)
                .with_context(|| format!("cannot hand over {}", file.display()))?;
        }
        // Groups first: afterwards it would not be allowed any more.
        if let (Some((_, name)), Some(group)) = (&self.user, self.group) {
            initgroups(name, group).context("cannot take the groups of the user")?;
        }
        if let Some(group) = self.group {
            setgid(group).context("cannot change the group")?;
        }
        if let Some((uid, _)) = &self.user {
            setuid(*uid).context("cannot change the user")?;
        }
        tracing::info!(?uid, ?gid, "privileges dropped");
        Ok(())
    }
}

fn user(account: &Account) -> Result<User> {
    let (found, name) = match account {
        Account::Id(id) => (User::from_uid(Uid::from_raw(*id)), id.to_string()),
        Account::Name(name) => (User::from_name(name), name.clone()),
    };
    found?.ok_or_else(|| anyhow!("proxy_worker.user: there is no user {name}"))
}

fn group(account: &Account) -> Result<Gid> {
    match account {
        // A number needs no entry: it is used as it is.
        Account::Id(id) => Ok(Gid::from_raw(*id)),
        Account::Name(name) => Group::from_name(name)?
            .map(|group| group.gid)
            .ok_or_else(|| anyhow!("proxy_worker.group: there is no group {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(user: Option<Account>, group: Option<Account>) -> Process {
        Process {
            user,
            group,
            pid_file: None,
        }
    }

    #[test]
    fn users_are_found_by_name_and_number_with_their_group() {
        let by_name = Identity::look_up(&process(Some(Account::Name("root".to_owned())), None));
        let by_number = Identity::look_up(&process(Some(Account::Id(0)), None));
        let expected = Identity {
            user: Some((Uid::from_raw(0), c"root".to_owned())),
            group: Some(Gid::from_raw(0)),
        };
        assert_eq!(by_name.unwrap(), expected);
        assert_eq!(by_number.unwrap(), expected);
        let group = Identity::look_up(&process(Some(Account::Id(0)), Some(Account::Id(7))));
        assert_eq!(group.unwrap().group, Some(Gid::from_raw(7)));
    }

    #[test]
    fn nobody_is_not_taken_for_somebody() {
        let nobody = || Some(Account::Name("no such account".to_owned()));
        let error = Identity::find(&process(nobody(), None)).unwrap_err();
        let expected = "proxy_worker.user: there is no user no such account";
        assert_eq!(error.to_string(), expected);
        let error = Identity::find(&process(None, nobody())).unwrap_err();
        let expected = "proxy_worker.group: there is no group no such account";
        assert_eq!(error.to_string(), expected);
        assert_eq!(Identity::find(&process(None, None)).unwrap(), None);
    }

    #[test]
    fn a_directory_is_made_for_the_one_to_be_and_no_link_is_followed() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let me = (Uid::effective(), Gid::effective());
        let (uid, gid) = match me.0.is_root() {
            true => (Uid::from_raw(12_345), Gid::from_raw(54_321)),
            false => me,
        };
        let identity = Identity {
            user: Some((uid, c"somebody".to_owned())),
            group: Some(gid),
        };
        let path = directory.path().join("lib/causeway/acme");
        for _ in 0..2 {
            identity.own_directory(&path).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (uid.as_raw(), gid.as_raw()));
            assert_eq!(meta.mode() & 0o777, 0o700);
        }
        let above = std::fs::metadata(path.parent().unwrap()).unwrap();
        assert_ne!(above.mode() & 0o011, 0, "the way there is open");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(identity.own_directory(&link).is_err());
    }

    #[test]
    fn a_pid_file_lasts_as_long_as_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.pid");
        let owner = PidFile::write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, std::process::id().to_string());
        drop(owner);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_regular_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("w.pid"), &link).unwrap();
        drop(PidFile::write(&link).unwrap());
        assert!(link.is_symlink());
    }
}
