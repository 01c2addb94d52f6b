//! MurmurHash64A, the 64-bit variant of MurmurHash2, with the seed that Envoy uses: that of
//! `std::hash` for text in the GNU library of C++.

const SEED: u64 = 0xc70f_6907;
const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;

pub(super) fn murmur_hash(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        hash = (hash ^ mixed(word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(MULTIPLIER);
    }
    mixed(mixed(hash).wrapping_mul(MULTIPLIER))
}

fn mixed(value: u64) -> u64 {
    value ^ (value >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_hash_as_in_the_library_of_c_plus_plus() {
        // Computed with `std::hash<std::string>` of libstdc++.
        for (text, wanted) in [
            ("", 6_142_509_188_972_423_790),
            ("a", 4_993_892_634_952_068_459),
            ("12345678", 10_113_836_418_918_046_885),
            ("10.0.0.1:80_0", 13_659_246_566_588_789_388),
            ("10.0.0.1:80_17", 4_437_040_220_721_654_695),
            ("node-a_1023", 17_412_332_440_769_639_848),
        ] {
            assert_eq!(murmur_hash(text.as_bytes()), wanted, "{text}");
        }
    }
}
