//! Shares of requests (`RuntimeFractionalPercent`).

use super::context::{At, enumeration, required};
use crate::proto::core::RuntimeFractionalPercent;
use crate::proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use crate::reject::Invalid;

/// `envoy.config.core.v3.RuntimeFractionalPercent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFraction {
    pub default: Fraction,
    /// The key of the runtime that overrides `default`; may be empty.
    pub runtime_key: String,
}

/// `envoy.type.v3.FractionalPercent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    /// 100, 10 000 or 1 000 000.
    pub denominator: u32,
}

impl Fraction {
    /// Whether a request with this random number is part of the share.
    pub fn takes(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

impl RuntimeFraction {
    pub(crate) fn decode(message: RuntimeFractionalPercent) -> Result<Self, Invalid> {
        let RuntimeFractionalPercent {
            default_value,
            runtime_key,
        } = message;
        let FractionalPercent {
            numerator,
            denominator,
        } = required(default_value, "default_value")?;
        let denominator = match enumeration(denominator, "denominator").at("default_value")? {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Ok(Self {
            default: Fraction {
                numerator,
                denominator,
            },
            runtime_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_counted_in_its_own_unit() {
        let of = |numerator, denominator| Fraction {
            numerator,
            denominator,
        };
        let taken = |share: Fraction| (0..1_000_000).filter(|n| share.takes(*n)).count();
        assert_eq!(taken(of(0, 100)), 0);
        assert_eq!(taken(of(100, 100)), 1_000_000);
        assert_eq!(taken(of(30, 100)), 300_000);
        assert_eq!(taken(of(25, 10_000)), 2_500);
        assert_eq!(taken(of(7, 1_000_000)), 7);
    }
}
