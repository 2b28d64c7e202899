//! `abidectl metadata get`.

use abide_rpc::proto::cluster::StoredDocument;
use serde_json::{Value, json};

use crate::client::Node;
use crate::failure::Failure;
use crate::output::json_lines;

pub(crate) async fn get(
    node: &Node,
    key: Option<&String>,
    linearizable: bool,
    json: bool,
) -> Result<String, Failure> {
    let Some(key) = key else {
        let keys = node.document(String::new(), false).await?.keys;
        return Ok(list(&keys, json));
    };
    let reply = node.document(key.clone(), linearizable).await?;
    let document = reply
        .document
        .ok_or_else(|| Failure::NoDocument { key: key.clone() })?;
    Ok(show(&document, json))
}

fn list(keys: &[String], json: bool) -> String {
    if json {
        return json_lines(keys.iter().map(|key| json!({ "key": key })));
    }
    keys.iter().map(|key| format!("{key}\n")).collect()
}

fn show(document: &StoredDocument, json: bool) -> String {
    // What is no JSON, which no document of ours is, is shown as text.
    let text = || Value::String(String::from_utf8_lossy(&document.value).into_owned());
    let value: Value = serde_json::from_slice(&document.value).unwrap_or_else(|_| text());
    if json {
        return json_lines([json!({
            "key": document.key,
            "version": document.version,
            "value": value,
        })]);
    }
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_document_is_indented_for_people_and_wrapped_for_programs() {
        let document = StoredDocument {
            key: "log/0".to_owned(),
            version: 9,
            value: br#"{"a":[1]}"#.as_slice().into(),
        };
        expect![[r#"
            {
              "a": [
                1
              ]
            }
        "#]]
        .assert_eq(&show(&document, false));
        expect![[r#"
            {"key":"log/0","value":{"a":[1]},"version":9}
        "#]]
        .assert_eq(&show(&document, true));
    }
}
