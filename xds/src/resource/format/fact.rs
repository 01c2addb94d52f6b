//! The commands that take no argument.

macro_rules! facts {
    ($($variant:ident $name:literal)+) => {
        /// What is known of a request or connection, under the name that its command has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fact {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Fact {
            /// The command of that name.
            pub(super) fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

facts! {
    AccessLogType "ACCESS_LOG_TYPE"
    Attempts "CAUSEWAY_ATTEMPTS"
    BytesReceived "BYTES_RECEIVED"
    BytesSent "BYTES_SENT"
    ConnectionId "CONNECTION_ID"
    ConnectionTerminationDetails "CONNECTION_TERMINATION_DETAILS"
    DownstreamDirectLocalAddress "DOWNSTREAM_DIRECT_LOCAL_ADDRESS"
    DownstreamDirectLocalAddressWithoutPort "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT"
    DownstreamDirectLocalPort "DOWNSTREAM_DIRECT_LOCAL_PORT"
    DownstreamDirectRemoteAddress "DOWNSTREAM_DIRECT_REMOTE_ADDRESS"
    DownstreamDirectRemoteAddressWithoutPort "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT"
    DownstreamDirectRemotePort "DOWNSTREAM_DIRECT_REMOTE_PORT"
    DownstreamLocalAddress "DOWNSTREAM_LOCAL_ADDRESS"
    DownstreamLocalAddressWithoutPort "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"
    DownstreamLocalPort "DOWNSTREAM_LOCAL_PORT"
    DownstreamPeerDnsSan "DOWNSTREAM_PEER_DNS_SAN"
    DownstreamPeerEmailSan "DOWNSTREAM_PEER_EMAIL_SAN"
    DownstreamPeerFingerprint256 "DOWNSTREAM_PEER_FINGERPRINT_256"
    DownstreamPeerIssuer "DOWNSTREAM_PEER_ISSUER"
    DownstreamPeerSerial "DOWNSTREAM_PEER_SERIAL"
    DownstreamPeerSubject "DOWNSTREAM_PEER_SUBJECT"
    DownstreamPeerUriSan "DOWNSTREAM_PEER_URI_SAN"
    DownstreamRemoteAddress "DOWNSTREAM_REMOTE_ADDRESS"
    DownstreamRemoteAddressWithoutPort "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
    DownstreamRemotePort "DOWNSTREAM_REMOTE_PORT"
    DownstreamTlsVersion "DOWNSTREAM_TLS_VERSION"
    Duration "DURATION"
    GrpcStatusNumber "GRPC_STATUS_NUMBER"
    Hostname "HOSTNAME"
    LocalReplyBody "LOCAL_REPLY_BODY"
    Protocol "PROTOCOL"
    RequestDuration "REQUEST_DURATION"
    RequestHeadersBytes "REQUEST_HEADERS_BYTES"
    RequestTxDuration "REQUEST_TX_DURATION"
    RequestedServerName "REQUESTED_SERVER_NAME"
    ResponseCode "RESPONSE_CODE"
    ResponseCodeDetails "RESPONSE_CODE_DETAILS"
    ResponseDuration "RESPONSE_DURATION"
    ResponseFlags "RESPONSE_FLAGS"
    ResponseFlagsLong "RESPONSE_FLAGS_LONG"
    ResponseHeadersBytes "RESPONSE_HEADERS_BYTES"
    ResponseTxDuration "RESPONSE_TX_DURATION"
    RouteName "ROUTE_NAME"
    SpanId "SPAN_ID"
    StreamId "STREAM_ID"
    TraceId "TRACE_ID"
    UniqueId "UNIQUE_ID"
    UpstreamCluster "UPSTREAM_CLUSTER"
    UpstreamClusterRaw "UPSTREAM_CLUSTER_RAW"
    UpstreamConnectionId "UPSTREAM_CONNECTION_ID"
    UpstreamHost "UPSTREAM_HOST"
    UpstreamHostName "UPSTREAM_HOST_NAME"
    UpstreamHostNameWithoutPort "UPSTREAM_HOST_NAME_WITHOUT_PORT"
    UpstreamHostNamesAttempted "UPSTREAM_HOST_NAMES_ATTEMPTED"
    UpstreamHostNamesAttemptedWithoutPort "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT"
    UpstreamHostsAttempted "UPSTREAM_HOSTS_ATTEMPTED"
    UpstreamHostsAttemptedWithoutPort "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT"
    UpstreamLocalAddress "UPSTREAM_LOCAL_ADDRESS"
    UpstreamLocalAddressWithoutPort "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"
    UpstreamLocalPort "UPSTREAM_LOCAL_PORT"
    UpstreamProtocol "UPSTREAM_PROTOCOL"
    UpstreamRemoteAddress "UPSTREAM_REMOTE_ADDRESS"
    UpstreamRemoteAddressWithoutPort "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
    UpstreamRemotePort "UPSTREAM_REMOTE_PORT"
    UpstreamRequestAttemptCount "UPSTREAM_REQUEST_ATTEMPT_COUNT"
    UpstreamTransportFailureReason "UPSTREAM_TRANSPORT_FAILURE_REASON"
    VirtualClusterName "VIRTUAL_CLUSTER_NAME"
}
