//! From what the replicas of a model service say to what the Manager reads.

use serde_json::{Map, Value, json};

use super::text::{Families, Family, Histogram};

/// The prefix of the families that count, for the servers whose metrics are read at all. An empty
/// one takes every family.
pub fn prefix(runtime_variant: &str) -> Option<&'static str> {
    match runtime_variant {
        "vllm" => Some("vllm:"),
        "sglang" => Some("sglang:"),
        "modular-max" => Some("max:"),
        "huggingface-tgi" => Some(""),
        _ => None,
    }
}

/// Keeps the families of a prefix; a colon has no place in the names that are read.
pub fn select(families: Families, prefix: &str) -> Families {
    let renamed = |name: String| match prefix.strip_suffix(':') {
        Some(word) => format!("{word}_{}", &name[prefix.len()..]),
        None => name,
    };
    let kept = families.into_iter();
    let kept = kept.filter(|(name, _)| name.starts_with(prefix));
    kept.map(|(name, family)| (renamed(name), family)).collect()
}

/// Adds up what the replicas say, family by family.
pub fn sum<'a>(replicas: impl IntoIterator<Item = &'a Families>) -> Families {
    let mut total = Families::new();
    for families in replicas {
        for (name, family) in families {
            match (total.get_mut(name), family) {
                (None, family) => {
                    total.insert(name.clone(), family.clone());
                }
                (Some(Family::Value(total)), Family::Value(value)) => *total += value,
                (Some(Family::Histogram(total)), Family::Histogram(more)) => add(total, more),
                // Replicas of different versions; the first one's word stands.
                (Some(_), _) => {}
            }
        }
    }
    total
}

fn add(total: &mut Histogram, more: &Histogram) {
    total.count += more.count;
    total.sum += more.sum;
    for (bound, value) in &more.buckets {
        match total.buckets.iter_mut().find(|(known, _)| known == bound) {
            Some((_, sum)) => *sum += value,
            None => total.buckets.push((bound.clone(), *value)),
        }
    }
}

/// The value of a key: a msgpack map by metric.
pub fn encode(families: &Families) -> Vec<u8> {
    let metrics: Map<String, Value> = families
        .iter()
        .map(|(name, family)| (name.clone(), metric(family)))
        .collect();
    rmp_serde::to_vec(&metrics).expect("JSON values can be written")
}

fn metric(family: &Family) -> Value {
    match family {
        // Counters too: whoever reads them takes the rate.
        Family::Value(value) => json!({
            "__type": "GAUGE",
            "current": decimal(*value),
            "capacity": null,
            "pct": "0.00",
            "unit_hint": "count",
        }),
        Family::Histogram(histogram) => {
            let buckets = histogram.buckets.iter();
            let buckets = buckets.map(|(bound, value)| (bound.clone(), json!(decimal(*value))));
            json!({
                "__type": "HISTOGRAM",
                "current": buckets.collect::<Map<_, _>>(),
                "threshold_unit": "le",
                // Saturates, as counts beyond 64 bits do not occur.
                "count": histogram.count as i64,
                "sum": decimal(histogram.sum),
            })
        }
    }
}

/// At most three places, without zeros at the end.
fn decimal(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::text::parse;
    use super::*;

    fn replica(running: u32, bucket: u32) -> Families {
        let text = format!(
            "# TYPE vllm:running gauge\nvllm:running {running}.5\n\
             # TYPE vllm:ttft histogram\nvllm:ttft_bucket{{le=\"1.0\"}} {bucket}\n\
             vllm:ttft_count {bucket}\nvllm:ttft_sum 0.25\n\
             # TYPE python_gc gauge\npython_gc 1\n"
        );
        select(parse(&text), "vllm:")
    }

    #[test]
    fn replicas_are_summed_and_written_as_the_manager_reads_them() {
        let total = sum([&replica(1, 2), &replica(2, 3)]);
        let read: Value = rmp_serde::from_slice(&encode(&total)).unwrap();
        assert_eq!(
            read,
            json!({
                "vllm_running": {"__type": "GAUGE", "current": "4", "capacity": null,
                    "pct": "0.00", "unit_hint": "count"},
                "vllm_ttft": {"__type": "HISTOGRAM", "current": {"1.0": "5"},
                    "threshold_unit": "le", "count": 5, "sum": "0.5"},
            })
        );
    }

    #[test]
    fn only_known_servers_are_asked_and_some_in_full() {
        assert_eq!(prefix("custom"), None);
        let all = parse("# TYPE tgi_queue gauge\ntgi_queue 1\n");
        assert_eq!(select(all.clone(), prefix("huggingface-tgi").unwrap()), all);
        assert!(select(all, prefix("modular-max").unwrap()).is_empty());
    }

    #[test]
    fn decimals_are_short() {
        for (value, text) in [
            (12.3, "12.3"),
            (100.0, "100"),
            (0.0, "0"),
            (-0.0001, "0"),
            (1.23456, "1.235"),
            (1e15, "1000000000000000"),
        ] {
            assert_eq!(decimal(value), text);
        }
    }
}
