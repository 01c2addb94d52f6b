//! When and how often a request is sent again: message to typed.

use super::Retry;
use crate::proto::Message as _;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::proto::route::{
    RetryPolicy, retry_policy::RetryHostPredicate, retry_policy::retry_host_predicate,
};
use crate::reject::{FieldPath, Invalid};
use crate::resource::context::{At, each, refuse};
use crate::type_url::message_name;

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
/// Of a policy that does not say (`RetryPolicy.num_retries`).
const DEFAULT_RETRIES: u32 = 1;

impl Retry {
    pub(super) fn decode(message: RetryPolicy) -> Result<Self, Invalid> {
        let RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = message;
        refuse!(
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_options_predicates,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        );
        let mut connect_failure = false;
        for condition in retry_on.split(',').map(str::trim).filter(|c| !c.is_empty()) {
            match condition {
                "connect-failure" => connect_failure = true,
                other => {
                    let reason = format!("{other:?} is not supported yet");
                    return Err(Invalid::at("retry_on", reason));
                }
            }
        }
        let predicates = each("retry_host_predicate", retry_host_predicate, previous_hosts)?;
        let attempts = u32::try_from(host_selection_retry_max_attempts).map_err(|_| {
            Invalid::at("host_selection_retry_max_attempts", "must not be negative")
        })?;
        Ok(Self {
            connect_failures: match (connect_failure, num_retries) {
                (false, _) => 0,
                (true, None) => DEFAULT_RETRIES,
                (true, Some(n)) => n.value,
            },
            // Envoy: one look when the field is zero.
            other_hosts: match predicates.is_empty() {
                true => 0,
                false => attempts.max(1),
            },
        })
    }
}

fn previous_hosts(message: RetryHostPredicate) -> Result<(), Invalid> {
    let RetryHostPredicate {
        name: _,
        config_type,
    } = message;
    let Some(retry_host_predicate::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Invalid::at("typed_config", "is required"));
    };
    if message_name(&any.type_url) != PREVIOUS_HOSTS {
        let reason = format!("{:?} is not supported yet", any.type_url);
        return Err(Invalid::at("typed_config", reason));
    }
    PreviousHostsPredicate::decode(any.value.as_slice())
        .map(drop)
        .map_err(|e| Invalid::new(FieldPath::root(), e.to_string()))
        .at("typed_config")
}
