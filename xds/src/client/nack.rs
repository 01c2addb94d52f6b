//! What a server is told about a response that was not taken, or not in whole.

use std::fmt::Write as _;

use crate::proto::Any;
use crate::proto::envoy::service::discovery::v3::{ResourceError, ResourceName};
use crate::proto::google::rpc;
use crate::reject::Rejected;
use crate::type_url::{ResourceType, pack};

/// The longest message, in bytes (xDS servers log it, and gRPC proxies bound what they carry).
const LONGEST: usize = 4096;
/// How many refusals are told one by one beside the text, in `details`.
const DETAILS: usize = 16;
/// `INTERNAL`, which is what Envoy sends whatever the fault is.
const INTERNAL: i32 = 13;

/// Of a response none of which was applied.
pub(super) fn whole(kind: Option<ResourceType>, reason: &str) -> rpc::Status {
    let mut text = match kind {
        Some(kind) => format!("response of {} rejected. ", plural(kind)),
        None => "response rejected. ".to_owned(),
    };
    text.push_str(reason);
    cut(&mut text);
    status(text, Vec::new())
}

/// Of a response with `total` resources, of which these were refused and the others applied.
pub(super) fn some(kind: ResourceType, total: usize, rejected: &[Rejected]) -> rpc::Status {
    let mut text = format!("{} of {total} {} rejected.", rejected.len(), plural(kind));
    for (told, fault) in rejected.iter().enumerate() {
        if text.len() > LONGEST {
            break;
        }
        let separator = if told == 0 { ' ' } else { '\n' };
        write!(text, "{separator}{fault}").expect("writing to a string");
    }
    cut(&mut text);
    let details = rejected.iter().take(DETAILS).map(detail).collect();
    status(text, details)
}

fn detail(fault: &Rejected) -> Any {
    let mut name = fault.name.clone();
    let mut message = fault.invalid.to_string();
    name.truncate(name.floor_char_boundary(LONGEST / DETAILS));
    message.truncate(message.floor_char_boundary(LONGEST / DETAILS));
    pack(&ResourceError {
        resource_name: Some(ResourceName {
            name,
            dynamic_parameter_constraints: None,
        }),
        error_detail: Some(status(message, Vec::new())),
    })
}

fn cut(text: &mut String) {
    const MARK: &str = "…";
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - MARK.len()));
        text.push_str(MARK);
    }
}

const fn status(message: String, details: Vec<Any>) -> rpc::Status {
    rpc::Status {
        code: INTERNAL,
        message,
        details,
    }
}

const fn plural(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Secret => "secrets",
        ResourceType::Cluster => "clusters",
        ResourceType::LoadAssignment => "endpoints",
        ResourceType::FilterConfig => "filter configurations",
        ResourceType::Listener => "listeners",
        ResourceType::RouteConfiguration => "routes",
        ResourceType::VirtualHost => "virtual hosts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Message as _;
    use crate::reject::Invalid;

    fn fault(name: &str, reason: &str) -> Rejected {
        let invalid = Invalid::at("connect_timeout", reason.to_owned());
        Rejected::new(ResourceType::Cluster, name, invalid)
    }

    #[test]
    fn each_refused_resource_is_named_with_its_reason() {
        let faults = [fault("svc-a", "must be positive"), fault("b", "unknown")];
        let status = some(ResourceType::Cluster, 14, &faults);
        assert_eq!(status.code, 13);
        assert_eq!(
            status.message,
            "2 of 14 clusters rejected. cluster \"svc-a\": connect_timeout: must be positive\n\
             cluster \"b\": connect_timeout: unknown"
        );
        let detail = ResourceError::decode(status.details[1].value.as_slice()).unwrap();
        assert_eq!(detail.resource_name.unwrap().name, "b");
        let status = whole(Some(ResourceType::RouteConfiguration), "why");
        assert_eq!(status.message, "response of routes rejected. why");
        assert_eq!(whole(None, "why").message, "response rejected. why");
    }

    /// At most 4 KiB, however much is wrong, and never half a character.
    #[test]
    fn a_refusal_is_bounded() {
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "ж".repeat(5000));
            let faults: Vec<Rejected> = (0..500).map(|_| fault(&long, &long)).collect();
            let status = some(ResourceType::Cluster, 500, &faults);
            assert!(status.message.len() <= LONGEST);
            assert!(status.message.starts_with("500 of 500 clusters rejected."));
            assert!(status.message.ends_with('…'));
            assert!(status.encoded_len() < 4 * LONGEST);
            assert!(whole(None, &long).message.len() <= LONGEST);
        }
        let many: Vec<Rejected> = (0..1000).map(|n| fault(&n.to_string(), "bad")).collect();
        let status = some(ResourceType::Cluster, 1000, &many);
        assert!(status.message.len() <= LONGEST && status.details.len() == DETAILS);
    }
}
