//! Where a resource that is only named here comes from (`envoy.config.core.v3.ConfigSource`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::api_source::ApiSource;
use super::cluster::Dns;
use super::context::{At, Context, accept, duration, enumeration, not_empty, refuse, required};
use crate::extension::Unchecked;
use crate::proto::core::config_source::ConfigSourceSpecifier as Specifier;
use crate::proto::core::{self, ApiVersion};
use crate::reject::Invalid;

/// `initial_fetch_timeout` when it is not given.
pub const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The place a named resource is to be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    pub place: Place,
    /// How long the referring object waits before it goes on without; zero waits for ever.
    /// Default 15 s (`initial_fetch_timeout`).
    pub initial_fetch_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `path_config_source` (or the older `path`).
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
    },
    /// `self`: whoever delivered the resource that refers to this one. The in-process translator
    /// uses it: the resource arrives through the same store.
    SameOrigin,
    /// `ads`: the aggregated stream of the bootstrap (`dynamic_resources.ads_config`).
    Ads,
    /// `api_config_source`: a stream, or a poll, for this type alone.
    Api(ApiSource),
    /// The addresses of names, from the system's resolver. Never in a message.
    Dns(Arc<Dns>),
    /// No source at all, where that is allowed: the resource is a static one.
    Static,
}

impl ConfigSource {
    pub(crate) fn decode(message: core::ConfigSource, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let core::ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version,
            config_source_specifier,
        } = message;
        refuse!(authorities);
        check_version(resource_api_version, "resource_api_version")?;

        #[allow(
            deprecated,
            reason = "the older spelling is still written by control planes"
        )]
        let place = match config_source_specifier {
            None => return Err(Invalid::at("config_source_specifier", "must be given")),
            Some(Specifier::Path(path)) => {
                let path = PathBuf::from(not_empty(path, "path")?);
                ctx.extensions.check_file(&path).at("path")?;
                Place::File {
                    path,
                    watched_directory: None,
                }
            }
            Some(Specifier::PathConfigSource(file)) => {
                Place::file(file, ctx).at("path_config_source")?
            }
            Some(Specifier::ApiConfigSource(api)) => ApiSource::decode(api, ctx)
                .map(Place::Api)
                .at("api_config_source")?,
            Some(Specifier::Ads(core::AggregatedConfigSource {})) => Place::Ads,
            Some(Specifier::Self_(core::SelfConfigSource {
                transport_api_version,
            })) => {
                check_version(transport_api_version, "transport_api_version").at("self")?;
                Place::SameOrigin
            }
        };
        ctx.extensions.check_place(&place)?;
        let timeout = duration(initial_fetch_timeout, "initial_fetch_timeout")?;
        Ok(Self {
            place,
            initial_fetch_timeout: timeout.unwrap_or(DEFAULT_FETCH_TIMEOUT),
        })
    }

    /// A source outside of any resource, as a bootstrap has them. Appends the fields that are set
    /// without having an effect, entries of [`IGNORED`](super::IGNORED).
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub fn read(
        message: core::ConfigSource,
        ignored: &mut Vec<&'static str>,
    ) -> Result<Self, Invalid> {
        let ctx = Context::new(&Unchecked);
        let source = Self::decode(message, &ctx)?;
        ignored.extend(ctx.into_ignored());
        Ok(source)
    }

    /// A source in a field that must be there.
    pub(crate) fn decode_field(
        message: Option<core::ConfigSource>,
        field: &str,
        ctx: &Context<'_>,
    ) -> Result<Self, Invalid> {
        Self::decode(required(message, field)?, ctx).at(field)
    }
}

impl Place {
    fn file(message: core::PathConfigSource, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let core::PathConfigSource {
            path,
            watched_directory,
            poll_interval,
        } = message;
        // How a change is noticed, not what is read.
        accept!(ctx, "PathConfigSource": poll_interval);
        let path = PathBuf::from(not_empty(path, "path")?);
        ctx.extensions.check_file(&path).at("path")?;
        Ok(Self::File {
            path,
            watched_directory: watched_directory
                .map(|directory| {
                    let core::WatchedDirectory { path, watch_modify } = directory;
                    accept!(ctx, "WatchedDirectory": watch_modify);
                    not_empty(path, "path")
                        .at("watched_directory")
                        .map(PathBuf::from)
                })
                .transpose()?,
        })
    }
}

pub(super) fn check_version(version: i32, field: &str) -> Result<(), Invalid> {
    #[allow(deprecated, reason = "named so that it can be refused")]
    match enumeration(version, field)? {
        ApiVersion::Auto | ApiVersion::V3 => Ok(()),
        ApiVersion::V2 => Err(Invalid::at(field, "V2 of the API is no longer supported")),
    }
}
