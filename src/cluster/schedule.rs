//! The order in which weights make things come up.

/// Turns of the longest schedule; larger weights are scaled down to fit.
const MAX_TURNS: u64 = 8192;

/// Indexes of `weights`, one turn after the other: each as often as its weight says, spread evenly.
///
/// Earliest deadline first: turn `n` of weight `w` is due at `n / w`. Equal deadlines go in the
/// order of the list.
pub fn schedule(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|w| u64::from(w / divisor)).sum();
    let scale = total.div_ceil(MAX_TURNS).max(1);
    let reduced: Vec<u64> = weights
        .iter()
        .map(|w| match *w {
            0 => 0,
            w => (u64::from(w / divisor) / scale).max(1),
        })
        .collect();
    let mut turns: Vec<(u64, u64, u32)> = Vec::new();
    for (i, weight) in reduced.iter().enumerate() {
        let Ok(index) = u32::try_from(i) else { break };
        turns.extend((1..=*weight).map(|n| (n, *weight, index)));
    }
    // n1/w1 < n2/w2 without division.
    turns.sort_by(|(n1, w1, i1), (n2, w2, i2)| (n1 * w2).cmp(&(n2 * w1)).then(i1.cmp(i2)));
    turns.into_iter().map(|(_, _, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_weights_and_spread_evenly() {
        assert_eq!(schedule(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(schedule(&[500, 500]), [0, 1]);
        let weighted = schedule(&[3, 1]);
        assert_eq!(weighted.len(), 4);
        assert_eq!(weighted.iter().filter(|i| **i == 0).count(), 3);
        assert_eq!(schedule(&[0, 2]), [1]);
        assert_eq!(schedule(&[0, 2, 4]).len(), 3);
        assert!(schedule(&[]).is_empty());
        assert!(schedule(&[u32::MAX, 1]).len() <= 8194);
    }
}
