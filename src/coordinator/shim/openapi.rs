//! The description of the REST interface, for people and for generators of clients.
//!
//! Written by hand: it is short, and its tests hold paths, methods, statuses and examples to what
//! the handlers really do.

use serde_json::{Map, Value, json};

const CIRCUIT_ID: &str = "7ac87fa0-46b1-48cd-9d2d-1b50fa16a6de";
const SESSION_ID: &str = "11111111-2222-4333-8444-555555555555";

/// The document (OpenAPI 3.1).
pub fn openapi() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Causeway circuits",
            "version": "1",
            "summary": "Pushes circuits to a Causeway worker.",
            "description": "An answer to a change is sent when traffic already follows it. A refused push changes \
                            nothing. Requests that change something are idempotent.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": {
            "/v1/circuits": {
                "get": list(),
                "put": replace_all(),
                "post": announce(),
            },
            "/v1/circuits/{id}": {
                "parameters": [id()],
                "get": show(),
                "delete": remove(),
            },
            "/v1/circuits/{id}/routes": {
                "parameters": [id()],
                "put": set_routes(),
            },
            "/openapi.json": {"get": document()},
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-BackendAI-Token",
                    "description": "secrets.api_secret of the worker's configuration.",
                },
            },
            "schemas": schemas(),
        },
    })
}

fn list() -> Value {
    json!({
        "operationId": "listCircuits",
        "summary": "Lists the circuits in force, oldest first.",
        "responses": responses(&[
            (200, "The circuits and the generation that shows them.", listing(1, None, &[circuit()])),
            (401, UNAUTHORISED, unauthorised()),
        ]),
    })
}

fn replace_all() -> Value {
    json!({
        "operationId": "replaceCircuits",
        "summary": "Makes the body the whole set of pushed circuits; those of the Coordinator stay.",
        "requestBody": body("Push", &[
            ("list", json!([circuit()])),
            ("named", json!({"circuits": [circuit()]})),
            ("none", json!([])),
        ]),
        "responses": responses(&[
            (200, "Live.", listing(1, Some(true), &[circuit()])),
            (400, INVALID, invalid_port()),
            (401, UNAUTHORISED, unauthorised()),
            (409, CONFLICT, conflict()),
            (413, TOO_LONG, None),
            (503, STOPPING, stopping()),
        ]),
    })
}

fn announce() -> Value {
    json!({
        "operationId": "announceCircuits",
        "summary": "Adds circuits, or brings known ones up to date.",
        "requestBody": body("Push", &[
            ("single", circuit()),
            ("list", json!([circuit()])),
            ("named", json!({"circuits": [circuit()]})),
        ]),
        "responses": responses(&[
            (200, "Live; all were known.", listing(1, Some(false), &[circuit()])),
            (201, "Live; at least one is new.", listing(1, Some(true), &[circuit()])),
            (400, INVALID, invalid_port()),
            (401, UNAUTHORISED, unauthorised()),
            (409, CONFLICT, conflict()),
            (413, TOO_LONG, None),
            (503, STOPPING, stopping()),
        ]),
    })
}

fn show() -> Value {
    json!({
        "operationId": "showCircuit",
        "summary": "Shows one circuit.",
        "responses": responses(&[
            (200, "The circuit.", Some(("Circuit", circuit()))),
            (400, INVALID, bad_id()),
            (401, UNAUTHORISED, unauthorised()),
            (404, UNKNOWN, unknown()),
        ]),
    })
}

fn remove() -> Value {
    json!({
        "operationId": "removeCircuit",
        "summary": "Removes one circuit.",
        "responses": responses(&[
            (200, "It is gone.", listing(2, Some(true), &[])),
            (400, INVALID, bad_id()),
            (401, UNAUTHORISED, unauthorised()),
            (404, UNKNOWN, unknown()),
            (409, CONFLICT, None),
            (503, STOPPING, stopping()),
        ]),
    })
}

