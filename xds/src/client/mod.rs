//! Management servers as a source of resources.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | how a management server is reached |
//! | [`status`] | what an operator may know of the connection |

pub mod server;
pub mod status;

pub use server::{Connect, Connecting, Io, Server};
pub use status::{Status, TypeStatus};

use std::time::Duration;

use crate::proto::core::Node;
use crate::resource::api_source::ApiProtocol;
use crate::source::Origin;
use crate::type_url::ResourceType;

/// Before the first attempt to connect again.
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Default of [`Config::backoff_max`]. Envoy goes up to 30 s, which is long for users whose session
/// began while the management server was away.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The largest message taken when the server's configuration does not say, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What a client is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of all it delivers.
    pub origin: Origin,
    /// Who asks: sent as it is.
    pub node: Node,
    /// Whether only the first message of a stream carries the node.
    pub node_on_first_message_only: bool,
    pub protocol: ApiProtocol,
    pub scope: Scope,
    /// At least one, in the order in which they are tried.
    pub servers: Vec<Server>,
    pub backoff_max: Duration,
}

/// Which types a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them over one stream (the Aggregated Discovery Service).
    Aggregated,
    /// One, over the service of its own.
    Only(ResourceType),
}
