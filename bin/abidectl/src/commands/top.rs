//! `abidectl top`: what the nodes do, over and over.
//!
//! Nodes tell counts; a rate is the difference of two looks by the time between them as the node measured it. A node
//! that was started anew in between has none yet.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use abide_rpc::proto::cluster::{ClusterStatus, NodeEntry, NodeLoad};
use serde_json::{Value, json};

use crate::cli;
use crate::client::Node;
use crate::commands::partitions;
use crate::failure::Failure;
use crate::output::{self, json_lines, node, or_dash, table};

/// Clears the screen and goes to its first place.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows the load until it is interrupted, or once.
pub(crate) async fn run(asked: &Node, options: &cli::Top, json: bool) -> Result<String, Failure> {
    let interval = Duration::from_millis(options.interval);
    let mut before = asked.describe_with_load().await?;
    let redraws = !json && io::stdout().is_terminal();
    loop {
        tokio::time::sleep(interval).await;
        let now = asked.describe_with_load().await?;
        let text = show(&before, &now, json);
        // A pipe gets one look after the other, too, unless it wants a single one.
        if options.once {
            return Ok(text);
        }
        output::print(&match redraws {
            true => format!("{CLEAR}{text}"),
            false => format!("{text}\n"),
        })?;
        before = now;
    }
}

/// What happened a second.
struct Rates {
    invocations: f64,
    requests: f64,
    attempts: f64,
    failures: f64,
    records: f64,
    cpu_percent: f64,
}

fn loads(cluster: &ClusterStatus) -> BTreeMap<(u32, u32), NodeLoad> {
    let load = |node: &NodeEntry| {
        let status = node.status.as_ref()?;
        Some(((node.node, status.generation), status.load?))
    };
    cluster.nodes.iter().filter_map(load).collect()
}

fn rates(before: Option<&NodeLoad>, now: &NodeLoad) -> Option<Rates> {
    let before = before?;
    let millis = now
        .uptime_ms
        .checked_sub(before.uptime_ms)
        .filter(|millis| *millis > 0)?;
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let per_second =
        |now: u64, before: u64| now.saturating_sub(before) as f64 * 1000.0 / millis as f64;
    Some(Rates {
        invocations: per_second(now.invocations_completed, before.invocations_completed),
        requests: per_second(now.ingress_requests, before.ingress_requests),
        attempts: per_second(now.attempts_started, before.attempts_started),
        failures: per_second(now.attempts_failed, before.attempts_failed),
        records: per_second(now.log_records, before.log_records),
        cpu_percent: per_second(now.cpu_ms, before.cpu_ms) / 10.0,
    })
}

struct Row<'a> {
    entry: &'a NodeEntry,
    load: Option<NodeLoad>,
    rates: Option<Rates>,
    leads: Option<usize>,
    lag: Option<u64>,
}

fn rows<'a>(before: &ClusterStatus, now: &'a ClusterStatus) -> Vec<Row<'a>> {
    let (before, loads) = (loads(before), loads(now));
    let row = |entry: &'a NodeEntry| {
        let status = entry.status.as_ref();
        let key = (entry.node, status.map_or(0, |status| status.generation));
        let load = loads.get(&key).copied();
        let leads = status.map(|status| {
            let held = status.replicas.iter();
            held.filter(|replica| replica.role == "leader").count()
        });
        let lag = status.map(|status| status.replicas.iter().map(partitions::lag).max());
        Row {
            entry,
            load,
            rates: load.and_then(|load| rates(before.get(&key), &load)),
            leads,
            lag: lag.flatten(),
        }
    };
    now.nodes.iter().map(row).collect()
}

fn show(before: &ClusterStatus, now: &ClusterStatus, json: bool) -> String {
    let rows = rows(before, now);
    if json {
        return json_lines(rows.iter().map(object));
    }
    let all = |of: fn(&Rates) -> f64| -> f64 {
        rows.iter()
            .filter_map(|row| row.rates.as_ref())
            .map(of)
            .sum()
    };
    let in_flight: u64 = (rows.iter())
        .filter_map(|row| row.load.map(|load| load.invocations_invoked))
        .sum();
    let serious = (now.problems.iter())
        .filter(|problem| problem.severity != "notice")
        .count();
    let header = [
        "NODE",
        "NAME",
        "LEADS",
        "INV/S",
        "REQ/S",
        "ATT/S",
        "FAIL/S",
        "REC/S",
        "INVOKED",
        "RUNNING",
        "LAG",
        "APPEND-P50",
        "APPEND-P99",
        "MEMORY",
        "CPU",
    ];
    format!(
        "cluster {}: {:.0} invocations a second, {in_flight} in flight, {} of {} partitions active, {}\n\n{}",
        now.cluster_name,
        all(|rates| rates.invocations),
        partitions::active(now),
        now.partitions_count,
        match serious {
            0 => "no problems".to_owned(),
            some => format!("{some} problems: see `abidectl status`"),
        },
        table(&header, rows.iter().map(cells)),
    )
}