fn set_routes() -> Value {
    let mut moved = circuit();
    moved["route_info"] = json!([route(8889)]);
    json!({
        "operationId": "setRoutes",
        "summary": "Replaces the kernels of one circuit. Connections to those that stay are kept.",
        "requestBody": body("Routes", &[
            ("list", json!([route(8889)])),
            ("named", json!({"route_info": [route(8889)]})),
            ("none", json!([])),
        ]),
        "responses": responses(&[
            (200, "Live.", listing(2, Some(true), &[moved])),
            (400, INVALID, bad_id()),
            (401, UNAUTHORISED, unauthorised()),
            (404, UNKNOWN, unknown()),
            (409, CONFLICT, None),
            (413, TOO_LONG, None),
            (503, STOPPING, stopping()),
        ]),
    })
}

fn document() -> Value {
    json!({
        "operationId": "describe",
        "summary": "This document.",
        "security": [],
        "responses": {
            "200": {
                "description": "OpenAPI 3.1.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
        },
    })
}

const INVALID: &str = "The request is at fault; nothing has changed.";
const UNAUTHORISED: &str = "The token is missing or wrong.";
const UNKNOWN: &str = "There is no such circuit.";
const CONFLICT: &str = "Another circuit has the id or the place; nothing has changed.";
const TOO_LONG: &str = "The body is longer than 160 MiB.";
const STOPPING: &str = "The worker is about to end.";

fn id() -> Value {
    json!({
        "name": "id", "in": "path", "required": true, "description": "Id of the circuit.",
        "schema": {"type": "string", "format": "uuid"}, "example": CIRCUIT_ID,
    })
}

fn body(schema: &str, examples: &[(&str, Value)]) -> Value {
    let examples: Map<String, Value> = examples
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!({"value": value})))
        .collect();
    json!({
        "required": true,
        "content": {"application/json": {"schema": reference(schema), "examples": examples}},
    })
}

