//! The OpenAPI document of one service: how its public handlers are called at the ingress (admin reference, section 6).

use abide_schema::{Handler, InputRule, ServiceRevision};
use abide_types::{HandlerKind, ServiceKind};
use serde_json::{Map, Value, json};

const INVOKE_DOCS: &str = "https://docs.restate.dev/invoke/http";
const DELAY_DOCS: &str = "https://docs.restate.dev/invoke/http#sending-a-delayed-message-over-http";
const IDEMPOTENCY_DOCS: &str = "https://docs.restate.dev/invoke/http#invoke-a-handler-idempotently";

/// The document. `ingress` is the URL under which clients reach it.
pub(crate) fn document(service: &ServiceRevision, ingress: Option<&str>) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::from_iter([("RestateError".to_owned(), error_schema())]);
    let handlers = service.handlers.values();
    for handler in handlers.filter(|handler| handler.public.unwrap_or(true)) {
        describe(service, handler, &mut paths, &mut schemas);
    }
    let mut info = json!({ "title": service.name, "version": service.revision.to_string() });
    if let Some(documentation) = &service.documentation {
        info["description"] = documentation.as_str().into();
    }
    if !service.metadata.is_empty() {
        info["x-restate-extensions"] = json!(service.metadata);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {
            "parameters": parameters(),
            "responses": responses(),
            "schemas": schemas,
        },
        "tags": [
            tag("Request Response", "Call a handler and wait for its result"),
            tag("Send", "Start a handler and go on"),
            tag("Attach", "Wait for the result of an earlier request"),
            tag("Get Output", "Look for the result of an earlier request"),
        ],
    });
    if let Some(url) = ingress {
        document["servers"] = json!([{ "url": url, "description": "Ingress URL" }]);
    }
    document
}

/// Adds the paths of one handler, and the schemas that they refer to.
fn describe(
    service: &ServiceRevision,
    handler: &Handler,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    let of = Operations::new(service, handler, schemas);
    let target = match service.kind {
        ServiceKind::Service => format!("{}/{}", service.name, handler.name),
        ServiceKind::VirtualObject | ServiceKind::Workflow => {
            format!("{}/{{key}}/{}", service.name, handler.name)
        }
    };
    let mut add = |path: String, method: &str, operation: Value| {
        paths.insert(path, json!({ method: operation }));
    };
    add(format!("/restate/call/{target}"), "post", of.call());
    add(format!("/restate/send/{target}"), "post", of.send());
    let earlier = match (service.kind, handler.kind) {
        (ServiceKind::Workflow, HandlerKind::Workflow) => {
            format!("/restate/workflow/{}/{{key}}", service.name)
        }
        // A workflow's other handlers have neither.
        (ServiceKind::Workflow, _) => return,
        _ => format!("/restate/invocation/{target}/{{idempotencyKey}}"),
    };
    add(format!("{earlier}/attach"), "get", of.attach());
    add(format!("{earlier}/output"), "get", of.output());
}

/// The operations of one handler.
struct Operations<'a> {
    service: &'a ServiceRevision,
    handler: &'a Handler,
    request: Option<Value>,
    response: Value,
}

impl<'a> Operations<'a> {
    fn new(
        service: &'a ServiceRevision,
        handler: &'a Handler,
        schemas: &mut Map<String, Value>,
    ) -> Self {
        Self {
            request: request(handler, schemas),
            response: response(handler, schemas),
            service,
            handler,
        }
    }

    /// Whether requests may carry an idempotency key.
    fn is_idempotent(&self) -> bool {
        self.service.kind != ServiceKind::Workflow
    }

    fn is_keyed(&self) -> bool {
        self.service.kind != ServiceKind::Service
    }

    fn target(&self) -> String {
        format!("{}/{}", self.service.name, self.handler.name)
    }

