//! Slow start: new endpoints get their share little by little.

use std::time::Duration;

use crate::proto;
use crate::proto::core::RuntimeDouble;
use crate::proto::envoy::config::cluster::v3::cluster::SlowStartConfig as Classic;
use crate::proto::envoy::extensions::load_balancing_policies::common::v3::SlowStartConfig as Listed;
use crate::proto::envoy::r#type::v3::Percent;
use crate::reject::Invalid;
use crate::resource::context::{At, duration, not_empty, percent};

/// `SlowStartConfig` of round robin and least request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes, from the moment on that an endpoint is known or passes its health checks.
    /// At least 1 ms (`slow_start_window`).
    pub window: Duration,
    /// 1 lets the share grow evenly, more lets it grow fast at first. Above 0; default 1.
    pub aggression: f64,
    /// The least part of its share that an endpoint gets, 0 to 1. Default 0.1
    /// (`min_weight_percent`).
    pub least: f64,
}

impl SlowStart {
    pub(super) fn classic(message: Option<Classic>) -> Result<Option<Self>, Invalid> {
        message.map_or(Ok(None), |message| {
            let Classic {
                slow_start_window,
                aggression,
                min_weight_percent,
            } = message;
            Self::decode(slow_start_window, aggression, min_weight_percent).at(FIELD)
        })
    }

    pub(super) fn listed(message: Option<Listed>) -> Result<Option<Self>, Invalid> {
        message.map_or(Ok(None), |message| {
            let Listed {
                slow_start_window,
                aggression,
                min_weight_percent,
            } = message;
            Self::decode(slow_start_window, aggression, min_weight_percent).at(FIELD)
        })
    }

    /// Nothing without a window.
    fn decode(
        window: Option<proto::Duration>,
        aggression: Option<RuntimeDouble>,
        least: Option<Percent>,
    ) -> Result<Option<Self>, Invalid> {
        const LEAST: f64 = 10.0;
        let window = duration(window, "slow_start_window")?.unwrap_or_default();
        let aggression = aggression.map_or(Ok(1.0), read).at("aggression")?;
        let least = percent(least, "min_weight_percent")?.unwrap_or(LEAST) / 100.0;
        Ok((window >= Duration::from_millis(1)).then_some(Self {
            window,
            aggression,
            least,
        }))
    }
}

const FIELD: &str = "slow_start_config";

/// Only the default is read: the runtime has no decimal numbers.
fn read(message: RuntimeDouble) -> Result<f64, Invalid> {
    let RuntimeDouble {
        default_value,
        runtime_key,
    } = message;
    not_empty(runtime_key, "runtime_key")?;
    match default_value > 0.0 && default_value.is_finite() {
        true => Ok(default_value),
        false => Err(Invalid::at("default_value", "must be above 0")),
    }
}