/// Schema and example of an answer; `None`: a problem without an example.
type Shown = Option<(&'static str, Value)>;

fn responses(all: &[(u16, &str, Shown)]) -> Value {
    let all = all.iter().map(|(status, description, shown)| {
        let kind = if *status < 400 {
            "application/json"
        } else {
            "application/problem+json"
        };
        let content = match shown {
            Some((schema, example)) => json!({"schema": reference(schema), "example": example}),
            None => json!({"schema": reference("Problem")}),
        };
        let response = json!({"description": description, "content": {kind: content}});
        (status.to_string(), response)
    });
    Value::Object(all.collect())
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn listing(generation: u64, changed: Option<bool>, circuits: &[Value]) -> Shown {
    let mut listing = json!({"generation": generation});
    if let Some(changed) = changed {
        listing["changed"] = json!(changed);
    }
    listing["circuits"] = json!(circuits);
    Some(("Listing", listing))
}

fn circuit() -> Value {
    json!({
        "id": CIRCUIT_ID,
        "app": "jupyter",
        "protocol": "http",
        "worker": null,
        "app_mode": "interactive",
        "frontend_mode": "wildcard",
        "envs": {},
        "arguments": null,
        "open_to_public": true,
        "allowed_client_ips": null,
        "port": null,
        "subdomain": "app-5c48d10c",
        "user_id": "f38dea23-50fa-42a0-b5ae-338f5f4693f4",
        "endpoint_id": null,
        "runtime_variant": null,
        "route_info": [route(8888)],
        "session_ids": [SESSION_ID],
        "created_at": "2026-11-24T08:43:58.661195Z",
        "updated_at": "2026-11-24T08:43:58.661200Z",
    })
}

fn route(port: u16) -> Value {
    json!({
        "route_id": null,
        "session_id": SESSION_ID,
        "session_name": null,
        "kernel_host": "10.0.3.7",
        "kernel_port": port,
        "protocol": "http",
        "traffic_ratio": 1.0,
    })
}

fn problem(status: u16, kind: &str, title: &str, detail: &str, field: Option<&str>) -> Shown {
    let mut problem = json!({
        "type": format!("https://api.backend.ai/probs/{kind}"),
        "title": title, "status": status, "detail": detail,
    });
    if let Some(field) = field {
        problem["field"] = json!(field);
    }
    Some(("Problem", problem))
}

fn unauthorised() -> Shown {
    let title = "Authentication credentials not valid.";
    let detail = "header X-BackendAI-Token is missing or wrong";
    problem(401, "invalid-credentials", title, detail, None)
}

const BAD_PARAMETERS: &str = "Missing or invalid API parameters.";

fn invalid_port() -> Shown {
    let field = "circuits[0].route_info[0].kernel_port";
    let detail = format!("{field}: must be 1..=65535");
    problem(
        400,
        "invalid-api-params",
        BAD_PARAMETERS,
        &detail,
        Some(field),
    )
}

fn bad_id() -> Shown {
    let detail = "the circuit id in the path is not a UUID";
    problem(400, "invalid-api-params", BAD_PARAMETERS, detail, None)
}

fn unknown() -> Shown {
    let detail = format!("no circuit {CIRCUIT_ID}");
    problem(404, "generic-not-found", "Not found.", &detail, None)
}

fn conflict() -> Shown {
    let field = "circuits[1].id";
    let detail =
        format!("{field}: circuit {CIRCUIT_ID} is claimed by circuits[0] of this push too");
    problem(409, "generic-conflict", "Conflict.", &detail, Some(field))
}

fn stopping() -> Shown {
    let title = "Service unavailable.";
    problem(503, "service-unavailable", title, "shutting down", None)
}

fn schemas() -> Value {
    let uuid = || json!({"type": ["string", "null"], "format": "uuid"});
    let text = || json!({"type": ["string", "null"]});
    let protocol = json!({
        "type": "string",
        "enum": ["http", "grpc", "h2", "tcp", "preopen", "vnc", "rdp"],
    });
    let route = json!({
        "type": "object",
        "description": "One kernel. Kebab-case names are taken, too. Unknown fields are ignored.",
        "required": ["kernel_port"],
        "properties": {
            "route_id": uuid(),
            "session_id": uuid(),
            "session_name": text(),
            "kernel_host": {
                "type": ["string", "null"],
                "description": "Address or name. Nothing and \"localhost\" mean the worker's machine.",
            },
            "kernel_port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "protocol": protocol,
            "traffic_ratio": {"type": "number", "minimum": 0, "default": 1.0},
        },
    });
    let circuit = json!({
        "type": "object",
        "description": "One app of one compute session or model service. Unknown fields are ignored.",
        "required": ["id", "protocol", "app_mode", "frontend_mode"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "app": {"type": ["string", "null"], "description": "Last part of the path on the path frontend."},
            "protocol": protocol,
            "worker": uuid(),
            "app_mode": {"type": "string", "enum": ["interactive", "inference"]},
            "frontend_mode": {"type": "string", "enum": ["port", "wildcard"]},
            "envs": {"type": ["object", "null"]},
            "arguments": text(),
            "open_to_public": {"type": "boolean", "default": false},
            "allowed_client_ips": {
                "type": ["string", "null"],
                "description": "Addresses and networks, separated by commas.",
            },
            "port": {
                "type": ["integer", "null"], "minimum": 1, "maximum": 65535,
                "description": "The advertised port; needed when frontend_mode is port.",
            },
            "subdomain": {
                "type": ["string", "null"],
                "description": "One DNS label; needed when frontend_mode is wildcard.",
            },
            "user_id": uuid(),
            "endpoint_id": uuid(),
            "runtime_variant": text(),
            "route_info": {"type": ["array", "null"], "items": reference("Route")},
            "session_ids": {
                "type": ["array", "null"],
                "items": {"type": "string", "format": "uuid"},
            },
            "created_at": {"description": "Kept as it comes."},
            "updated_at": {"description": "Kept as it comes."},
        },
    });
    let many = |name: &str, of: &str| {
        json!({
            "type": "object",
            "required": [name],
            "properties": {name: {"type": "array", "items": reference(of)}},
        })
    };
    json!({
        "Circuit": circuit,
        "Route": route,
        "Push": {"anyOf": [
            {"type": "array", "items": reference("Circuit")},
            many("circuits", "Circuit"),
            reference("Circuit"),
        ]},
        "Routes": {"anyOf": [
            {"type": "array", "items": reference("Route")},
            many("route_info", "Route"),
        ]},
        "Listing": {
            "type": "object",
            "required": ["generation", "circuits"],
            "properties": {
                "generation": {"type": "integer", "description": "Of the configuration that traffic follows."},
                "changed": {"type": "boolean", "description": "Whether there is a new generation because of this request."},
                "circuits": {"type": "array", "items": reference("Circuit")},
            },
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "field": {"type": "string", "description": "Place in the request."},
            },
        },
    })
}

#[cfg(test)]
mod tests;
