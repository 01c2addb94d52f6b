//! Consistent hashing: the same mapping from a hash to an endpoint as Envoy's, for the same
//! endpoints, so that proxies of both kinds send a user to the same place.

use causeway_xds::resource::cluster::{HashFunction, Maglev, RingHash};
use xxhash_rust::xxh64::xxh64;

use self::murmur::murmur_hash;

mod murmur;

/// What is hashed for an endpoint, and its share of the traffic; shares add up to 1.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What the table answers with.
    pub index: u32,
    pub key: String,
    pub share: f64,
}

#[derive(Debug)]
pub enum HashTable {
    /// Points in order of their hash; one belongs to the hashes up to it.
    Ring(Box<[(u64, u32)]>),
    Maglev(Box<[u32]>),
}

impl HashTable {
    /// As many points for each candidate as its share says, the least one having a whole number of
    /// them.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes are below 2^23"
    )]
    pub fn ring(candidates: &[Candidate], config: &RingHash) -> Self {
        let least = candidates.iter().map(|c| c.share).fold(1.0, f64::min);
        let scale = (least * config.minimum_size as f64).ceil() / least;
        let scale = scale.min(config.maximum_size as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        // Running sums, because shares of points are no whole numbers.
        let (mut there, mut wanted) = (0.0, 0.0);
        let mut text = String::new();
        for candidate in candidates {
            wanted += scale * candidate.share;
            text.clear();
            text.push_str(&candidate.key);
            text.push('_');
            let stem = text.len();
            let mut number = 0_u32;
            while there < wanted {
                text.truncate(stem);
                text.push_str(&number.to_string());
                let hash = match config.function {
                    HashFunction::XxHash => xxh64(text.as_bytes(), 0),
                    HashFunction::MurmurHash2 => murmur_hash(text.as_bytes()),
                };
                points.push((hash, candidate.index));
                number += 1;
                there += 1.0;
            }
        }
        points.sort_by_key(|(hash, _)| *hash);
        Self::Ring(points.into())
    }

    /// Listing 1 of the Maglev paper, with weights: a candidate takes its turn in those rounds that
    /// its share, relative to the largest one, gives it.
    #[expect(clippy::cast_precision_loss, reason = "rounds are below 2^23")]
    pub fn maglev(candidates: &[Candidate], config: &Maglev) -> Self {
        struct Entry {
            index: u32,
            offset: u64,
            skip: u64,
            share: f64,
            wanted: f64,
            next: u64,
        }
        let size = config.table_size;
        // The table depends on the order of the entries, and must not on that of the list.
        let mut sorted: Vec<&Candidate> = candidates.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut entries: Vec<Entry> = sorted
            .iter()
            .map(|candidate| Entry {
                index: candidate.index,
                offset: xxh64(candidate.key.as_bytes(), 0) % size,
                skip: xxh64(candidate.key.as_bytes(), 1) % (size - 1).max(1) + 1,
                share: candidate.share,
                wanted: 0.0,
                next: 0,
            })
            .collect();
        let most = entries.iter().map(|e| e.share).fold(0.0, f64::max);
        let places = usize::try_from(size).unwrap_or(usize::MAX);
        let mut table = vec![u32::MAX; places];
        let mut left = if entries.is_empty() { 0 } else { places };
        let mut round = 1_u64;
        while left > 0 {
            for entry in &mut entries {
                if left == 0 {
                    break;
                }
                if (round as f64) * entry.share < entry.wanted {
                    continue;
                }
                entry.wanted += most;
                // The skip and the prime size have no common divisor: every place comes up.
                let place = loop {
                    let place = (entry.offset + entry.skip * entry.next) % size;
                    entry.next += 1;
                    let place = usize::try_from(place).unwrap_or(usize::MAX);
                    if table[place] == u32::MAX {
                        break place;
                    }
                };
                table[place] = entry.index;
                left -= 1;
            }
            round += 1;
        }
        if entries.is_empty() {
            table.clear();
        }
        Self::Maglev(table.into())
    }

    /// The candidate of a hash; `None` when there is no candidate at all.
    pub fn get(&self, hash: u64) -> Option<u32> {
        match self {
            Self::Ring(points) => {
                let place = points.partition_point(|(point, _)| *point < hash);
                let (_, index) = points.get(place).or_else(|| points.first())?;
                Some(*index)
            }
            Self::Maglev(table) => {
                let place = hash.checked_rem(table.len() as u64)?;
                table.get(usize::try_from(place).ok()?).copied()
            }
        }
    }
}

#[cfg(test)]
mod tests;