fn cells(row: &Row<'_>) -> Vec<String> {
    let rate = |of: fn(&Rates) -> f64| {
        or_dash(row.rates.as_ref().map(|rates| format!("{:.0}", of(rates))))
    };
    let load = |of: fn(&NodeLoad) -> u64| or_dash(row.load.as_ref().map(of));
    vec![
        node(row.entry.node),
        row.entry.name.clone(),
        or_dash(row.leads),
        rate(|rates| rates.invocations),
        rate(|rates| rates.requests),
        rate(|rates| rates.attempts),
        rate(|rates| rates.failures),
        rate(|rates| rates.records),
        load(|load| load.invocations_invoked),
        load(|load| load.attempts_running),
        or_dash(row.lag),
        or_dash(row.load.map(|load| micros(load.append_p50_us))),
        or_dash(row.load.map(|load| micros(load.append_p99_us))),
        or_dash(
            row.load
                .map(|load| format!("{} MiB", load.resident_bytes >> 20)),
        ),
        or_dash(
            row.rates
                .as_ref()
                .map(|rates| format!("{:.0} %", rates.cpu_percent)),
        ),
    ]
}

/// `850 us`, `4.2 ms`.
fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        _ => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
    }
}

fn object(row: &Row<'_>) -> Value {
    let rate = |of: fn(&Rates) -> f64| {
        row.rates
            .as_ref()
            .map(|rates| (of(rates) * 10.0).round() / 10.0)
    };
    let load = |of: fn(&NodeLoad) -> u64| row.load.as_ref().map(of);
    json!({
        "node": node(row.entry.node),
        "name": row.entry.name,
        "liveness": row.entry.liveness,
        "leads": row.leads,
        "invocations_per_second": rate(|rates| rates.invocations),
        "requests_per_second": rate(|rates| rates.requests),
        "attempts_per_second": rate(|rates| rates.attempts),
        "failures_per_second": rate(|rates| rates.failures),
        "records_per_second": rate(|rates| rates.records),
        "cpu_percent": rate(|rates| rates.cpu_percent),
        "invocations_invoked": load(|load| load.invocations_invoked),
        "attempts_running": load(|load| load.attempts_running),
        "invocations_completed_total": load(|load| load.invocations_completed),
        "lag_records": row.lag,
        "append_p50_us": load(|load| load.append_p50_us),
        "append_p99_us": load(|load| load.append_p99_us),
        "resident_bytes": load(|load| load.resident_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples;
    use expect_test::expect;

    fn at(uptime_ms: u64, invocations: u64) -> ClusterStatus {
        let mut cluster = samples::cluster();
        if let Some(status) = &mut cluster.nodes[0].status {
            status.load = Some(NodeLoad {
                uptime_ms,
                invocations_completed: invocations,
                invocations_invoked: 7,
                attempts_running: 5,
                append_p50_us: 850,
                append_p99_us: 4_210,
                resident_bytes: 64 << 20,
                cpu_ms: uptime_ms / 2,
                ..NodeLoad::default()
            });
        }
        cluster
    }

    #[test]
    fn rates_are_differences_by_the_nodes_own_clock() {
        expect![[r#"
            cluster local: 50 invocations a second, 7 in flight, 1 of 2 partitions active, no problems

            NODE  NAME   LEADS  INV/S  REQ/S  ATT/S  FAIL/S  REC/S  INVOKED  RUNNING  LAG  APPEND-P50  APPEND-P99  MEMORY  CPU
            N1    node1  1      50     0      0      0       0      7        5        3    850 us      4.2 ms      64 MiB  50 %
            N2    node2  0      -      -      -      -       -      -        -        33   -           -           -       -
            N3    node3  -      -      -      -      -       -      -        -        -    -           -           -       -
        "#]]
        .assert_eq(&show(&at(1000, 100), &at(3000, 200), false));
    }

    #[test]
    fn a_node_that_started_anew_has_no_rates_yet() {
        let mut now = at(10, 3);
        if let Some(status) = &mut now.nodes[0].status {
            status.generation += 1;
        }
        let text = show(&at(1000, 100), &now, true);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains("\"invocations_per_second\":null"), "{first}");
        assert!(
            first.contains("\"invocations_completed_total\":3"),
            "{first}"
        );
    }
}
