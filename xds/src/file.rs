//! A watched file as a source, as Envoy's `path_config_source` has it: the file is a
//! `DiscoveryResponse` in YAML, JSON or (by the suffix `.pb`) binary form.

mod watch;

use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio::task;
use tracing::{debug, warn};

use crate::proto::envoy::service::discovery::v3::Resource;
use crate::proto::{Any, DiscoveryResponse, Message as _};
use crate::reject::before;
use crate::resource::WatchedFiles;
use crate::source::{Batch, Batches, Extent, Origin, Source, Update};
use crate::text::{self, Document, Listing, Location, Options, TextError};
use crate::type_url::{ResourceType, WRAPPER, message_name};
use watch::Watch;

const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";
/// Where in it the resources are.
const LIST: &str = "resources";

/// What a resource file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceFile {
    /// `version_info`, or a hash of the content where that is absent.
    pub version: String,
    pub resources: Vec<Any>,
    /// Where they are in the text, if the file is one.
    pub listing: Option<Listing>,
}

/// Why a resource file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// What a writer leaves for a moment between truncating and writing; "no resources" is `{}`.
    #[error("the file is empty")]
    Empty,
    #[error("the file is not UTF-8")]
    NotText,
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("not a DiscoveryResponse: {0}")]
    Binary(#[source] prost::DecodeError),
    #[error("{}resources[{index}]: not a wrapped resource: {reason}", before(location.as_ref()))]
    Wrapper {
        location: Option<Location>,
        index: usize,
        reason: String,
    },
    #[error("{}resources[{index}]: expected {wanted}, found {found}", before(location.as_ref()))]
    WrongType {
        location: Option<Location>,
        index: usize,
        wanted: &'static str,
        found: String,
    },
}

/// Reads a resource file.
///
/// # Errors
///
/// [`FileError`] when it cannot be read or is not a `DiscoveryResponse`.
pub fn read_resources(path: &Path, options: &Options) -> Result<ResourceFile, FileError> {
    decode(
        path,
        &std::fs::read(path).map_err(FileError::Read)?,
        options,
    )
}

fn decode(path: &Path, content: &[u8], options: &Options) -> Result<ResourceFile, FileError> {
    if content.iter().all(u8::is_ascii_whitespace) {
        return Err(FileError::Empty);
    }
    let (response, listing) = if path.extension().is_some_and(|e| e == "pb") {
        let response = DiscoveryResponse::decode(content).map_err(FileError::Binary)?;
        (response, None)
    } else {
        let text = std::str::from_utf8(content).map_err(|_| FileError::NotText)?;
        let response = text::parse::<DiscoveryResponse>(text, RESPONSE, options)?;
        let document = Document::new(Some(&path.to_string_lossy()), text);
        (response, Some(Listing::new(document, LIST)))
    };
    let unwrap = |(index, any)| {
        unwrap(any).map_err(|reason| FileError::Wrapper {
            location: locate(listing.as_ref(), index),
            index,
            reason,
        })
    };
    let resources = response.resources.into_iter().enumerate().map(unwrap);
    let resources = resources.collect::<Result<_, _>>()?;
    let version = if response.version_info.is_empty() {
        format!("{:016x}", hash(content))
    } else {
        response.version_info
    };
    Ok(ResourceFile {
        version,
        resources,
        listing,
    })
}

/// Without the name of the file, which whoever reports a [`FileError`] knows.
fn locate(listing: Option<&Listing>, index: usize) -> Option<Location> {
    let Listing { document, list } = listing?;
    let location = document.tree().locate_in(list, index, "")?;
    Some(Location {
        text: None,
        ..location
    })
}

