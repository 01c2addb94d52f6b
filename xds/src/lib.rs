//! Typed xDS resources: decode, validate, store.
//!
//! | module | holds |
//! |---|---|
//! | [`proto`] | the messages, re-exported from the one crate that carries them |
//! | [`type_url`] | resource kinds and type URLs |
//! | [`resource`] | message -> typed resource, with a rejection that names resource, path, reason |
//! | [`capabilities`] | what becomes of each field, by trying |
//! | [`text`] | YAML and JSON <-> messages |
//! | [`client`] | management servers as a source |
//! | [`descriptor`] | what the text forms are guided by |
//! | [`file`] | watched files as a source |
//! | [`extension`] | how the program checks configuration that only it understands |
//! | [`reject`] | rejections and field paths |
//! | [`source`] | what every producer of resources implements |
//! | [`store`] | the last accepted version of every resource, and what an update changed |

pub mod capabilities;
#[cfg(feature = "client")]
pub mod client;
pub mod descriptor;
pub mod extension;
#[cfg(feature = "file")]
pub mod file;
pub mod proto;
pub mod reject;
pub mod resource;
pub mod source;
pub mod store;
pub mod text;
pub mod type_url;

pub use reject::{FieldPath, Invalid, Rejected};
pub use store::ResourceStore;
pub use type_url::ResourceType;
