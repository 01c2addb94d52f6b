//! Extensions of PROXY protocol headers that a TCP proxy adds.

use std::borrow::Cow;

use causeway_xds::resource::listener::TlvMerge;
use causeway_xds::resource::tlv::{Tlv, TlvSource};

use crate::formatter::{Facts, Template};

/// Compiled; most proxies add none.
#[derive(Debug)]
pub struct AddedTlvs {
    sources: Vec<Source>,
    merge: TlvMerge,
}

#[derive(Debug)]
enum Source {
    Static(Tlv),
    Template(u8, Template),
}

impl AddedTlvs {
    pub fn compile(sources: &[TlvSource], merge: TlvMerge) -> Self {
        let sources = sources.iter().map(|source| match source {
            TlvSource::Static(tlv) => Source::Static(tlv.clone()),
            TlvSource::Format {
                kind,
                format,
                omit_empty,
            } => {
                let missing = if *omit_empty { "" } else { "-" };
                Source::Template(*kind, Template::compile(format, missing))
            }
        });
        Self {
            sources: sources.collect(),
            merge,
        }
    }

    /// With those of the header that the connection came with, if it came with one.
    pub fn beside<'t>(&self, came: Option<&'t [Tlv]>, facts: &dyn Facts) -> Cow<'t, [Tlv]> {
        let came = match came {
            Some(came) if self.sources.is_empty() || self.merge == TlvMerge::IfAbsent => {
                return came.into();
            }
            None if self.sources.is_empty() => return Cow::Borrowed(&[]),
            came => came.unwrap_or_default(),
        };
        let added = self.sources.iter().map(|source| match source {
            Source::Static(tlv) => tlv.clone(),
            Source::Template(kind, template) => {
                let mut value = template.render(facts);
                value.truncate(Tlv::MAX);
                Tlv { kind: *kind, value }
            }
        });
        let added: Vec<Tlv> = added.collect();
        let stays = |tlv: &&Tlv| {
            self.merge == TlvMerge::Append || !added.iter().any(|added| added.kind == tlv.kind)
        };
        let mut all: Vec<Tlv> = came.iter().filter(stays).cloned().collect();
        all.extend(added);
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use causeway_xds::resource::parts;

    use super::*;
    use crate::filter::StreamState;
    use crate::filter::network::Connection;

    fn tlv(kind: u8, value: &str) -> Tlv {
        let value = value.as_bytes().to_vec();
        Tlv { kind, value }
    }

    #[test]
    fn those_that_came_and_those_that_are_added_meet_as_the_policy_says() {
        let sources = [
            TlvSource::Static(tlv(1, "own")),
            TlvSource::Format {
                kind: 2,
                format: parts::format("sni=%REQUESTED_SERVER_NAME%").unwrap(),
                omit_empty: false,
            },
        ];
        let state = StreamState::default();
        let connection = Connection {
            peer: None,
            local: None,
            session: None,
            server_name: "app.test",
            state: &state,
        };
        let came = [tlv(1, "came"), tlv(3, "too")];
        let (own, made) = (tlv(1, "own"), tlv(2, "sni=app.test"));
        for (merge, expected) in [
            (TlvMerge::IfAbsent, came.to_vec()),
            (
                TlvMerge::Overwrite,
                vec![tlv(3, "too"), own.clone(), made.clone()],
            ),
            (
                TlvMerge::Append,
                vec![tlv(1, "came"), tlv(3, "too"), own.clone(), made.clone()],
            ),
        ] {
            let added = AddedTlvs::compile(&sources, merge);
            assert_eq!(*added.beside(Some(&came), &connection), *expected);
            let alone = added.beside(None, &connection);
            assert_eq!(*alone, [own.clone(), made.clone()]);
            let none = AddedTlvs::compile(&[], merge);
            assert_eq!(*none.beside(Some(&came), &connection), came);
            assert!(none.beside(None, &connection).is_empty());
        }
    }
}
