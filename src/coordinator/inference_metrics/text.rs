//! Prometheus' text format, as far as it is needed here.

use std::collections::BTreeMap;

/// What one replica says of itself, by family. Counters are named without `_total`, the way they
/// are known to those who read the result.
pub type Families = BTreeMap<String, Family>;

#[derive(Clone, Debug, PartialEq)]
pub enum Family {
    /// A gauge or a counter.
    Value(f64),
    Histogram(Histogram),
}

/// What is told by a container of some user, who may tell anything. Real servers have a tenth.
const MAX_FAMILIES: usize = 1000;
const MAX_BUCKETS: usize = 256;

/// Buckets in their order, by upper bound as it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub buckets: Vec<(String, f64)>,
    pub count: f64,
    pub sum: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

/// A line with a value.
struct Sample<'a> {
    name: &'a str,
    /// `le`, if it has one.
    bound: Option<String>,
    /// All other labels, to tell one set of them from the next.
    labels: String,
    value: f64,
}

/// Reads what it understands: gauges, counters and histograms that say what they are, each with its
/// first set of labels. Everything else is passed over, and so are values that are no numbers.
pub fn parse(text: &str) -> Families {
    let mut families = Families::new();
    let mut current: Option<(&str, Kind)> = None;
    let mut labels: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_whitespace();
            if words.next() == Some("TYPE") {
                current = family(words.next(), words.next());
                if families.len() >= MAX_FAMILIES {
                    break;
                }
                labels = None;
            }
            continue;
        }
        let (Some((name, kind)), Some(sample)) = (current, sample(line)) else {
            continue;
        };
        let Some(part) = sample.name.strip_prefix(name) else {
            continue;
        };
        if labels.get_or_insert_with(|| sample.labels.clone()) != &sample.labels {
            continue;
        }
        match (kind, part) {
            (Kind::Gauge, "") => first(&mut families, name, sample.value),
            (Kind::Counter, "" | "_total") => {
                let name = name.strip_suffix("_total").unwrap_or(name);
                first(&mut families, name, sample.value);
            }
            (Kind::Histogram, "_bucket" | "_count" | "_sum") => {
                let empty = || Family::Histogram(Histogram::default());
                let family = families.entry(name.to_owned()).or_insert_with(empty);
                if let Family::Histogram(histogram) = family {
                    match (part, sample.bound) {
                        ("_bucket", Some(bound)) if histogram.buckets.len() < MAX_BUCKETS => {
                            histogram.buckets.push((bound, sample.value));
                        }
                        ("_count", _) => histogram.count = sample.value,
                        ("_sum", _) => histogram.sum = sample.value,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    families
}

fn first(families: &mut Families, name: &str, value: f64) {
    let family = families.entry(name.to_owned());
    family.or_insert(Family::Value(value));
}

fn family<'a>(name: Option<&'a str>, kind: Option<&str>) -> Option<(&'a str, Kind)> {
    let kind = match kind? {
        "gauge" => Kind::Gauge,
        "counter" => Kind::Counter,
        "histogram" => Kind::Histogram,
        _ => return None,
    };
    Some((name?, kind))
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    let mut bound = None;
    let mut others = String::new();
    for (label, text) in labels {
        if label == "le" {
            bound = Some(text);
        } else {
            others.push_str(label);
            others.push('=');
            others.push_str(&text);
            others.push('\n');
        }
    }
    value.is_finite().then_some(Sample {
        name,
        bound,
        labels: others,
        value,
    })
}

type Labels<'a> = Vec<(&'a str, String)>;

/// The labels up to the closing brace, and what follows it.
fn read_labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (label, quoted) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        labels.push((label.trim(), text));
        rest = &quoted[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="a, \"b\" }",engine="0"} 3.0
vllm:num_requests_running{model_name="other"} 9.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="a"} 1.5e+03 1795509863000
# TYPE vllm:ttft histogram
vllm:ttft_bucket{le="0.1",model_name="a"} 1
vllm:ttft_bucket{model_name="a",le="+Inf"} 4
vllm:ttft_count{model_name="a"} 4
vllm:ttft_sum{model_name="a"} 2.25
vllm:ttft_bucket{le="0.1",model_name="b"} 7
# TYPE nothing gauge
nothing NaN
# TYPE quantiles summary
quantiles{quantile="0.5"} 1
# TYPE plain gauge
plain 1
untyped 2
"#;

    #[test]
    fn families_are_read_with_their_first_labels() {
        let families = parse(TEXT);
        let histogram = Histogram {
            buckets: vec![("0.1".to_owned(), 1.0), ("+Inf".to_owned(), 4.0)],
            count: 4.0,
            sum: 2.25,
        };
        let expected = [
            ("plain", Family::Value(1.0)),
            ("vllm:num_requests_running", Family::Value(3.0)),
            ("vllm:prompt_tokens", Family::Value(1500.0)),
            ("vllm:ttft", Family::Histogram(histogram)),
        ];
        let expected = expected.map(|(name, family)| (name.to_owned(), family));
        assert_eq!(families, Families::from(expected));
    }

    #[test]
    fn families_and_buckets_are_bounded() {
        let many = |n: usize| format!("# TYPE f{n} gauge\nf{n} 1\n");
        let text: String = (0..MAX_FAMILIES + 5).map(many).collect();
        assert_eq!(parse(&text).len(), MAX_FAMILIES);
        let bucket = |n: usize| format!("h_bucket{{le=\"{n}\"}} 1\n");
        let buckets: String = (0..MAX_BUCKETS + 5).map(bucket).collect();
        match &parse(&format!("# TYPE h histogram\n{buckets}"))["h"] {
            Family::Histogram(histogram) => assert_eq!(histogram.buckets.len(), MAX_BUCKETS),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_cut_anywhere_is_read_as_far_as_it_goes() {
        for at in (0..TEXT.len()).filter(|at| TEXT.is_char_boundary(*at)) {
            parse(&TEXT[..at]);
            parse(&TEXT[at..]);
        }
        assert!(parse("# TYPE a gauge\na{b=\"\\").is_empty());
        assert!(parse("# TYPE\n# TYPE a\n{ 1\n").is_empty());
    }
}
