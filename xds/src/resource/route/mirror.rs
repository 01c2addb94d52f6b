//! Copies of requests: message to typed.

use super::ClusterName;
use crate::proto::route::route_action::RequestMirrorPolicy;
use crate::reject::Invalid;
use crate::resource::context::{At, Context, accept, each, refuse};
use crate::resource::fraction::RuntimeFraction;
use crate::resource::headers::header_value;

/// `envoy.config.route.v3.RouteAction.RequestMirrorPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub cluster: ClusterName,
    /// Of which share of the requests a copy is sent; `None` is all of them.
    pub fraction: Option<RuntimeFraction>,
    /// The host as it is, without `-shadow` (`disable_shadow_host_suffix_append`).
    pub keep_host: bool,
    /// `host_rewrite_literal`.
    pub host: Option<String>,
}

impl Mirror {
    pub(super) fn decode_all(
        messages: Vec<RequestMirrorPolicy>,
        ctx: &Context<'_>,
    ) -> Result<Vec<Self>, Invalid> {
        each("request_mirror_policies", messages, |m| {
            Self::decode(m, ctx)
        })
    }

    fn decode(message: RequestMirrorPolicy, ctx: &Context<'_>) -> Result<Self, Invalid> {
        let RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            trace_sampled,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = message;
        refuse!(request_headers_mutations);
        accept!(ctx, "RequestMirrorPolicy": trace_sampled);
        header_value(&host_rewrite_literal).at("host_rewrite_literal")?;
        Ok(Self {
            cluster: ClusterName::either(cluster, cluster_header, "cluster")?,
            fraction: runtime_fraction
                .map(RuntimeFraction::decode)
                .transpose()
                .at("runtime_fraction")?,
            keep_host: disable_shadow_host_suffix_append,
            host: (!host_rewrite_literal.is_empty()).then_some(host_rewrite_literal),
        })
    }
}
