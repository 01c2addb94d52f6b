//! `forward_client_cert_details` and `set_current_client_cert_details`: message to typed.

use super::{CertDetails, ClientCert};
use crate::proto::hcm::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};
use crate::reject::Invalid;
use crate::resource::context::{At, enumeration, flag, refuse};

impl ClientCert {
    pub(super) fn decode(
        mode: i32,
        details: Option<SetCurrentClientCertDetails>,
    ) -> Result<Self, Invalid> {
        let details = CertDetails::decode(details.unwrap_or_default());
        let details = details.at("set_current_client_cert_details")?;
        Ok(match enumeration(mode, "forward_client_cert_details")? {
            ForwardClientCertDetails::Sanitize => Self::Sanitize,
            ForwardClientCertDetails::ForwardOnly => Self::ForwardOnly,
            ForwardClientCertDetails::AppendForward => Self::AppendForward(details),
            ForwardClientCertDetails::SanitizeSet => Self::SanitizeSet(details),
            ForwardClientCertDetails::AlwaysForwardOnly => Self::AlwaysForwardOnly,
        })
    }
}

impl CertDetails {
    fn decode(message: SetCurrentClientCertDetails) -> Result<Self, Invalid> {
        let SetCurrentClientCertDetails {
            subject,
            cert,
            chain,
            dns,
            uri,
            issuer,
            format,
        } = message;
        refuse!(issuer, format);
        Ok(Self {
            cert,
            chain,
            subject: flag(subject, false),
            uri,
            dns,
        })
    }
}
