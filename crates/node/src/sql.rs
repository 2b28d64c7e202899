//! The query engine behind the admin API, and the cluster that it shows.

use std::sync::Arc;

use abide_admin::{Sql, SqlError, SqlFormat, SqlRows};
use abide_query::{Cluster, Format, QueryEngine, QueryError};
use abide_rpc::proto::cluster::{ClusterStatus, LogEntry};
use async_trait::async_trait;
use futures::stream;

use crate::cluster_service::ask_all;
use crate::describe;
use crate::facts::{Facts, Member};

/// Runs queries for the admin API.
pub(crate) struct Queries(pub(crate) QueryEngine);

#[async_trait]
impl Sql for Queries {
    async fn query(&self, text: String, format: SqlFormat) -> Result<SqlRows, SqlError> {
        let format = match format {
            SqlFormat::Json => Format::Json,
            SqlFormat::Arrow => Format::Arrow,
        };
        let answer = self.0.query(text, format).await.map_err(told)?;
        Ok(Box::pin(stream::unfold(answer, |mut answer| async move {
            let piece = answer.next().await?;
            Some((piece.map_err(told), answer))
        })))
    }
}

fn told(error: QueryError) -> SqlError {
    let message = error.to_string();
    match error {
        QueryError::Refused(_) => SqlError::Refused(message),
        QueryError::Failed(_) | QueryError::TimedOut(_) => SqlError::Failed(message),
        QueryError::Overloaded(_) => SqlError::Overloaded(message),
        QueryError::Unavailable(_) => SqlError::Unavailable(message),
    }
}

/// The cluster as this node sees it.
pub(crate) struct Seen(pub(crate) Arc<Facts>);

impl Seen {
    fn member(&self) -> Result<&Member, String> {
        let member = self.0.member.get();
        member.ok_or_else(|| self.0.awaits().to_string())
    }
}

#[async_trait]
impl Cluster for Seen {
    async fn describe(&self) -> Result<ClusterStatus, String> {
        let member = self.member()?;
        let answers = ask_all(member).await;
        Ok(describe::cluster(&self.0, member, answers))
    }

    async fn logs(&self) -> Result<Vec<LogEntry>, String> {
        let member = self.member()?;
        let answers = ask_all(member).await;
        Ok(describe::log_entries(
            &member.metadata.view(),
            &[],
            &answers,
        ))
    }

    fn config(&self) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        match serde_json::to_value(&*self.0.config) {
            Ok(tree) => flatten(String::new(), &tree, &mut settings),
            Err(error) => tracing::error!(%error, "the configuration cannot be shown"),
        }
        settings
    }
}

/// Whether a value must not be shown to everybody who may run queries.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 8] = [
        "password",
        "secret",
        "token",
        "credential",
        "header",
        "jaas",
        "private",
        // Its address may hold a password.
        "http-proxy",
    ];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

fn flatten(name: String, value: &serde_json::Value, settings: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (member, value) in members {
                let name = match name.is_empty() {
                    true => member.clone(),
                    false => format!("{name}.{member}"),
                };
                flatten(name, value, settings);
            }
        }
        // Names alone tell that they are set.
        _ if is_secret(&name) => settings.push((name, "[hidden]".to_owned())),
        serde_json::Value::String(text) => settings.push((name, text.clone())),
        value => settings.push((name, value.to_string())),
    }
}
