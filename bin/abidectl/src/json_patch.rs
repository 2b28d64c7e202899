//! JSON Patch (RFC 6902): a list of operations on a document, all or none.

use serde::Deserialize;
use serde_json::Value;

/// One operation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Puts a value where none was, or among those of a list.
    Add { path: String, value: Value },
    /// Takes a value away.
    Remove { path: String },
    /// Puts a value in the place of one.
    Replace { path: String, value: Value },
    /// Removes, and adds elsewhere.
    Move { from: String, path: String },
    /// Adds what is elsewhere.
    Copy { from: String, path: String },
    /// Demands a value.
    Test { path: String, value: Value },
}

/// Why a patch does not fit a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatchError {
    #[error("there is nothing at '{0}'")]
    Nothing(String),
    #[error("'{0}' is no path: it is empty or begins with /")]
    Path(String),
    #[error("'{0}' is not in an object or a list")]
    NoParent(String),
    #[error("'{path}' is {actual}, not {expected}")]
    Test {
        path: String,
        expected: String,
        actual: String,
    },
}

/// The document after the operations.
pub(crate) fn apply(document: &Value, patch: &[Operation]) -> Result<Value, PatchError> {
    let mut document = document.clone();
    for operation in patch {
        step(&mut document, operation)?;
    }
    Ok(document)
}

fn step(document: &mut Value, operation: &Operation) -> Result<(), PatchError> {
    match operation {
        Operation::Add { path, value } => add(document, path, value.clone()),
        Operation::Remove { path } => remove(document, path).map(drop),
        Operation::Replace { path, value } => {
            let place = document
                .pointer_mut(path)
                .ok_or_else(|| PatchError::Nothing(path.clone()))?;
            *place = value.clone();
            Ok(())
        }
        Operation::Move { from, path } => {
            let value = remove(document, from)?;
            add(document, path, value)
        }
        Operation::Copy { from, path } => {
            let value = get(document, from)?.clone();
            add(document, path, value)
        }
        Operation::Test { path, value } => {
            let actual = get(document, path)?;
            if actual == value {
                return Ok(());
            }
            Err(PatchError::Test {
                path: path.clone(),
                expected: value.to_string(),
                actual: actual.to_string(),
            })
        }
    }
}

fn get<'a>(document: &'a Value, path: &str) -> Result<&'a Value, PatchError> {
    document
        .pointer(path)
        .ok_or_else(|| PatchError::Nothing(path.to_owned()))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, key) = split(path)?;
    let nothing = || PatchError::Nothing(path.to_owned());
    match document.pointer_mut(parent).ok_or_else(nothing)? {
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index: usize = key.parse().map_err(|_| nothing())?;
            if items.len() < index {
                return Err(nothing());
            }
            items.insert(index, value);
        }
        _ => return Err(PatchError::NoParent(path.to_owned())),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let (parent, key) = split(path)?;
    let nothing = || PatchError::Nothing(path.to_owned());
    match document.pointer_mut(parent).ok_or_else(nothing)? {
        Value::Object(fields) => fields.remove(&key).ok_or_else(nothing),
        Value::Array(items) => {
            let index: usize = key.parse().map_err(|_| nothing())?;
            if items.len() <= index {
                return Err(nothing());
            }
            Ok(items.remove(index))
        }
        _ => Err(PatchError::NoParent(path.to_owned())),
    }
}

/// The path of what holds it, and its key there.
fn split(path: &str) -> Result<(&str, String), PatchError> {
    let (parent, key) = path
        .rsplit_once('/')
        .ok_or_else(|| PatchError::Path(path.to_owned()))?;
    Ok((parent, key.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(document: Value, patch: Value) -> Result<Value, String> {
        let patch: Vec<Operation> = serde_json::from_value(patch).unwrap();
        apply(&document, &patch).map_err(|error| error.to_string())
    }

    #[test]
    fn operations_apply_in_order() {
        let document = json!({"a": {"b": [1, 2]}, "x/y": 0});
        let patch = json!([
            {"op": "test", "path": "/a/b/1", "value": 2},
            {"op": "add", "path": "/a/b/1", "value": 9},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "remove", "path": "/a/b/0"},
            {"op": "replace", "path": "/x~1y", "value": 1},
            {"op": "copy", "from": "/a/b/0", "path": "/c"},
            {"op": "move", "from": "/x~1y", "path": "/d"},
        ]);
        let after = json!({"a": {"b": [9, 2, 3]}, "c": 9, "d": 1});
        assert_eq!(patched(document, patch), Ok(after));
    }

    #[test]
    fn what_does_not_fit_says_where() {
        let wrong = |patch: Value| patched(json!({"a": [1], "n": 5}), json!([patch])).unwrap_err();
        assert_eq!(
            wrong(json!({"op": "test", "path": "/n", "value": 4})),
            "'/n' is 5, not 4"
        );
        assert_eq!(
            wrong(json!({"op": "remove", "path": "/a/3"})),
            "there is nothing at '/a/3'"
        );
        assert_eq!(
            wrong(json!({"op": "add", "path": "/n/x", "value": 1})),
            "'/n/x' is not in an object or a list"
        );
        assert_eq!(
            wrong(json!({"op": "remove", "path": "a"})),
            "'a' is no path: it is empty or begins with /"
        );
    }
}
