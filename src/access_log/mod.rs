//! Access logs: which requests get a line, what it says, where it goes.

mod filter;

use std::io;
use std::sync::Arc;

use causeway_xds::resource::access_log::AccessLog;
use causeway_xds::resource::format::Format;

pub use filter::Filter;

use crate::formatter::{Facts, Template, Text, Wants};
use crate::telemetry::access_log::{LogFile, LogFiles};

/// One access logger, ready to write.
#[derive(Debug)]
pub struct Logger {
    filter: Option<Filter>,
    text: Text,
    file: Arc<LogFile>,
}

impl Logger {
    /// `None` for one that writes where nothing is read.
    ///
    /// # Errors
    /// Its file cannot be opened.
    pub fn open(model: &AccessLog, files: &LogFiles) -> io::Result<Option<Self>> {
        let Some(file) = files.open(&model.sink)? else {
            return Ok(None);
        };
        let text = match &model.format {
            Some(format) => Text::compile(format),
            None => Text::Plain(Template::compile(&Format::default_log(), "-").quoted()),
        };
        Ok(Some(Self {
            filter: model.filter.as_ref().map(Filter::compile),
            text,
            file,
        }))
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        wants.anything = true;
        self.text.note(wants);
        if let Some(filter) = &self.filter {
            filter.note(wants);
        }
    }

    /// Writes a line, unless the filter holds it back.
    pub fn log(&self, facts: &dyn Facts) {
        if self.filter.as_ref().is_none_or(|f| f.holds(facts)) {
            self.file.write(&self.text.render(facts));
        }
    }
}
