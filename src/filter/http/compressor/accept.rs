//! Which of the codings on offer a client gets (RFC 9110 section 12.5.3), as Envoy chooses.

/// A coding on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'c> {
    pub name: &'c str,
    /// Goes before others that are wanted as much.
    pub first: bool,
}

impl<'c> Choice<'c> {
    /// As filter state has it.
    pub fn written(text: &'c str) -> Self {
        let first = text.strip_suffix('!');
        Self {
            name: first.unwrap_or(text),
            first: first.is_some(),
        }
    }
}

/// Nothing: the body stays as it is.
pub fn choose<'c>(accepted: &str, offered: &[Choice<'c>]) -> Option<&'c str> {
    let wanted: Vec<(&str, f32)> = accepted.split(',').filter_map(wanted).collect();
    let is_named = |name: &str| wanted.iter().any(|(w, _)| w.eq_ignore_ascii_case(name));
    let mut best: Option<(Choice<'c>, f32)> = None;
    let mut identity = 0.0;
    for (name, weight) in &wanted {
        if *weight <= 0.0 {
            continue;
        }
        if name.eq_ignore_ascii_case("identity") {
            identity = *weight;
            continue;
        }
        let found = match *name {
            "*" => offered.iter().find(|choice| !is_named(choice.name)),
            name => offered
                .iter()
                .find(|choice| choice.name.eq_ignore_ascii_case(name)),
        };
        let Some(choice) = found else { continue };
        let better = best.is_none_or(|(other, most)| {
            *weight > most || (*weight == most && choice.first && !other.first)
        });
        if better {
            best = Some((*choice, *weight));
        }
    }
    let (choice, weight) = best?;
    (weight >= identity).then_some(choice.name)
}

/// One coding of `accept-encoding`, and how much it is wanted.
fn wanted(part: &str) -> Option<(&str, f32)> {
    let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
    let name = name.trim();
    let mut weight = 1.0;
    for parameter in parameters.split(';') {
        if let Some((key, value)) = parameter.split_once('=')
            && key.trim().eq_ignore_ascii_case("q")
        {
            weight = value
                .trim()
                .parse()
                .ok()
                .filter(|w| (0.0..=1.0).contains(w))?;
        }
    }
    (!name.is_empty()).then_some((name, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accepted: &str) -> Option<&'static str> {
        const OFFERED: [&str; 2] = ["gzip", "br"];
        let offered: Vec<_> = OFFERED.iter().map(|name| Choice::written(name)).collect();
        choose(accepted, &offered)
    }

    #[test]
    fn the_client_decides() {
        for (accepted, chosen) in [
            ("gzip", Some("gzip")),
            ("br", Some("br")),
            ("GZIP", Some("gzip")),
            ("zstd, br;q=0.5", Some("br")),
            ("br, gzip", Some("br")),
            ("gzip, br", Some("gzip")),
            ("br;q=0.4, gzip;q=0.5", Some("gzip")),
            ("*", Some("gzip")),
            ("gzip;q=0, *", Some("br")),
            ("gzip;q=0, *;q=0.1, br;q=0", None),
            ("identity", None),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some("gzip")),
            ("", None),
            ("deflate", None),
            ("gzip;q=x", None),
            ("gzip;q=2", None),
        ] {
            assert_eq!(of(accepted), chosen, "{accepted}");
        }
    }

    #[test]
    fn one_may_go_before_equals() {
        let offered = [Choice::written("gzip"), Choice::written("br!")];
        assert_eq!(choose("gzip, br", &offered), Some("br"));
        assert_eq!(choose("gzip, br;q=0.9", &offered), Some("gzip"));
    }
}
