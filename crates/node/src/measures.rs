//! Prometheus metrics: the recorder, and the gauges that are taken when somebody looks.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use abide_admin::MetricsText;
use abide_config::Config;
use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use tokio_util::sync::CancellationToken;

use crate::describe;
use crate::facts::Facts;

/// What summaries show.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Takes in from now on what is counted. A process has one recorder: that of its first node.
pub(crate) fn install(config: &Config) -> Result<PrometheusHandle, BuildError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .add_global_label("cluster_name", &config.cluster_name)
        .add_global_label("node_name", &config.node_name)
        .set_quantiles(&QUANTILES)?
        .install_recorder()?;
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// Writes all metrics, gauges brought up to date.
pub(crate) fn text(facts: &Arc<Facts>, prometheus: &PrometheusHandle) -> MetricsText {
    let (facts, prometheus) = (Arc::downgrade(facts), prometheus.clone());
    Arc::new(move || {
        if let Some(facts) = facts.upgrade() {
            refresh(&facts);
        }
        prometheus.render()
    })
}

/// Condenses what was measured also when nobody asks: samples would pile up.
pub(crate) async fn upkeep(prometheus: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => prometheus.run_upkeep(),
        }
    }
}

/// How often.
const UPKEEP: Duration = Duration::from_secs(5);

fn refresh(facts: &Facts) {
    let Some(member) = facts.member.get() else {
        return;
    };
    let status = describe::node(facts);
    let leads = |state: Option<&str>| {
        let led = status
            .replicas
            .iter()
            .filter(|replica| replica.role == "leader");
        led.filter(|replica| state.is_none_or(|state| replica.state == state))
            .count()
    };
    let view = member.metadata.view();
    let partitions = view
        .cluster
        .as_ref()
        .map_or(0, |cluster| cluster.partitions);
    gauge!("restate_num_partitions").set(f64::from(partitions));
    gauge!("restate_num_active_partitions").set(count(status.replicas.len()));
    gauge!("restate_num_active_partition_leaders").set(count(leads(Some("active"))));
    for replica in &status.replicas {
        let lag = replica.tail.saturating_sub(replica.applied + 1);
        let partition = replica.partition.to_string();
        gauge!("restate_partition_applied_lsn_lag", "partition" => partition).set(number(lag));
    }
    let mut nodes = BTreeMap::from([("alive", 0), ("suspect", 0), ("dead", 0)]);
    for health in member.controller.health().borrow().values() {
        *nodes.entry(health.name()).or_default() += 1;
    }
    for (state, nodes) in nodes {
        gauge!("restate_failure_detector_nodes_total", "state" => state).set(count(nodes));
    }
    if let Some(server) = &member.log_server {
        let full = server.status().is_full;
        gauge!("abide_log_server_disk_full").set(f64::from(u8::from(full)));
    }
    if let Some(server) = &status.metadata_server {
        gauge!("restate_metadata_server_replicated_leader_id").set(f64::from(server.leader));
        gauge!("restate_metadata_server_replicated_term").set(number(server.term));
        gauge!("restate_metadata_server_replicated_applied_lsn").set(number(server.applied));
        gauge!("restate_metadata_server_replicated_committed_lsn").set(number(server.last_log));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; positions stay below 2^53"
)]
fn number(value: u64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    number(value as u64)
}
