//! Slow start: endpoints that are new, or healthy again, get their share little by little.
//!
//! While one of the candidates is new, an endpoint is drawn by the weights of the moment instead of
//! taking its turn. Nothing of it is left afterwards.

use std::sync::Arc;

use causeway_xds::resource::cluster::{Policy, SlowStart as Model};

use super::hosts::MAX_DRAWS;
use crate::upstream::Endpoint;
use crate::upstream::endpoint::clock_ms;

#[derive(Debug)]
pub struct SlowStart {
    model: Model,
    window: u64,
    /// On [`clock_ms`]: nobody is new any more.
    until: u64,
}

impl SlowStart {
    /// `None`: nobody is new.
    pub fn of(model: &Model, all: &[Arc<Endpoint>], members: &[u32]) -> Option<Self> {
        let window = u64::try_from(model.window.as_millis()).unwrap_or(u64::MAX);
        let ends = members.iter().map(|place| {
            let since = all[*place as usize].fresh_since();
            since.saturating_add(window)
        });
        let until = ends.max().filter(|until| *until > clock_ms())?;
        Some(Self {
            model: *model,
            window,
            until,
        })
    }

    /// The place of an endpoint; `None`: all of them have their whole share.
    pub fn pick(&self, all: &[Arc<Endpoint>], members: &[u32], policy: &Policy) -> Option<u32> {
        let now = clock_ms();
        if now >= self.until {
            return None;
        }
        let draws = match policy {
            Policy::RoundRobin => 1,
            Policy::LeastRequest {
                choices: Some(choices),
            } => (*choices).min(MAX_DRAWS),
            _ => return None,
        };
        let busy = |place: u32| all[place as usize].stats.rq_active.value();
        let drawn = (0..draws).filter_map(|_| self.draw(all, members, now, fastrand::f64()));
        drawn.min_by_key(|place| busy(*place))
    }

    /// `point` is from 0 to below 1.
    fn draw(&self, all: &[Arc<Endpoint>], members: &[u32], now: u64, point: f64) -> Option<u32> {
        let weight = |place: &u32| {
            let endpoint = &all[*place as usize];
            let age = now.saturating_sub(endpoint.fresh_since());
            f64::from(endpoint.attributes.weight.max(1)) * self.part(age)
        };
        drawn(members, weight, point)
    }

    /// The part of its weight that an endpoint of this age has.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
    fn part(&self, age: u64) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.max(1) as f64 / self.window as f64;
        time.powf(1.0 / self.model.aggression).max(self.model.least)
    }
}

/// One of them by the weights of the moment; `point` is from 0 to below 1.
pub(super) fn drawn(
    members: &[u32],
    weight: impl Fn(&u32) -> f64 + Copy,
    point: f64,
) -> Option<u32> {
    let mut left = point * members.iter().map(weight).sum::<f64>();
    let found = members.iter().find(|place| {
        left -= weight(place);
        left < 0.0
    });
    // The sum may be missed by what rounding takes.
    found.or(members.last()).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn slow(aggression: f64, least: f64) -> SlowStart {
        let model = Model {
            window: Duration::from_secs(10),
            aggression,
            least,
        };
        SlowStart {
            model,
            window: 10_000,
            until: u64::MAX,
        }
    }

    #[test]
    fn a_share_grows_within_the_window_and_is_never_too_small() {
        let close = |part: f64, wanted: f64| (part - wanted).abs() < 1e-9;
        let even = slow(1.0, 0.1);
        for (age, wanted) in [
            (0, 0.1),
            (500, 0.1),
            (2_500, 0.25),
            (10_000, 1.0),
            (99_999, 1.0),
        ] {
            assert!(close(even.part(age), wanted), "{age}");
        }
        assert!(close(slow(2.0, 0.1).part(2_500), 0.5));
        assert!(close(slow(0.5, 0.0).part(5_000), 0.25));
    }
}
