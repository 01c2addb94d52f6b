//! The only file that names the generated-message crate: the rest of the workspace says
//! `proto::Listener` and never notices where the Rust for it came from.

/// The messages of our own, from `proto/`.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod causeway {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/causeway.v1.rs"));
    }
}

pub use envoy_types::pb::envoy;
pub use envoy_types::pb::google::protobuf::{
    Any, BoolValue, DoubleValue, Duration, Struct, UInt32Value, UInt64Value,
};
pub use envoy_types::pb::{google, xds};

pub use envoy::config::bootstrap::v3::Bootstrap;
pub use envoy::config::cluster::v3::Cluster;
pub use envoy::config::core::v3 as core;
pub use envoy::config::endpoint::v3::{self as endpoint, ClusterLoadAssignment};
pub use envoy::config::listener::v3::{self as listener, Listener};
pub use envoy::config::route::v3::{self as route, RouteConfiguration, VirtualHost};
pub use envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm, HttpConnectionManager,
};
pub use envoy::extensions::filters::network::tcp_proxy::v3::{self as tcp_proxy, TcpProxy};
pub use envoy::extensions::transport_sockets::tls::v3::{
    self as tls, DownstreamTlsContext, Secret, UpstreamTlsContext,
};
pub use envoy::extensions::upstreams::http::v3::{self as upstream_http, HttpProtocolOptions};
pub use envoy::service::discovery::v3::{self as discovery, DiscoveryResponse};
pub use prost::Message;

/// The two messages of `grpc.health.v1.Health/Check`, which the crate of the others does not have.
pub mod grpc_health {
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct HealthCheckRequest {
        #[prost(string, tag = "1")]
        pub service: String,
    }

    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct HealthCheckResponse {
        /// `ServingStatus`: 1 is serving.
        #[prost(int32, tag = "1")]
        pub status: i32,
    }
}

/// What a service of access logs is sent, with entries that are encoded already.
pub mod access_log_stream {
    use super::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;

    /// `envoy.service.accesslog.v3.StreamAccessLogsMessage`
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StreamAccessLogsMessage {
        #[prost(message, optional, tag = "1")]
        pub identifier: Option<Identifier>,
        /// `HTTPAccessLogEntries`
        #[prost(bytes = "vec", optional, tag = "2")]
        pub http_logs: Option<Vec<u8>>,
        /// `TCPAccessLogEntries`
        #[prost(bytes = "vec", optional, tag = "3")]
        pub tcp_logs: Option<Vec<u8>>,
    }
}

/// What is in the cookie of the `stateful_session` filter, which the crate of the others does not
/// have.
pub mod stateful_session {
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub struct SessionCookie {
        #[prost(string, tag = "1")]
        pub address: String,
        /// Seconds since 1970; 0 is never.
        #[prost(int64, tag = "2")]
        pub expires: i64,
    }
}
