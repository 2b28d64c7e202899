//! What operators type, against three nodes of real processes under load: every command does what it says, answers
//! people and programs, and refuses what is wrong with an exit code and a reason.

#![allow(clippy::unwrap_used, reason = "tests")]

mod archive;
mod logs;
mod metadata;
mod nodes;
mod partitions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use abide_test_cluster::under_load::{Load, UnderLoad};
use abide_test_cluster::{Cluster, Options};
use serde_json::Value;
use tokio::sync::Mutex;

/// Clusters share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// How long what was asked for may take to come about.
const WITHIN: Duration = Duration::from_secs(120);

/// Three nodes with six partitions and more `config`; clients call through the first `ingresses` nodes.
async fn under_load(ingresses: usize, config: &str) -> UnderLoad {
    let options = Options {
        config: format!("default-num-partitions = 6\n{config}"),
        ..Options::default()
    };
    let load = Load {
        ingresses: Some(ingresses),
        clients: 2,
        pause: Duration::from_millis(40),
        progress: 30,
    };
    UnderLoad::with(Cluster::prepare(3, options), load).await
}

/// The id of each node, by its name: which one gets which hangs on the order in which they came.
async fn ids(cluster: &Cluster) -> BTreeMap<String, String> {
    let rows = cluster.operator(&["nodes", "list"]).await;
    let pairs = rows
        .iter()
        .map(|row| (text(&row["name"]), text(&row["node"])));
    pairs.collect()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(text).collect()
}

/// A command that looks answers people with a table or a text, and programs with objects; these are returned.
async fn looks(cluster: &Cluster, arguments: &[&str]) -> Vec<Value> {
    let shown = cluster.tool(1, arguments).await;
    assert_eq!(shown.code, Some(0), "{arguments:?}: {}", shown.stderr);
    assert!(!shown.stdout.is_empty(), "{arguments:?} shows nothing");
    assert!(
        !shown.stdout.starts_with('{'),
        "{arguments:?}: {}",
        shown.stdout
    );
    cluster.operator(arguments).await
}

/// A command is refused with this code and a reason with these words, whether people or programs ask.
async fn refused(cluster: &Cluster, arguments: &[&str], code: i32, words: &str) {
    for json in [false, true] {
        let mut arguments = arguments.to_vec();
        arguments.extend(json.then_some("--json"));
        let output = cluster.tool(0, &arguments).await;
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains(words),
            "{arguments:?} does not say '{words}': {}",
            output.stderr
        );
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(
            output.stderr.contains("error:"),
            "{arguments:?}: {}",
            output.stderr
        );
    }
}

/// Asks until the answer is as it should be.
async fn until(
    cluster: &Cluster,
    arguments: &[&str],
    what: &str,
    is_so: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let rows = cluster.try_operator(arguments).await;
        if let Ok(rows) = &rows
            && is_so(rows)
        {
            return rows.clone();
        }
        assert!(Instant::now() < deadline, "not {what}: {rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
