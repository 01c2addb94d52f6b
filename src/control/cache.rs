//! The last good configuration of management servers, on disk: so that a process that starts while
//! they are away serves what they sent last.
//!
//! The file is written whole, beside the old one, and put in its place by a rename; a checksum tells
//! a damaged one. What it holds is the messages as they were received. Its mode is 0600, as
//! a listener may hold a key in place. Resources that are secrets are left out unless they are asked
//! for: without them, listeners that need one stay closed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use causeway_xds::ResourceType;
use causeway_xds::proto::{DiscoveryResponse, Message as _, core::ControlPlane};
use causeway_xds::source::{Extent, Origin, Update};

use super::status::ResourceStatus;

/// Name of the file in the directory, and beginning of its content.
const NAME: &str = "causeway-xds.cache";
const MAGIC: &[u8] = b"causeway xds cache 1\n";
const CHECKSUM: usize = 32;
/// Larger files are not read.
const MAX: u64 = 1 << 30;

/// Where the cache is, and what goes into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    pub directory: PathBuf,
    pub secrets: bool,
}

/// Why a cache is not used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the file is damaged")]
    Damaged,
}

impl Cache {
    /// The accepted resources of management servers, ready to be written.
    pub fn encode(&self, all: &[ResourceStatus]) -> Vec<u8> {
        let mut groups: Vec<DiscoveryResponse> = Vec::new();
        for status in all {
            let Some(accepted) = &status.accepted else {
                continue;
            };
            let Origin::Xds(server) = &accepted.origin else {
                continue;
            };
            if status.kind == ResourceType::Secret && !self.secrets {
                continue;
            }
            let type_url = status.kind.type_url();
            let same = |g: &DiscoveryResponse| {
                let of = g.control_plane.as_ref().map(|c| c.identifier.as_str());
                g.type_url == type_url && of == Some(&**server)
            };
            let at = groups.iter().position(same).unwrap_or_else(|| {
                groups.push(DiscoveryResponse {
                    type_url: type_url.clone(),
                    version_info: accepted.version.to_string(),
                    control_plane: Some(ControlPlane {
                        identifier: server.to_string(),
                    }),
                    ..Default::default()
                });
                groups.len() - 1
            });
            groups[at].resources.push(accepted.message.any());
        }
        let mut body = Vec::new();
        for group in groups {
            group
                .encode_length_delimited(&mut body)
                .expect("a vector takes all that is written");
        }
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(digest(&SHA256, &body).as_ref());
        file.extend_from_slice(&body);
        file
    }

    /// Puts an encoded cache in place of the earlier one.
    ///
    /// # Errors
    /// The earlier one is still there.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.directory)?;
        let beside = self
            .directory
            .join(format!("{NAME}.{}", std::process::id()));
        let written = write_all(&beside, content);
        let moved = written.and_then(|()| fs::rename(&beside, self.path()));
        if moved.is_err() {
            fs::remove_file(&beside).ok();
        }
        moved
    }

    /// What the cache holds, as updates of the servers it came from; nothing if there is none.
    ///
    /// # Errors
    /// [`CacheError`]; nothing of a damaged file is used.
    pub fn read(&self) -> Result<Vec<Update>, CacheError> {
        let path = self.path();
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
            Ok(metadata) if metadata.len() > MAX => return Err(CacheError::Damaged),
            Ok(_) => {}
        }
        decode(&fs::read(path)?).ok_or(CacheError::Damaged)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }
}

fn write_all(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn decode(content: &[u8]) -> Option<Vec<Update>> {
    let (sum, mut body) = content.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM)?;
    if digest(&SHA256, body).as_ref() != sum {
        return None;
    }
    let mut updates = Vec::new();
    while !body.is_empty() {
        let group = DiscoveryResponse::decode_length_delimited(&mut body).ok()?;
        updates.push(Update {
            origin: Origin::Xds(group.control_plane?.identifier.into()),
            kind: ResourceType::from_type_url(&group.type_url)?,
            // Shown in the config dump, so that nobody takes it for what the server says now.
            version: format!("{} (cached)", group.version_info),
            extent: Extent::Incremental,
            upserts: group.resources,
            listing: None,
            removals: Vec::new(),
        });
    }
    Some(updates)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use causeway_xds::proto::Any;
    use causeway_xds::resource::Raw;

    use super::*;
    use crate::control::status::Version;

    fn status(kind: ResourceType, name: &str, origin: Origin) -> ResourceStatus {
        ResourceStatus {
            kind,
            name: name.to_owned(),
            accepted: Some(Version {
                origin,
                version: "7".into(),
                since: SystemTime::UNIX_EPOCH,
                message: Raw::new(
                    kind,
                    Any {
                        type_url: kind.type_url(),
                        value: name.as_bytes().to_vec(),
                    },
                ),
            }),
            active_since: None,
            warming_for: Vec::new(),
            earlier: None,
            rejected: None,
        }
    }

    #[test]
    fn what_servers_sent_comes_back_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache {
            directory: directory.path().join("new"),
            secrets: false,
        };
        assert!(cache.read().unwrap().is_empty());
        let ads = || Origin::Xds("ads".into());
        let all = [
            status(ResourceType::Cluster, "a", ads()),
            status(ResourceType::Cluster, "b", ads()),
            status(ResourceType::Cluster, "own", Origin::Static),
            status(ResourceType::Secret, "s", ads()),
            status(ResourceType::Listener, "l", ads()),
        ];
        cache.write(&cache.encode(&all)).unwrap();
        let read = cache.read().unwrap();
        let shown: Vec<_> = read
            .iter()
            .map(|u| {
                (
                    u.kind,
                    u.upserts.len(),
                    u.version.as_str(),
                    u.origin.clone(),
                )
            })
            .collect();
        let expected = [
            (ResourceType::Cluster, 2, "7 (cached)", ads()),
            (ResourceType::Listener, 1, "7 (cached)", ads()),
        ];
        assert_eq!(shown, expected);
        let with_secrets = Cache {
            secrets: true,
            ..cache
        };
        with_secrets.write(&with_secrets.encode(&all)).unwrap();
        assert_eq!(with_secrets.read().unwrap().len(), 3);
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache {
            directory: directory.path().to_owned(),
            secrets: false,
        };
        let all = [status(
            ResourceType::Cluster,
            "a",
            Origin::Xds("ads".into()),
        )];
        let whole = cache.encode(&all);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            cache.write(&damaged).unwrap();
            assert!(cache.read().is_err(), "byte {at}");
            cache.write(&whole[..at]).unwrap();
            assert!(cache.read().is_err(), "cut at {at}");
        }
    }
}
