//! Access logs: which requests get a line, what it says, where it goes.

mod entry;
mod filter;
mod grpc;

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use causeway_xds::resource::access_log::{AccessLog, Destination};
use causeway_xds::resource::format::Format;

pub use filter::Filter;

use crate::filter::Context;
use crate::filter::call::Calls;
use crate::formatter::{Facts, Template, Text, Wants};
use crate::telemetry::access_log::{LogFile, LogFiles};
use grpc::GrpcLog;

/// One access logger, ready to write.
#[derive(Debug)]
pub struct Logger {
    filter: Option<Filter>,
    to: To,
}

#[derive(Debug)]
enum To {
    Lines { text: Text, file: Arc<LogFile> },
    Service(GrpcLog),
}

impl Logger {
    /// `None` for one that writes where nothing is read.
    ///
    /// # Errors
    /// Its file cannot be opened.
    pub fn open(
        model: &AccessLog,
        files: &LogFiles,
        context: &Context,
    ) -> io::Result<Option<Self>> {
        let to = match &model.to {
            Destination::Lines { sink, format } => {
                let Some(file) = files.open(sink)? else {
                    return Ok(None);
                };
                let text = match format {
                    Some(format) => Text::compile(format),
                    None => Text::Plain(Template::compile(&Format::default_log(), "-").quoted()),
                };
                To::Lines { text, file }
            }
            Destination::Grpc(model) => To::Service(GrpcLog::new(model, context)),
        };
        Ok(Some(Self {
            filter: model.filter.as_ref().map(Filter::compile),
            to,
        }))
    }

    /// To be called on a data thread before the first request or connection is logged. `calls`
    /// reach the services of logs.
    pub fn start(&self, calls: impl FnOnce() -> Rc<dyn Calls>) {
        if let To::Service(log) = &self.to {
            log.start(calls);
        }
    }

    /// Adds what it needs to have kept.
    pub fn note(&self, wants: &mut Wants) {
        wants.anything = true;
        match &self.to {
            To::Lines { text, .. } => text.note(wants),
            To::Service(log) => log.note(wants),
        }
        if let Some(filter) = &self.filter {
            filter.note(wants);
        }
    }

    /// Writes a line or an entry, unless the filter holds it back.
    pub fn log(&self, facts: &dyn Facts) {
        if self.filter.as_ref().is_none_or(|f| f.holds(facts)) {
            match &self.to {
                To::Lines { text, file } => file.write(&text.render(facts)),
                To::Service(log) => log.log(facts),
            }
        }
    }
}
