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
    let is_named = |name: &str| wanted.iter().any(|(w, _)| *w == name);
    let mut best: Option<(Option<Choice<'c>>, f32)> = None;
    for (name, weight) in &wanted {
        if *weight <= 0.0 {
            continue;
        }
        let found = match *name {
            // To be left as it is may be what is wanted most.
            "identity" => None,
            "*" => match offered.iter().find(|choice| !is_named(choice.name)) {
                None => continue,
                found => found,
            },
            name => match offered.iter().find(|choice| choice.name == name) {
                None => continue,
                found => found,
            },
        };
        let goes_first = found.is_some_and(|choice| choice.first);
        let better = best.is_none_or(|(other, most)| {
            let other_first = other.is_some_and(|choice| choice.first);
            *weight > most || (*weight == most && goes_first && !other_first)
        });
        if better {
            best = Some((found.copied(), *weight));
        }
    }
    let (choice, _) = best?;
    choice.map(|choice| choice.name)
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
            ("GZIP", None),
            ("zstd, br;q=0.5", Some("br")),
            ("br, gzip", Some("br")),
            ("gzip, br", Some("gzip")),
            ("br;q=0.4, gzip;q=0.5", Some("gzip")),
            ("*", Some("gzip")),
            ("gzip;q=0, *", Some("br")),
            ("gzip;q=0, *;q=0.1, br;q=0", None),
            ("identity", None),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", None),
            ("gzip;q=0.5, identity;q=0.5", Some("gzip")),
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