    fn operation(&self, suffix: &str, tag: Option<&str>, otherwise: &str) -> Value {
        let said = self.handler.documentation.as_deref();
        let mut operation = json!({
            "operationId": format!("{}{suffix}", self.handler.name),
            "summary": self.handler.name,
            "description": said.unwrap_or(otherwise),
        });
        if let Some(tag) = tag {
            operation["tags"] = json!([tag]);
        }
        operation
    }

    fn request_parameters(&self) -> Vec<Value> {
        let key = self.is_keyed().then(|| parameter("key"));
        let idempotency = self
            .is_idempotent()
            .then(|| parameter("idempotencyKeyHeader"));
        key.into_iter().chain(idempotency).collect()
    }

    fn call(&self) -> Value {
        let text = format!("Call {} and wait for its result", self.target());
        let mut operation = self.operation("", Some("Request Response"), &text);
        operation["parameters"] = self.request_parameters().into();
        if let Some(request) = &self.request {
            operation["requestBody"] = request.clone();
        }
        operation["responses"] = json!({
            "200": self.response,
            "default": answer("GenericError"),
        });
        operation
    }

    fn send(&self) -> Value {
        let text = format!("Start {} and go on", self.target());
        let mut operation = self.operation("Send", Some("Send"), &text);
        let mut parameters = self.request_parameters();
        parameters.push(parameter("delay"));
        operation["parameters"] = parameters.into();
        if let Some(request) = &self.request {
            operation["requestBody"] = request.clone();
        }
        operation["responses"] = json!({
            "200": answer("Send"),
            "202": answer("Send"),
            "default": answer("GenericError"),
        });
        operation
    }

    fn attach(&self) -> Value {
        let text = format!(
            "Wait for the result of an earlier request to {}",
            self.target()
        );
        let mut operation = self.earlier("Attach", "Attach", &text);
        operation["responses"] = json!({
            "200": self.response,
            "404": answer("InvocationNotFoundError"),
            "default": answer("GenericError"),
        });
        operation
    }

    fn output(&self) -> Value {
        let text = format!(
            "Look for the result of an earlier request to {}",
            self.target()
        );
        let mut operation = self.earlier("Output", "Get Output", &text);
        operation["responses"] = json!({
            "200": self.response,
            "404": answer("InvocationNotFoundError"),
            "470": answer("InvocationNotReadyError"),
            "default": answer("GenericError"),
        });
        operation
    }

    /// Operations on an earlier request; `/restate/lookup` has taken their place.
    fn earlier(&self, suffix: &str, tag: &str, otherwise: &str) -> Value {
        let mut operation = self.operation(suffix, Some(tag), otherwise);
        let key = self.is_keyed().then(|| parameter("key"));
        let idempotency = self
            .is_idempotent()
            .then(|| parameter("idempotencyKeyPath"));
        operation["parameters"] = key.into_iter().chain(idempotency).collect();
        operation["deprecated"] = true.into();
        operation
    }
}

/// The request body; `None` for a handler that takes nothing.
fn request(handler: &Handler, schemas: &mut Map<String, Value>) -> Option<Value> {
    let mut content = Map::new();
    for rule in handler.input.rules() {
        match rule {
            InputRule::Empty => {}
            InputRule::ContentType(content_type) => {
                content.insert(content_type.to_string(), json!({}));
            }
            InputRule::Json {
                content_type,
                schema,
            } => {
                let name = format!("{}Request", handler.name);
                let media = with_schema(name, schema, schemas);
                content.insert(content_type.to_string(), media);
            }
        }
    }
    let required = !handler.input.rules().contains(&InputRule::Empty);
    (!content.is_empty()).then(|| json!({ "content": content, "required": required }))
}

fn response(handler: &Handler, schemas: &mut Map<String, Value>) -> Value {
    let output = &handler.output;
    let Some(content_type) = &output.content_type else {
        return json!({ "description": "Empty" });
    };
    let media = match &output.schema {
        Some(schema) => with_schema(format!("{}Response", handler.name), schema, schemas),
        None => json!({}),
    };
    json!({ "description": "The result", "content": { content_type: media } })
}

