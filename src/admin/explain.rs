//! `/explain`: what would happen to a request, by the snapshot that is in force.

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::{AdminState, reply};
use crate::http::explain::{Question, Unclear, explain as steps};

/// In the order of the query: `header` may come several times.
type Params = Query<Vec<(String, String)>>;

pub async fn explain(State(state): State<AdminState>, Query(params): Params) -> Response {
    let question = match question(&params) {
        Ok(question) => question,
        Err(error) => return reply::refused(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    reply::off_thread(move || match steps(&state.publisher.current(), &question) {
        Ok(found) if value(&params, "format") == Some("json") => {
            reply::json_pretty(&json!({ "steps": found.steps }))
        }
        Ok(found) => reply::text(found.to_text()),
        Err(error) => reply::refused(StatusCode::BAD_REQUEST, format!("{error}\n")),
    })
    .await
}

fn value<'p>(params: &'p [(String, String)], key: &str) -> Option<&'p str> {
    let mut found = params.iter().filter(|(name, _)| name == key);
    found.next().map(|(_, value)| value.as_str())
}

fn question(params: &[(String, String)]) -> Result<Question, Unclear> {
    let headers = params.iter().filter(|(name, _)| name == "header");
    let headers: Vec<String> = headers.map(|(_, value)| value.clone()).collect();
    let url = value(params, "url").unwrap_or_default();
    let method = value(params, "method").unwrap_or("GET");
    let mut question = Question::parse(url, method, &headers)?;
    question.listener = value(params, "listener").map(str::to_owned);
    match value(params, "client_ip") {
        Some(client) => question.from_client(client),
        None => Ok(question),
    }
}
