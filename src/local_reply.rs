//! What becomes of answers that are made here (`local_reply_config`).

use bytes::Bytes;
use causeway_xds::resource::http_manager::{LocalReplies as Model, LocalReplyMapper};
use http::StatusCode;

use crate::access_log::Filter;
use crate::formatter::{BodyFormat, Wants};
use crate::route::edits::Level;

/// The rules of one connection manager.
#[derive(Debug)]
pub struct LocalReplies {
    pub mappers: Vec<Mapper>,
    pub format: Option<BodyFormat>,
}

/// Changes an answer whose filter holds; the first that does is the only one.
#[derive(Debug)]
pub struct Mapper {
    pub filter: Filter,
    pub status: Option<StatusCode>,
    pub body: Option<Bytes>,
    pub format: Option<BodyFormat>,
    pub edits: Level,
}

impl LocalReplies {
    /// `None` where nothing is configured.
    pub fn compile(model: &Model) -> Option<Self> {
        if *model == Model::default() {
            return None;
        }
        Some(Self {
            mappers: model.mappers.iter().map(Mapper::compile).collect(),
            format: model.format.as_ref().map(BodyFormat::compile),
        })
    }

    /// Adds what they need to have kept.
    pub fn note(&self, wants: &mut Wants) {
        for mapper in &self.mappers {
            mapper.filter.note(wants);
            mapper.edits.note(wants);
        }
        let formats = self.mappers.iter().filter_map(|m| m.format.as_ref());
        for format in formats.chain(&self.format) {
            format.text.note(wants);
        }
    }
}

impl Mapper {
    fn compile(model: &LocalReplyMapper) -> Self {
        Self {
            filter: Filter::compile(&model.filter),
            status: model.status.and_then(|s| StatusCode::from_u16(s).ok()),
            body: model
                .body
                .as_ref()
                .map(|body| Bytes::copy_from_slice(body.as_bytes())),
            format: model.format.as_ref().map(BodyFormat::compile),
            edits: Level::compile(&model.add, &[]),
        }
    }
}
