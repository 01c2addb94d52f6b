//! What requests say of the proxies that send them on (`add_user_agent`).

use causeway_xds::proto::core::Node;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, USER_AGENT};

const SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// The names of this program.
#[derive(Debug)]
pub struct Agent {
    cluster: HeaderValue,
    node: Option<HeaderValue>,
}

impl Agent {
    /// `None` where the cluster has no name, or one that no field can hold.
    pub fn new(cluster: &str, node: Option<&Node>) -> Option<Self> {
        let value = |text: &str| {
            let value = HeaderValue::from_str(text).ok();
            value.filter(|value| !value.is_empty())
        };
        Some(Self {
            cluster: value(cluster)?,
            node: node.and_then(|node| value(&node.id)),
        })
    }

    /// A client that says what it is keeps that.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if headers.get(USER_AGENT).is_none_or(HeaderValue::is_empty) {
            headers.insert(USER_AGENT, self.cluster.clone());
        }
        headers.insert(SERVICE_CLUSTER, self.cluster.clone());
        if let Some(node) = &self.node {
            headers.insert(SERVICE_NODE, node.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_the_name_that_it_has() {
        assert!(Agent::new("", None).is_none());
        let node = Node {
            id: "n-1".to_owned(),
            ..Node::default()
        };
        let agent = Agent::new("front", Some(&node)).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(SERVICE_CLUSTER, HeaderValue::from_static("forged"));
        agent.tell(&mut headers);
        assert_eq!(headers[USER_AGENT], "front");
        assert_eq!(headers[SERVICE_CLUSTER], "front");
        assert_eq!(headers[SERVICE_NODE], "n-1");
        headers.insert(USER_AGENT, HeaderValue::from_static("curl"));
        agent.tell(&mut headers);
        assert_eq!(headers[USER_AGENT], "curl");
    }
}
