//! What can go wrong for a user of Backend.AI's apps, in the words that its other parts know.
//!
//! One row for each situation. The worker's own API answers with them, and the frontends are told
//! of those that concern traffic, so that both say the same.

/// One situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    pub status: u16,
    /// What follows [`TYPE_BASE`].
    pub kind: &'static str,
    pub title: &'static str,
    /// `<domain>_<operation>_<detail>`; does not change between versions.
    pub error_code: &'static str,
    /// What is said besides the title. Empty: what the failure itself says, if anything.
    pub message: &'static str,
    pub appearance: Appearance,
    /// Detail words and response flags of the data plane's failures that are this situation, and
    /// names that routes give theirs. Empty: only the API meets it.
    pub failures: &'static [&'static str],
    /// Seconds after which trying again makes sense; 0: no such time.
    pub retry_after: u32,
}

/// What a page for people is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    Plain,
    Starting,
    LoginExpired,
    AddressRefused,
    NotFound,
    Overloaded,
}

pub const TYPE_BASE: &str = "https://api.backend.ai/probs/";

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident = $status:literal $kind:literal $title:literal $code:literal
       $message:literal $appearance:ident $failures:expr, $retry:literal;)*) => {
        $($(#[$doc])* pub const $name: Situation = Situation {
            status: $status,
            kind: $kind,
            title: $title,
            error_code: $code,
            message: $message,
            appearance: Appearance::$appearance,
            failures: &$failures,
            retry_after: $retry,
        };)*
        /// Every situation.
        pub const TABLE: &[(&str, Situation)] = &[$((stringify!($name), $name)),*];
    };
}

