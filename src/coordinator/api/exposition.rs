//! Writes the text form that Prometheus reads.

use std::fmt::{Display, Write};

/// A text being written, family by family.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// Labels of a sample, in the order in which they are shown.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// One distribution: cumulative counts by upper bound, without the last bucket, which is `count`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Exposition {
    /// A counter; `_total` is added to the name. No samples: no family.
    pub fn counter<'s, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, V)>,
    ) {
        self.family(&format!("{name}_total"), "counter", help, samples);
    }

    pub fn gauge<'s, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, V)>,
    ) {
        self.family(name, "gauge", help, samples);
    }

    pub fn histogram<'s, 'd>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, &'d Distribution)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (labels, distribution) in samples {
            for (bound, count) in &distribution.buckets {
                self.bucket(&bucket, labels, &bound.to_string(), *count);
            }
            self.bucket(&bucket, labels, "+Inf", distribution.count);
            self.sample(&format!("{name}_count"), labels, distribution.count);
            self.sample(&format!("{name}_sum"), labels, distribution.sum);
        }
    }

    /// What somebody else wrote, in this form or in OpenMetrics', whose mark of the end only the
    /// end may have.
    pub fn append(&mut self, text: &str) {
        let text = text.trim_end();
        self.0.push_str(text.strip_suffix("# EOF").unwrap_or(text));
        if !self.0.is_empty() && !self.0.ends_with('\n') {
            self.0.push('\n');
        }
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn family<'s, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s>, V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    // Writing to a string cannot fail, here and below.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn bucket(&mut self, name: &str, labels: Labels<'_>, bound: &str, count: u64) {
        let mut all = labels.to_vec();
        all.push(("le", bound));
        self.sample(name, &all, count);
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut out = Exposition::default();
        out.counter("calls", "Calls.", [(&[("to", "a\"\\\n")][..], 3)]);
        out.gauge("open", "Open.", [(&[][..], -1)]);
        out.gauge::<u8>("nothing", "Not shown.", []);
        let distribution = Distribution {
            buckets: vec![(0.005, 1), (10.0, 2)],
            count: 3,
            sum: 20.5,
        };
        out.histogram("took", "Took.", [(&[("to", "")][..], &distribution)]);
        out.append("# TYPE other gauge\nother 1\n# EOF\n");
        assert_eq!(
            out.into_text(),
            "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
             calls_total{to=\"a\\\"\\\\\\n\"} 3\n\
             # HELP open Open.\n# TYPE open gauge\nopen -1\n\
             # HELP took Took.\n# TYPE took histogram\n\
             took_bucket{to=\"\",le=\"0.005\"} 1\ntook_bucket{to=\"\",le=\"10\"} 2\n\
             took_bucket{to=\"\",le=\"+Inf\"} 3\ntook_count{to=\"\"} 3\ntook_sum{to=\"\"} 20.5\n\
             # TYPE other gauge\nother 1\n"
        );
    }
}
