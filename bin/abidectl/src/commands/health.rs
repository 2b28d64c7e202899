//! `abidectl health`: does this one node serve? For the health checks of containers and supervisors.

use serde_json::Value;

use crate::client::Node;
use crate::failure::Failure;
use crate::output::json_lines;

/// What a node is that serves.
const SERVING: &str = "Alive";

/// What the report's parts are called.
const PARTS: [(&str, &str); 4] = [
    ("admin_status", "admin API"),
    ("worker_status", "worker"),
    ("log_server_status", "log server"),
    ("metadata_server_status", "metadata server"),
];

pub(crate) async fn check(node: &Node, json: bool) -> Result<String, Failure> {
    let report = node.health().await?;
    if !is_ready(&report) {
        let reason = match text(&report, "unready_reason") {
            "" => format!("it is {}", text(&report, "status")),
            reason => reason.to_owned(),
        };
        return Err(Failure::NotServing {
            address: node.address().to_owned(),
            reason,
        });
    }
    Ok(if json {
        json_lines([report])
    } else {
        describe(&report)
    })
}

/// A node that does not say so is ready when it is alive.
fn is_ready(report: &Value) -> bool {
    let said = report["ready"].as_bool();
    said.unwrap_or_else(|| text(report, "status") == SERVING)
}

fn describe(report: &Value) -> String {
    let mut line = format!(
        "{} is {}",
        text(report, "node_name"),
        text(report, "status")
    );
    for (key, part) in PARTS {
        let status = text(report, key);
        if !status.is_empty() {
            line.push_str(&format!(", {part} {status}"));
        }
    }
    line.push('\n');
    line
}

fn text<'a>(report: &'a Value, key: &str) -> &'a str {
    report[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn what_a_node_says_of_itself_wins_over_its_phase() {
        assert!(is_ready(&json!({ "status": "Alive" })));
        assert!(!is_ready(&json!({ "status": "StartingUp" })));
        assert!(!is_ready(&json!({ "status": "Alive", "ready": false })));
        assert!(!is_ready(&json!({})));
    }

    #[test]
    fn one_line_has_the_parts_that_the_node_has() {
        let report = json!({
            "status": "Alive", "node_name": "node1",
            "worker_status": "Ready", "log_server_status": "DiskFull",
        });
        expect![[r#"
            node1 is Alive, worker Ready, log server DiskFull
        "#]]
        .assert_eq(&describe(&report));
    }
}
