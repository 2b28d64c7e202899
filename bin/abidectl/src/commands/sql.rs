//! `abidectl sql`: asks the node that answers, whatever its roles.

use std::fmt;
use std::time::Instant;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::client::Node;
use crate::failure::Failure;
use crate::output::{json_lines, table};

/// The rows as a table, or one object a line.
pub(crate) async fn query(asked: &Node, text: &str, json: bool) -> Result<String, Failure> {
    let begun = Instant::now();
    let bytes = asked.query(text.to_owned()).await?;
    let Answer { rows } = serde_json::from_slice(&bytes)
        .map_err(|error| asked.refused(format!("rows that cannot be read: {error}")))?;
    if json {
        return Ok(json_lines(rows.into_iter().map(|row| {
            let members = row.0.into_iter();
            Value::Object(members.collect())
        })));
    }
    let count = rows.len();
    let took = begun.elapsed().as_millis();
    let noun = if count == 1 { "row" } else { "rows" };
    // It is no data.
    eprintln!("{count} {noun}, {took} ms");
    Ok(shown(&rows))
}

#[derive(serde::Deserialize)]
struct Answer {
    rows: Vec<Row>,
}

/// A row whose columns stay in the order of the query.
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Row;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a row")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Row, M::Error> {
                let mut row = Vec::new();
                while let Some(column) = map.next_entry()? {
                    row.push(column);
                }
                Ok(Row(row))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

fn shown(rows: &[Row]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for row in rows {
        // What is null in a row is missing from it.
        let mut at = 0;
        for (name, _) in &row.0 {
            match columns.iter().position(|column| column == name) {
                Some(place) => at = place + 1,
                None => {
                    columns.insert(at, name);
                    at += 1;
                }
            }
        }
    }
    if columns.is_empty() {
        return String::new();
    }
    let cells = rows.iter().map(|row| {
        let cell = |column: &&str| {
            let found = row.0.iter().find(|(name, _)| name == column);
            found.map_or_else(|| "-".to_owned(), |(_, value)| plain(value))
        };
        columns.iter().map(cell).collect()
    });
    table(&columns, cells)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_keep_their_order_and_nulls_have_a_place() {
        let text = r#"{"rows":[{"z":1,"b":"x"},{"z":2,"a":[1],"b":null},{}]}"#;
        let Answer { rows } = serde_json::from_str(text).unwrap();
        expect![[r#"
            z  a    b
            1  -    x
            2  [1]  -
            -  -    -
        "#]]
        .assert_eq(&shown(&rows));
        assert_eq!(shown(&[]), "");
    }
}
