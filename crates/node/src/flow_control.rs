//! The rule book and the counters of scopes, for queries.

use abide_metadata::{Metadata, keys};
use abide_processor::Router;
use abide_processor::flow::{FlowState, LevelState};
use abide_query::{FlowControl, Rule, UserLimit};
use abide_schema::RuleBook;
use abide_types::{Timestamp, partition_range};
use async_trait::async_trait;

/// Rules are read from the metadata as this node sees it, counters from the leaders of the partitions.
pub(crate) struct Limits {
    pub(crate) metadata: Metadata,
    pub(crate) partitions: Router,
}

#[async_trait]
impl FlowControl for Limits {
    async fn rules(&self) -> Result<Vec<Rule>, String> {
        let view = self.metadata.view();
        let Some(stored) = view.raw(keys::LIMITS) else {
            return Ok(Vec::new());
        };
        let book = RuleBook::from_json(&stored.value).map_err(|error| error.to_string())?;
        let rules = book.rules().map(|(pattern, rule)| Rule {
            pattern: pattern.to_string(),
            concurrency: rule.concurrency.map(Into::into),
            description: rule.description.clone(),
            disabled: rule.disabled,
            version: u32::try_from(rule.version).unwrap_or(u32::MAX),
            last_modified: Some(Timestamp(rule.modified_at)),
        });
        Ok(rules.collect())
    }

    async fn user_limits(&self) -> Result<Vec<UserLimit>, String> {
        let states = self.queues().await?;
        let count = u16::try_from(states.len()).unwrap_or(u16::MAX);
        Ok(states
            .into_iter()
            .flat_map(|state| limits(state, count))
            .collect())
    }

    async fn queues(&self) -> Result<Vec<FlowState>, String> {
        let states = self.partitions.flow().await;
        states.map_err(|error| error.to_string())
    }
}

fn limits(state: FlowState, partitions: u16) -> Vec<UserLimit> {
    let partition_key = partition_range(state.partition, partitions).start().0;
    let levels = state.levels.into_iter();
    levels.map(|level| limit(partition_key, level)).collect()
}

fn limit(partition_key: u64, state: LevelState) -> UserLimit {
    let mut names = state.name.split('/').map(str::to_owned);
    let scope = names.next().unwrap_or_default();
    let (l1, l2) = (names.next(), names.next());
    let level = match (&l1, &l2) {
        (None, _) => "Scope",
        (Some(_), None) => "Level1",
        (Some(_), Some(_)) => "Level2",
    };
    let (concurrency_limit, rule_pattern) = state.limit.unzip();
    UserLimit {
        partition_key,
        scope,
        l1,
        l2,
        level,
        usage: state.running,
        concurrency_limit,
        rule_pattern,
        available: concurrency_limit.map(|limit| limit.saturating_sub(state.running)),
        num_waiters: state.blocked.into(),
    }
}