fn unwrap(any: Any) -> Result<Any, String> {
    if message_name(&any.type_url) != WRAPPER {
        return Ok(any);
    }
    match Resource::decode(any.value.as_slice()) {
        Ok(Resource {
            resource: Some(inner),
            ..
        }) => Ok(inner),
        Ok(_) => Err("it holds no resource".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// A file with the resources of one type, read again whenever it changes.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: Arc<PathBuf>,
    watched: PathBuf,
    kind: ResourceType,
    extent: Extent,
    options: Options,
}

impl FileSource {
    /// `watched_directory` is where a change is to be seen when that is not the directory of the
    /// file: above a symbolic link that is swapped, for example.
    pub fn new(
        path: impl Into<PathBuf>,
        watched_directory: Option<PathBuf>,
        kind: ResourceType,
    ) -> Self {
        let path = path.into();
        let watched = watched_directory.unwrap_or_else(|| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        });
        // Only for these two types a response says what there is; of the others it says something
        // about the resources it names (xDS protocol, "How the client specifies what to return").
        let extent = match kind {
            ResourceType::Listener | ResourceType::Cluster => Extent::StateOfTheWorld,
            _ => Extent::Incremental,
        };
        Self {
            path: Arc::new(path),
            watched,
            kind,
            extent,
            options: Options::default(),
        }
    }

    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Reads the file; `None` when its content is the one with the hash `last`.
    fn load(&self, last: Option<u64>) -> io::Result<Option<Loaded>> {
        let content = std::fs::read(&*self.path)?;
        let hash = hash(&content);
        let loaded = || Loaded {
            hash,
            update: self.update(&content),
        };
        Ok((last != Some(hash)).then(loaded))
    }

    fn update(&self, content: &[u8]) -> Result<Update, FileError> {
        let file = decode(&self.path, content, &self.options)?;
        self.check_types(&file)?;
        Ok(Update {
            origin: self.origin(),
            kind: self.kind,
            version: file.version,
            extent: self.extent,
            upserts: file.resources,
            listing: file.listing,
            removals: Vec::new(),
        })
    }

    fn check_types(&self, file: &ResourceFile) -> Result<(), FileError> {
        let resources = &file.resources;
        let wanted = self.kind.message_name();
        match resources
            .iter()
            .position(|any| message_name(&any.type_url) != wanted)
        {
            None => Ok(()),
            Some(index) => {
                let found = message_name(&resources[index].type_url).to_owned();
                Err(FileError::WrongType {
                    location: locate(file.listing.as_ref(), index),
                    index,
                    wanted,
                    found,
                })
            }
        }
    }

    async fn follow(self, batches: Batches) {
        // Before the first reading, so that no change falls between the two.
        let mut watch = Watch::start(self.watched.clone());
        let mut last = None;
        loop {
            let source = self.clone();
            // Reading and parsing a large file takes longer than a task may block its thread.
            let loaded = task::spawn_blocking(move || source.load(last)).await;
            match loaded.map_err(io::Error::other).flatten() {
                Ok(None) => {}
                // Also of a broken file, which is to be reported once and not at every event.
                Ok(Some(Loaded { hash, update })) => {
                    last = Some(hash);
                    if let Some(update) = self.usable(update)
                        && batches.send(Batch::new(vec![update])).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => self.unreadable(&error),
            }
            tokio::select! {
                () = watch.changed() => {}
                () = batches.closed() => return,
            }
        }
    }

    fn usable(&self, update: Result<Update, FileError>) -> Option<Update> {
        let path = self.path.display();
        match &update {
            Ok(update) => {
                let resources = update.upserts.len();
                debug!(%path, version = %update.version, resources, "resource file read");
            }
            Err(error) => warn!(%path, %error, "resource file refused, keeping what there is"),
        }
        update.ok()
    }

    fn unreadable(&self, error: &io::Error) {
        let path = self.path.display();
        if error.kind() == io::ErrorKind::NotFound {
            // At start, or between removal and renaming: the watch will tell.
            debug!(%path, "no resource file, keeping what there is");
        } else {
            warn!(%path, %error, "resource file not readable, keeping what there is");
        }
    }
}

/// Whoever names these files is told when they have new content.
#[derive(Clone, Debug)]
pub struct TouchSource(pub WatchedFiles);

impl TouchSource {
    /// One figure for all that can be read now.
    fn hash(files: &[PathBuf]) -> u64 {
        let all: Vec<Option<Vec<u8>>> = files.iter().map(|path| std::fs::read(path).ok()).collect();
        let mut hasher = DefaultHasher::new();
        all.hash(&mut hasher);
        hasher.finish()
    }
}

impl Source for TouchSource {
    fn origin(&self) -> Origin {
        Origin::File(self.0.directory.to_string_lossy().into())
    }

    fn run(self: Box<Self>, batches: Batches) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut watch = Watch::start(self.0.directory.clone());
            // Whoever names the files has read them before they were watched: the first look says
            // so once more, lest a change in between is missed.
            let mut last = None;
            loop {
                let files = self.0.files.clone();
                let hash = task::spawn_blocking(move || Self::hash(&files)).await.ok();
                if hash.is_some() && hash != last {
                    last = hash;
                    let mut batch = Batch::new(Vec::new());
                    batch.touched = vec![self.0.clone()];
                    if batches.send(batch).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = watch.changed() => {}
                    () = batches.closed() => return,
                }
            }
        })
    }
}

/// A content that was not seen before.
struct Loaded {
    hash: u64,
    update: Result<Update, FileError>,
}

impl Source for FileSource {
    fn origin(&self) -> Origin {
        Origin::File(self.path.to_string_lossy().into())
    }

    fn run(self: Box<Self>, batches: Batches) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.follow(batches))
    }
}

#[cfg(test)]
mod tests;