situations! {
    /// The message names the port: `Unregistered slot 10300`.
    SLOT_UNREGISTERED = 400 "generic-bad-request" "Bad request." "agent_request_bad-request"
        "" NotFound ["slot_unregistered"], 0;
    SUBDOMAIN_UNREGISTERED = 400 "generic-bad-request" "Bad request."
        "agent_request_bad-request" "E20009: Subdomain not registered" NotFound
        ["subdomain_unregistered"], 0;
    /// The path frontend's counterpart of the two above.
    PATH_UNREGISTERED = 404 "url-not-found" "Unknown URL path." "agent_request_not-found"
        "" NotFound ["path_unregistered", "route_not_found"], 0;
    PERMIT_MISSING = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "E20004: Authorization cookie not provided" LoginExpired
        ["permit_missing"], 0;
    PERMIT_INVALID = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "E20005: Invalid authorization cookie" LoginExpired
        ["permit_invalid"], 0;
    TOKEN_MISSING = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "E20006: Authorization header not provided" Plain
        ["token_missing"], 0;
    /// The message names the scheme: `E20007: Unsupported authorization method Basic`.
    TOKEN_SCHEME = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "" Plain ["token_scheme"], 0;
    /// The message says why: `E20008: Invalid authorization token (Signature has expired)`.
    TOKEN_INVALID = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "" Plain ["token_invalid"], 0;
    TOKEN_MISMATCH = 401 "invalid-credentials" "Authentication credentials not valid."
        "agent_auth_unauthorized" "E20009: Authorization token mismatch" Plain
        ["token_mismatch"], 0;
    ADDRESS_REFUSED = 403 "client-ip-not-allowed" "Client address not allowed."
        "appproxy_access_forbidden" "E20011: Client address not allowed" AddressRefused
        ["client_ip_not_allowed"], 0;
    NO_ROUTE = 503 "appproxy/worker-not-available" "Worker not available."
        "agent_access_not-found" "" Starting ["no_healthy_upstream", "cluster_not_found"], 5;
    /// Before the row below, which has all failed connections.
    KERNEL_SILENT = 504 "appproxy/container-connection-timeout"
        "Cannot connect to Backend.AI kernel." "kernel_access_timeout" "" Starting
        ["upstream_reset_before_response_started{connection_timeout}"], 5;
    KERNEL_UNREACHABLE = 502 "appproxy/container-connection-refused"
        "Cannot connect to Backend.AI kernel." "kernel_access_unreachable" "" Starting
        ["UF"], 5;
    /// The kernel hung up before it answered. Python says 500, as plain text.
    KERNEL_CLOSED = 502 "appproxy/container-connection-closed"
        "Backend.AI kernel closed the connection." "kernel_access_closed" "" Plain
        ["UC", "UR", "UPE"], 0;
    /// The kernel takes longer than a deadline allows.
    KERNEL_TIMEOUT = 504 "appproxy/container-timeout" "Backend.AI kernel did not answer in time."
        "kernel_access_timeout" "" Plain ["UT", "DT"], 0;
    OVERLOADED = 504 "appproxy/container-overloaded" "Too many connections to Backend.AI kernel."
        "kernel_access_overloaded" "" Overloaded ["UO"], 5;
    MISCONFIGURED = 500 "server-misconfigured" "Server misconfigured."
        "agent_setup_invalid-parameters" "" Plain ["access_misconfigured"], 0;
    COORDINATOR_UNREACHABLE = 502 "appproxy/coordinator-connection-error"
        "E20014: Failed to communicate with coordinator." "agent_access_unreachable" "" Plain
        [], 0;
    CIRCUIT_UNKNOWN = 404 "object-not-found" "E00002: No such worker:circuit."
        "agent_read_not-found" "" NotFound [], 0;
    INFERENCE_UNSUPPORTED = 400 "generic-bad-request" "Bad request."
        "agent_request_bad-request" "E20011: Not supported for inference apps" Plain [], 0;
    PROTOCOL_UNSUPPORTED = 400 "generic-bad-request" "Bad request."
        "agent_request_bad-request" "E20002: Protocol not available as interactive app" Plain
        [], 0;
    NO_PATH = 400 "generic-bad-request" "Bad request." "agent_request_bad-request"
        "This app cannot be reached by path" Plain [], 0;
    FORBIDDEN = 403 "generic-forbidden" "Forbidden operation." "agent_access_forbidden" ""
        Plain [], 0;
    UNKNOWN_PATH = 404 "url-not-found" "Unknown URL path." "agent_request_not-found" ""
        Plain [], 0;
    METHOD_NOT_ALLOWED = 405 "method-not-allowed" "HTTP Method Not Allowed."
        "agent_request_bad-request" "" Plain [], 0;
    BAD_PARAMETERS = 400 "invalid-api-params" "Missing or invalid API parameters."
        "agent_request_invalid-parameters" "Input validation error" Plain [], 0;
    INTERNAL = 500 "internal-server-error" "Internal server error."
        "backendai_generic_internal-error" "" Plain [], 0;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_is_complete_and_no_failure_has_two() {
        let mut failures = BTreeSet::new();
        for (name, row) in TABLE {
            assert!(
                http::StatusCode::from_u16(row.status)
                    .is_ok_and(|s| s.is_client_error() || s.is_server_error()),
                "{name}"
            );
            assert!(!row.kind.is_empty() && !row.kind.starts_with('/'), "{name}");
            assert!(row.title.ends_with('.'), "{name}");
            assert_eq!(row.error_code.split('_').count(), 3, "{name}");
            for failure in row.failures {
                assert!(
                    failures.insert(failure),
                    "{name}: {failure} is in another row too"
                );
            }
        }
    }

    #[test]
    fn what_other_parts_compare_is_as_they_know_it() {
        for (row, expected) in [
            (
                SLOT_UNREGISTERED,
                "400 generic-bad-request agent_request_bad-request",
            ),
            (
                SUBDOMAIN_UNREGISTERED,
                "400 generic-bad-request agent_request_bad-request",
            ),
            (
                PERMIT_MISSING,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                PERMIT_INVALID,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                TOKEN_MISSING,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                TOKEN_SCHEME,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                TOKEN_INVALID,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                TOKEN_MISMATCH,
                "401 invalid-credentials agent_auth_unauthorized",
            ),
            (
                ADDRESS_REFUSED,
                "403 client-ip-not-allowed appproxy_access_forbidden",
            ),
            (
                NO_ROUTE,
                "503 appproxy/worker-not-available agent_access_not-found",
            ),
            (
                KERNEL_UNREACHABLE,
                "502 appproxy/container-connection-refused kernel_access_unreachable",
            ),
            (
                MISCONFIGURED,
                "500 server-misconfigured agent_setup_invalid-parameters",
            ),
            (
                COORDINATOR_UNREACHABLE,
                "502 appproxy/coordinator-connection-error agent_access_unreachable",
            ),
            (UNKNOWN_PATH, "404 url-not-found agent_request_not-found"),
            (
                METHOD_NOT_ALLOWED,
                "405 method-not-allowed agent_request_bad-request",
            ),
            (
                BAD_PARAMETERS,
                "400 invalid-api-params agent_request_invalid-parameters",
            ),
        ] {
            assert_eq!(
                format!("{} {} {}", row.status, row.kind, row.error_code),
                expected
            );
        }
    }
}