/// Puts a schema among the components and refers to it.
fn with_schema(name: String, schema: &Value, schemas: &mut Map<String, Value>) -> Value {
    let place = format!("#/components/schemas/{name}");
    let mut schema = match schema {
        // The same, in a form that every reader of these documents knows.
        Value::Bool(true) => json!({}),
        schema => schema.clone(),
    };
    move_references(&mut schema, &place);
    schemas.insert(name, schema);
    json!({ "schema": { "$ref": place } })
}

/// What refers into the schema refers into the document now.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| move_references(item, place)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(inner) = target.strip_prefix('#') {
                            *target = format!("{place}{inner}");
                        }
                    }
                    value => move_references(value, place),
                }
            }
        }
        _ => {}
    }
}

fn parameter(name: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

fn answer(name: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{name}") })
}

fn tag(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "description": description,
        "externalDocs": { "url": INVOKE_DOCS },
    })
}

fn parameters() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "delay": {
            "name": "delay",
            "in": "query",
            "required": false,
            "description": format!("How long to wait before it starts, see the [documentation]({DELAY_DOCS})"),
            "schema": text,
            "example": "10s",
        },
        "idempotencyKeyHeader": {
            "name": "idempotency-key",
            "in": "header",
            "required": false,
            "description": format!(
                "Requests with the same key are one request, see the [documentation]({IDEMPOTENCY_DOCS})"
            ),
            "schema": text,
        },
        "idempotencyKeyPath": {
            "name": "idempotencyKey",
            "in": "path",
            "required": true,
            "description": format!("The key of the earlier request, see the [documentation]({IDEMPOTENCY_DOCS})"),
            "schema": text,
        },
        "key": { "name": "key", "in": "path", "required": true, "schema": text },
    })
}

fn responses() -> Value {
    let error = |description: &str, example: Value| {
        let schema = json!({ "$ref": "#/components/schemas/RestateError" });
        json!({
            "description": description,
            "content": { "application/json": { "schema": schema, "example": example } },
        })
    };
    json!({
        "GenericError": error(
            "The request failed",
            json!({ "code": 500, "message": "Internal server error", "source": "invocation" }),
        ),
        "InvocationNotFoundError": error(
            "There was no such request, or it is not remembered any more",
            json!({ "message": "invocation not found", "source": "ingress" }),
        ),
        "InvocationNotReadyError": error(
            "It has not ended yet",
            json!({ "message": "the invocation exists but has not completed yet", "source": "ingress" }),
        ),
        "Send": {
            "description": "The request was taken",
            "content": { "application/json": {
                "schema": {
                    "title": "RestateSendResponse",
                    "type": "object",
                    "required": ["invocationId", "status"],
                    "properties": {
                        "invocationId": { "type": "string" },
                        "status": { "type": "string", "enum": ["Accepted", "PreviouslyAccepted"] },
                        "executionTime": {
                            "type": "string",
                            "format": "date-time",
                            "description": "When it starts, where a delay was asked for",
                        },
                    },
                    "additionalProperties": false,
                },
                "example": {
                    "invocationId": "inv_1gdJBtdVEcM942bjcDmb1c1khoaJe11Hbz",
                    "status": "Accepted",
                },
            } },
        },
    })
}

fn error_schema() -> Value {
    json!({
        "title": "RestateError",
        "description": "Why a request failed",
        "type": "object",
        "required": ["message", "source"],
        "properties": {
            "code": { "title": "error code", "type": "number" },
            "message": { "title": "Error message", "type": "string" },
            "stacktrace": { "title": "Stacktrace of the error", "type": "string" },
            "metadata": {
                "title": "Additional metadata map",
                "type": "object",
                "additionalProperties": { "type": "string" },
            },
            "source": {
                "title": "Error source",
                "description": "Whether the ingress made the error, whose status then has HTTP's usual meaning, or the invocation, whose status is its own. The header x-restate-error-source says the same.",
                "type": "string",
                "enum": ["ingress", "invocation"],
            },
        },
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests;
