//! An HTTP filter that is not in Causeway: it puts a greeting into answers, and turns rude ones away.
//!
//! `cargo run --example custom_filter -- envoy.yaml` serves a bootstrap in which it may stand:
//! `{name: greet, typed_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: hi}}`

use std::sync::Arc;

use anyhow::Context as _;
use causeway::app::{self, Config, Options};
use causeway::config::bootstrap::{BootstrapConfig, Overrides};
use causeway::filter::{Answer, Context, Factory, Flow, HttpFilter, LocalReply, Stream};
use causeway_xds::extension::TypedExtension;
use causeway_xds::proto::Message;
use causeway_xds::reject::Invalid;
use http::{HeaderValue, StatusCode};

/// Its configuration is any message.
pub static FILTERS: &[Factory] = &[Factory {
    message: "google.protobuf.StringValue",
    name: "greet",
    build,
    per_route: &[],
}];

#[derive(Debug)]
struct Greet(HeaderValue);

fn build(config: &TypedExtension, _: &Context) -> Result<Arc<dyn HttpFilter>, Invalid> {
    let text = String::decode(&*config.value).map_err(|e| Invalid::at("value", e.to_string()))?;
    let text = HeaderValue::try_from(text).map_err(|e| Invalid::at("value", e.to_string()))?;
    Ok(Arc::new(Greet(text)))
}

impl HttpFilter for Greet {
    fn request(&self, stream: &mut Stream<'_>) -> Flow {
        match stream.request.headers.contains_key("x-rude") {
            true => Flow::reply(LocalReply::new(StatusCode::FORBIDDEN, "rude").saying("Please.")),
            false => Flow::Continue,
        }
    }

    fn response(&self, answer: &mut Answer<'_>) {
        answer.headers.insert("x-greeting", self.0.clone());
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("name a bootstrap")?;
    let text = std::fs::read_to_string(&file)?;
    let bootstrap = BootstrapConfig::parse(&file, &text, &Overrides::default())?;
    let filters = FILTERS;
    let options = Options {
        filters,
        ..Options::default()
    };
    let _running = app::start(Config::Bootstrap(Box::new(bootstrap)), options).await?;
    Ok(tokio::signal::ctrl_c().await?)
}
