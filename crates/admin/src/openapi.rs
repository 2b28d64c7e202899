//! This API's own description, OpenAPI 3.1.
//!
//! It is written by hand: `openapi/document.json` is the frame, and every group of routes has a file beside it whose
//! tags, paths and components are put into the frame. A new route goes into one of the files; a test compares them with
//! the router.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::{Map, Value};

const FRAME: &str = include_str!("../openapi/document.json");

/// In the order of the tags.
const PARTS: [&str; 8] = [
    include_str!("../openapi/deployments.json"),
    include_str!("../openapi/services.json"),
    include_str!("../openapi/invocations.json"),
    include_str!("../openapi/query.json"),
    include_str!("../openapi/kafka.json"),
    include_str!("../openapi/limits.json"),
    include_str!("../openapi/observe.json"),
    include_str!("../openapi/system.json"),
];

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).unwrap_or_default().into());

pub(crate) async fn show() -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (content_type, DOCUMENT.clone()).into_response()
}

/// The whole document.
pub(crate) fn document() -> Value {
    let mut document = parse(FRAME);
    for part in PARTS {
        merge(&mut document, parse(part));
    }
    let mut document = Value::Object(document);
    document["info"]["version"] = crate::system::INTERFACE_VERSION.into();
    document
}

fn parse(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("the files are part of the program and tested")
}

/// Maps are merged, lists are appended.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (Some(Value::Array(into)), Value::Array(from)) => into.extend(from),
            (known, value) => {
                debug_assert!(known.is_none(), "{key} is described twice");
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        let document = document();
        let mut operations = BTreeSet::new();
        let mut used = BTreeSet::new();
        visit(&document, &mut |value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
                used.insert(pointer.to_owned());
            }
            if let Some(id) = value.get("operationId").and_then(Value::as_str) {
                assert!(operations.insert(id.to_owned()), "{id} is there twice");
            }
        });
        for (name, _) in document["components"]["schemas"].as_object().unwrap() {
            let pointer = format!("/components/schemas/{name}");
            assert!(used.contains(&pointer), "nothing refers to {pointer}");
        }
        assert_eq!(document["openapi"], "3.1.0");
    }

    #[test]
    fn the_parameters_of_a_path_are_those_in_its_text() {
        for (path, item) in document()["paths"].as_object().unwrap() {
            let expected: BTreeSet<_> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            for operation in item.as_object().unwrap().values() {
                let parameters = operation.get("parameters").and_then(Value::as_array);
                let found: BTreeSet<_> = parameters
                    .into_iter()
                    .flatten()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| parameter["name"].as_str().unwrap())
                    .collect();
                assert_eq!(found, expected, "{path}");
            }
        }
    }

    fn visit(value: &Value, see: &mut impl FnMut(&Value)) {
        see(value);
        match value {
            Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
            Value::Object(fields) => fields.values().for_each(|field| visit(field, see)),
            _ => {}
        }
    }
}
