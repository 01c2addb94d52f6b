//! How traffic is shared between priorities: a lower number takes all it can, those after it the rest.
//!
//! The arithmetic is Envoy's, whole percents and all, so that a failover happens at the same point.

/// Endpoints of one priority, counted; or their weights added up, where that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub healthy: u64,
    pub degraded: u64,
    pub total: u64,
}

/// What a priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Percent of all traffic, for healthy endpoints.
    pub healthy: u64,
    /// Percent of all traffic, for degraded ones.
    pub degraded: u64,
    /// So few are available that health is not looked at.
    pub panic: bool,
}

/// The loads of all priorities; they add up to 100. `weights` are what health is measured by,
/// `numbers` what panic is.
pub fn loads(
    weights: &[Counts],
    numbers: &[Counts],
    overprovisioning: u32,
    threshold: f64,
) -> Vec<Load> {
    let capacity = |part: u64, total: u64| {
        let percent = u64::from(overprovisioning)
            .saturating_mul(part)
            .checked_div(total);
        percent.unwrap_or_default().min(100)
    };
    let healthy: Vec<u64> = weights
        .iter()
        .map(|c| capacity(c.healthy, c.total))
        .collect();
    let degraded: Vec<u64> = weights
        .iter()
        .map(|c| capacity(c.degraded, c.total))
        .collect();
    let sum: u64 = healthy.iter().chain(&degraded).sum();
    let available = sum.min(100);

    let mut loads = vec![Load::default(); weights.len()];
    let Some(first) = loads.first_mut() else {
        return loads;
    };
    let share = |capacity: u64| (capacity * 100).checked_div(available);
    if share(0).is_none() {
        first.healthy = 100;
    } else {
        let mut left = 100;
        for (load, healthy) in loads.iter_mut().zip(&healthy) {
            load.healthy = share(*healthy).unwrap_or_default().min(left);
            left -= load.healthy;
        }
        for (load, degraded) in loads.iter_mut().zip(&degraded) {
            load.degraded = share(*degraded).unwrap_or_default().min(left);
            left -= load.degraded;
        }
        // What rounding left over goes to the first that takes anything.
        if let Some(load) = loads.iter_mut().find(|l| l.healthy > 0) {
            load.healthy += left;
        } else if let Some(load) = loads.iter_mut().find(|l| l.degraded > 0) {
            load.degraded += left;
        }
    }
    if (threshold == 0.0 && available == 0) || available == 100 {
        return loads;
    }
    for (load, count) in loads.iter_mut().zip(numbers) {
        load.panic = percent(count.healthy + count.degraded, count.total) < threshold;
    }
    if loads.iter().all(|load| load.panic) {
        in_total_panic(&mut loads, numbers);
    }
    loads
}

/// Nobody knows better: every endpoint counts.
fn in_total_panic(loads: &mut [Load], numbers: &[Counts]) {
    let total: u64 = numbers.iter().map(|c| c.total).sum();
    let mut left = 100;
    for (load, count) in loads.iter_mut().zip(numbers) {
        load.healthy = (100 * count.total).checked_div(total).unwrap_or_default();
        load.degraded = 0;
        left -= load.healthy;
    }
    let mut pairs = loads.iter_mut().zip(numbers);
    if let Some((load, _)) = pairs.find(|(_, count)| count.total > 0) {
        load.healthy += left;
    } else if let Some(first) = loads.first_mut() {
        first.healthy = 100;
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
fn percent(part: u64, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => 100.0 * part as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: &[(u64, u64, u64)], threshold: f64) -> Vec<(u64, u64, bool)> {
        let counts: Vec<Counts> = counts
            .iter()
            .map(|(healthy, degraded, total)| Counts {
                healthy: *healthy,
                degraded: *degraded,
                total: *total,
            })
            .collect();
        let loads = loads(&counts, &counts, 140, threshold);
        let all: u64 = loads.iter().map(|l| l.healthy + l.degraded).sum();
        assert_eq!(all, if counts.is_empty() { 0 } else { 100 });
        loads
            .iter()
            .map(|l| (l.healthy, l.degraded, l.panic))
            .collect()
    }

    #[test]
    fn a_priority_overflows_when_too_few_of_it_are_healthy() {
        assert_eq!(of(&[(3, 0, 4), (1, 0, 1)], 50.0)[0], (100, 0, false));
        let half = [(1, 0, 2), (1, 0, 1)];
        assert_eq!(of(&half, 50.0), [(70, 0, false), (30, 0, false)]);
        let none = [(0, 0, 2), (1, 0, 1), (1, 0, 1)];
        assert_eq!(of(&none, 50.0)[1], (100, 0, false));
    }

    #[test]
    fn degraded_endpoints_take_what_healthy_ones_cannot() {
        assert_eq!(of(&[(1, 1, 2)], 50.0), [(70, 30, false)]);
        assert_eq!(of(&[(0, 2, 2)], 50.0), [(0, 100, false)]);
    }

    #[test]
    fn panic_sets_in_below_the_threshold_and_shares_by_number() {
        assert_eq!(of(&[(1, 0, 3)], 50.0), [(100, 0, true)]);
        assert_eq!(of(&[(1, 0, 3)], 0.0), [(100, 0, false)]);
        assert_eq!(of(&[(0, 0, 2)], 0.0), [(100, 0, false)]);
        assert_eq!(
            of(&[(0, 0, 3), (0, 0, 1)], 50.0),
            [(75, 0, true), (25, 0, true)]
        );
        assert_eq!(
            of(&[(0, 0, 0), (0, 0, 1)], 50.0),
            [(0, 0, true), (100, 0, true)]
        );
        assert_eq!(of(&[(0, 0, 0)], 50.0), [(100, 0, true)]);
        assert!(of(&[], 50.0).is_empty());
    }
}
