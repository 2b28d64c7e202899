//! Changing the state of objects and workflows (admin reference, section 7).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use abide_processor::api::StateChange;
use abide_types::ServiceKind;
use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;
use http::StatusCode;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::app::Shared;
use crate::error::AdminError;

#[derive(Deserialize)]
pub(crate) struct ChangeBody {
    object_key: String,
    /// All of the key's entries; what is missing is removed.
    new_state: BTreeMap<String, Value>,
    version: Option<String>,
    scope: Option<String>,
}

/// A value, as an array of its bytes or as a text.
struct Value(Bytes);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("byte array")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value(Bytes::copy_from_slice(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Value, A::Error> {
        let mut value = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            value.push(byte);
        }
        Ok(Value(value.into()))
    }
}

/// The change is accepted here and takes effect when nothing holds the key.
pub(crate) async fn change(
    State(shared): State<Arc<Shared>>,
    Path(service): Path<String>,
    Json(body): Json<ChangeBody>,
) -> Result<StatusCode, AdminError> {
    let service_kind = match shared.schema().service(&service) {
        Ok(view) => view.kind,
        // Operators clear what a removed service has left.
        Err(_) if body.new_state.is_empty() => ServiceKind::VirtualObject,
        Err(_) => return Err(AdminError::ServiceNotFound(service)),
    };
    if !service_kind.is_keyed() {
        return Err(AdminError::NoState("Service"));
    }
    if body.scope.is_some() {
        return Err(AdminError::NotSupported("changing the state of a scope"));
    }
    let entries = body.new_state.into_iter();
    shared
        .cluster
        .change_state(StateChange {
            service,
            service_kind,
            key: body.object_key,
            entries: entries.map(|(key, Value(value))| (key, value)).collect(),
            version: body.version,
        })
        .await?;
    Ok(StatusCode::ACCEPTED)
}
